//! The web page, in a real browser, and who may use it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use chrono::TimeDelta;
use latchkey::clock::Clock;
use rstest::rstest;
use tempfile::TempDir;

use crate::support::{
    App,
    Database::Sqlite,
    certificates::{Authority, Validity, private_file},
    gateway, http,
    issuer::{Issuer, SigningKey},
    latchkey::Killed,
    tools, until,
};

const INSTALL_CHROMIUM: &str = "install Chromium: apt-get install chromium";

/// Runs one walk of tests/page/walks.mjs, which has the assertions.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_creates_sees_and_deletes_tokens(
    #[values(
        "mouse",
        "keyboard",
        "without_javascript",
        "shown_once",
        "names",
        "meanwhile",
        "other_user",
        "forgery",
        "list",
        "light",
        "dark"
    )]
    walk: &'static str,
) {
    let walker = Walker::new();
    let settings = ["--last-used-interval", "1s"];
    let app = App::start_with_clock_and(Sqlite, Clock::manual(Clock::system().now()), &settings).await;
    walker.run(&app, walk, &[]).await;
    if walk == "light" {
        for name in ["list-light-large", "form-light-narrow", "token-light-narrow", "dialog-light-wide"] {
            assert!(walker.pictures.join(format!("{name}.png")).is_file(), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_product_gives_the_page_its_look_and_its_scopes() {
    let walker = Walker::new();
    let file = |name: &str, text: &str| {
        private_file(walker.folder.path(), name, text).into_os_string().into_string().unwrap()
    };
    let logo =
        file("logo.svg", "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 2 1' width='2' height='1'/>");
    let scopes = file(
        "scopes.toml",
        "\"repo:read\" = \"Read repositories\"\n\"repo:write\" = \"Change repositories\"\n",
    );
    let settings = [
        "--page-product",
        "Acme",
        "--page-logo",
        &logo,
        "--page-accent",
        "#ffcc00",
        "--page-back",
        "https://app.example.com/settings",
        "--page-api",
        "https://api.acme.example.com/",
        "--page-scopes",
        &scopes,
    ];
    let app = App::start_with(Sqlite, &settings).await;
    walker.run(&app, "branded", &[]).await;
    let (_, head, _) = http::send(app.http_addr, "GET /personal-api-tokens/logo", &[], b"").await;
    assert!(head.contains("content-type: image/svg+xml") && head.contains("; sandbox"), "{head}");
}

/// What runs the walks.
struct Walker {
    /// Has the scripts and the packages that they need.
    folder: TempDir,
    pictures: PathBuf,
}

impl Walker {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["walks.mjs", "provider.mjs"] {
            std::fs::copy(Path::new("tests/page").join(name), folder.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink(tools::node_modules(), folder.path().join("node_modules")).unwrap();
        // Looked at by people when the page changes: UPDATE=1 scripts/test light dark
        let pictures = if std::env::var_os("UPDATE").is_some() {
            Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/page")
        } else {
            folder.path().join("pictures")
        };
        Self { folder, pictures }
    }

    /// Runs a walk. It may have the clock advanced.
    async fn run(&self, app: &App, walk: &str, known: &[&str]) {
        let mut node = Command::new(tools::find("node", tools::INSTALL_NODE));
        node.env("CHROMIUM", tools::find("chromium", INSTALL_CHROMIUM));
        node.arg(self.folder.path().join("walks.mjs")).args([&app.http_addr.to_string(), walk]);
        node.arg(&self.pictures).args(known);
        let clock = app.clock.clone();
        let walk = tokio::task::spawn_blocking(move || {
            let mut node = Killed(
                node.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap(),
            );
            let mut answers = node.0.stdin.take().unwrap();
            let mut said = Vec::new();
            for line in BufReader::new(node.0.stdout.take().unwrap()).lines().map(Result::unwrap) {
                if let Some(seconds) = line.strip_prefix("advance ") {
                    clock.advance(TimeDelta::seconds(seconds.parse().unwrap()));
                    answers.write_all(b"advanced\n").unwrap();
                } else {
                    said.push(line);
                }
            }
            let mut error = String::new();
            node.0.stderr.take().unwrap().read_to_string(&mut error).unwrap();
            assert!(node.0.wait().unwrap().success() && said == ["done"], "{said:?} {error}");
        });
        walk.await.unwrap();
    }

    /// Starts an OpenID provider, and a service that people log in to with it.
    async fn with_provider(&self, clock: Clock, settings: &[&str]) -> (App, Killed) {
        let secret = "a secret of the client + 100 %";
        let [http, provider] = [tools::free_port(), tools::free_port()];
        let url = format!("http://127.0.0.1:{http}");
        let mut node = Command::new(tools::find("node", tools::INSTALL_NODE));
        node.arg(self.folder.path().join("provider.mjs")).args([&provider.to_string(), &url, secret]);
        let process = Killed(node.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        until("the provider", || async {
            let metadata = "GET /.well-known/openid-configuration";
            http::try_send(([127, 0, 0, 1], provider).into(), metadata, &[], b"").await
        })
        .await;
        let file = private_file(self.folder.path(), "secret", secret);
        let (addr, issuer) = (format!("127.0.0.1:{http}"), format!("http://127.0.0.1:{provider}"));
        let login = [
            "--http-addr",
            &addr,
            "--page-url",
            &url,
            "--page-oidc-issuer",
            &issuer,
            "--page-oidc-client-id",
            "latchkey",
            "--page-oidc-client-secret-file",
            file.to_str().unwrap(),
        ];
        (App::start_with_clock_and(Sqlite, clock, &[&login, settings].concat()).await, process)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_log_in_and_out_with_an_openid_provider() {
    let walker = Walker::new();
    let (app, _provider) = walker.with_provider(Clock::system(), &["--page-max-age", "5s"]).await;
    walker.run(&app, "login", &[]).await;
    assert_eq!(app.count("token_events WHERE actor = 'user:alice'").await, 1);
}

/// Anyone can open the page. While the provider does not answer, those who wait for it must leave places for gateways.
#[tokio::test]
async fn a_provider_that_hangs_does_not_keep_gateways_from_validating() {
    const PLACES: usize = 48;
    let folder = tempfile::tempdir().unwrap();
    // It accepts connections, and never answers.
    let provider = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", provider.local_addr().unwrap());
    let secret = private_file(folder.path(), "secret", "a secret of this client");
    let settings = [
        "--max-concurrent-requests",
        &PLACES.to_string(),
        "--page-url",
        "http://127.0.0.1:8080",
        "--page-oidc-issuer",
        &issuer,
        "--page-oidc-client-id",
        "latchkey",
        "--page-oidc-client-secret-file",
        secret.to_str().unwrap(),
    ];
    let app = App::start_with(Sqlite, &settings).await;
    let mut visits = tokio::task::JoinSet::new();
    for _ in 0..2 * PLACES {
        let addr = app.http_addr;
        visits.spawn(async move { http::send(addr, "GET /personal-api-tokens", &[], b"").await });
    }
    // Those who find no place to wait hear so at once; then the others are waiting.
    for _ in 0..PLACES {
        let (status, _, body) = visits.join_next().await.unwrap().unwrap();
        assert!(status == 503 && body.contains("cannot answer right now"), "{status} {body}");
    }
    assert_eq!(http::send(app.http_addr, "GET /verify", &[], b"").await.0, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_when_it_is_not_used_and_at_some_time_in_any_case() {
    let walker = Walker::new();
    let settings = ["--page-session-idle", "10m", "--page-session-longest", "1h"];
    let (app, _provider) = walker.with_provider(Clock::manual(Clock::system().now()), &settings).await;
    walker.run(&app, "session", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_products_that_are_named_show_the_page_in_a_frame() {
    let walker = Walker::new();
    let [page, product, other] = [tools::free_port(), tools::free_port(), tools::free_port()];
    let frames = format!("https://localhost:{product}");
    let proxied = Proxied::start(&["--page-frame-ancestors", &frames]).await;
    let folder = walker.folder.path();
    Authority::new().server(Validity::Now).write(folder);
    let embedding = format!(
        "ssl_certificate tls.crt; ssl_certificate_key tls.key; default_type text/html;
         location / {{ return 200 '<iframe src=https://127.0.0.1:{page}/personal-api-tokens width=900 height=700>'; }}"
    );
    let configuration = format!(
        "events {{}}
         http {{
             access_log off;
             server {{
                 listen 127.0.0.1:{page} ssl;
                 ssl_certificate tls.crt; ssl_certificate_key tls.key;
                 location / {{
                     proxy_pass http://{};
                     proxy_set_header Host $http_host;
                     proxy_set_header X-Forwarded-Access-Token {};
                 }}
             }}
             server {{ listen 127.0.0.1:{product} ssl; {embedding} }}
             server {{ listen 127.0.0.1:{other} ssl; {embedding} }}
         }}",
        proxied.app.http_addr,
        proxied.jwt("alice"),
    );
    std::fs::write(folder.join("nginx.conf"), configuration).unwrap();
    let _nginx = Killed(gateway::nginx(folder).stderr(Stdio::null()).spawn().unwrap());
    until("nginx", || async { tokio::net::TcpStream::connect(("127.0.0.1", page)).await.ok() }).await;
    let urls = [product, other].map(|port| format!("https://localhost:{port}/"));
    walker.run(&proxied.app, "framed", &[&urls[0], &urls[1]]).await;
}

/// A service behind a proxy that says by a JWT who the user is.
struct Proxied {
    app: App,
    issuer: Issuer,
    key: SigningKey,
    _folder: tempfile::TempDir,
}

impl Proxied {
    async fn start(settings: &[&str]) -> Self {
        let key = SigningKey::new("one");
        let issuer = Issuer::start(&[&key]).await;
        let folder = tempfile::tempdir().unwrap();
        let callers = folder.path().join("callers.toml");
        std::fs::write(&callers, format!("{}user_claim = \"sub\"\n", issuer.entry())).unwrap();
        let callers = callers.to_str().unwrap();
        let settings =
            [&["--callers", callers, "--page-jwt-header", "X-Forwarded-Access-Token"], settings].concat();
        Self { app: App::start_with(Sqlite, &settings).await, issuer, key, _folder: folder }
    }

    fn jwt(&self, user: &str) -> String {
        self.key.sign(&self.issuer.claims(user))
    }

    /// Sends a request with this header of the proxy and the form's cookie. Returns status, head and body.
    async fn send(&self, method_and_path: &str, jwt: Option<&str>, form: &str) -> (u16, String, String) {
        let cookie = format!("__Host-latchkey-form={KEY}");
        let mut headers =
            vec![("cookie", cookie.as_str()), ("content-type", "application/x-www-form-urlencoded")];
        headers.extend(jwt.map(|jwt| ("X-Forwarded-Access-Token", jwt)));
        http::send(self.app.http_addr, method_and_path, &headers, form.as_bytes()).await
    }

    /// Creates a token on the page, and returns the status and the page.
    async fn create(&self, user: &str, name: &str, request_id: &str) -> (u16, String) {
        let form = format!("key={KEY}&request_id={request_id}&name={name}&expiry=30");
        let (status, _, body) = self.send(NEW, Some(&self.jwt(user)), &form).await;
        (status, body)
    }
}

const NEW: &str = "POST /personal-api-tokens/new";
const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const REQUEST_IDS: [&str; 2] =
    ["5b3c8f0e-6d0b-4c1e-9a55-0f6c3b1d7e42", "5b3c8f0e-6d0b-4c1e-9a55-0f6c3b1d7e43"];

#[tokio::test]
async fn a_proxy_says_by_a_jwt_who_the_user_is_and_each_user_sees_and_deletes_the_own_tokens_only() {
    let proxied = Proxied::start(&[]).await;
    let (status, page) = proxied.create("alice", "hers", REQUEST_IDS[0]).await;
    assert!(status == 200 && page.contains("pat_"), "{status} {page}");
    let (status, page) = proxied.create("bob", "his", REQUEST_IDS[1]).await;
    assert!(status == 200 && page.contains("pat_"), "{status} {page}");
    let list =
        async |user: &str| proxied.send("GET /personal-api-tokens", Some(&proxied.jwt(user)), "").await.2;
    let (alice, bob) = (list("alice").await, list("bob").await);
    assert!(alice.contains("hers") && !alice.contains("his<"), "{alice}");
    assert!(bob.contains("his<") && !bob.contains("hers"), "{bob}");

    // Bob tries alice's token.
    let path = alice.split("href=\"").find(|part| part.contains("/delete")).unwrap();
    let path = path.split('"').next().unwrap();
    let form = format!("key={KEY}");
    let bobs = proxied.jwt("bob");
    assert_eq!(proxied.send(&format!("GET {path}"), Some(&bobs), "").await.0, 404);
    assert_eq!(proxied.send(&format!("POST {path}"), Some(&bobs), &form).await.0, 303);
    assert!(list("alice").await.contains("hers"));
    assert_eq!(proxied.send(&format!("POST {path}"), Some(&proxied.jwt("alice")), &form).await.0, 303);
    assert!(!list("alice").await.contains("hers"));
    // The audit log has the users.
    let actors = proxied.app.query("SELECT DISTINCT actor FROM token_events ORDER BY actor").await;
    let actors: Vec<String> = actors.iter().map(|row| row.try_get("", "actor").unwrap()).collect();
    assert_eq!(actors, ["user:alice", "user:bob"]);
}

#[tokio::test]
async fn a_jwt_of_another_key_or_none_opens_nothing() {
    let proxied = Proxied::start(&[]).await;
    let stranger = SigningKey::new("one").sign(&proxied.issuer.claims("alice"));
    let with_bearer = format!("Bearer {}", proxied.jwt("alice"));
    for (jwt, expected) in
        [(None, 401), (Some(stranger.as_str()), 401), (Some("nonsense"), 401), (Some(&with_bearer), 200)]
    {
        for path in ["GET /personal-api-tokens", "GET /personal-api-tokens/new"] {
            let (status, _, body) = proxied.send(path, jwt, "").await;
            assert_eq!(status, expected, "{jwt:?} {body}");
        }
    }
    let (status, ..) = proxied
        .send("POST /personal-api-tokens/user", Some(&with_bearer), &format!("key={KEY}&user=x"))
        .await;
    assert_eq!(status, 403, "only in development can a user be chosen");
}

#[tokio::test]
async fn a_form_that_is_sent_twice_makes_one_token_and_shows_it_once() {
    let proxied = Proxied::start(&[]).await;
    let (status, page) = proxied.create("alice", "once", REQUEST_IDS[0]).await;
    assert!(status == 200 && page.contains("pat_"));
    for name in ["once", "other"] {
        let (status, page) = proxied.create("alice", name, REQUEST_IDS[0]).await;
        assert!(
            status == 409 && page.contains("This form was sent before") && !page.contains("pat_"),
            "{status} {page}"
        );
    }
    assert_eq!(proxied.app.count("tokens").await, 1);
}

#[tokio::test]
async fn what_is_wrong_is_said_in_words_for_people_and_nothing_entered_is_lost() {
    let proxied = Proxied::start(&["--max-tokens-per-user", "1"]).await;
    proxied.create("alice", "taken", REQUEST_IDS[0]).await;
    for (name, problem, status) in [
        ("taken", "already have a token with this name", 409),
        ("another", "the limit of 1 active tokens", 409),
        ("ab", "too short", 422),
    ] {
        let (found, page) = proxied.create("alice", name, REQUEST_IDS[1]).await;
        assert!(found == status && page.contains(problem), "{name}: {found} {page}");
        assert!(page.contains(&format!("value=\"{name}\"")) && page.contains(REQUEST_IDS[1]), "{page}");
    }
}

#[tokio::test]
async fn pages_are_private_unframed_and_run_nothing_from_elsewhere() {
    let app = App::start(Sqlite).await;
    let (_, head, _) = http::send(app.http_addr, "GET /personal-api-tokens", &[], b"").await;
    for expected in [
        "default-src 'none'",
        "script-src 'nonce-",
        "frame-ancestors 'none'",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        "httponly; samesite=strict",
    ] {
        assert!(head.contains(expected), "{expected}: {head}");
    }
    let framed = ["--page-frame-ancestors", "https://app.example.com", "--page-product", "<Acme>"];
    let proxied = Proxied::start(&framed).await;
    let (_, head, body) = http::send(
        proxied.app.http_addr,
        "GET /personal-api-tokens",
        &[("X-Forwarded-Access-Token", &proxied.jwt("alice"))],
        b"",
    )
    .await;
    assert!(head.contains("frame-ancestors https://app.example.com"), "{head}");
    assert!(
        head.contains("__host-latchkey-form=") && head.contains("; secure; samesite=none; partitioned"),
        "{head}"
    );
    assert!(body.contains("&lt;Acme&gt;") && !body.contains("<Acme>"));
}

#[tokio::test]
async fn without_a_way_to_recognise_users_there_is_no_page() {
    let folder = tempfile::tempdir().unwrap();
    let callers = folder.path().join("callers.toml");
    let secret = crate::support::caller::SharedSecret::new();
    std::fs::write(&callers, secret.entry("gateway", "validator", "")).unwrap();
    let app = App::start_with(Sqlite, &["--callers", callers.to_str().unwrap()]).await;
    assert_eq!(http::send(app.http_addr, "GET /personal-api-tokens", &[], b"").await.0, 404);
}

#[tokio::test]
async fn a_user_is_chosen_only_at_an_address_of_this_machine() {
    let app = App::start(Sqlite).await;
    let cookie = format!("latchkey-form={KEY}; latchkey-user=victim");
    let port = app.http_addr.port();
    for (host, is_open) in [
        (format!("127.0.0.1:{port}"), true),
        (format!("localhost:{port}"), true),
        (format!("[::1]:{port}"), true),
        // A site that gives its name the address 127.0.0.1.
        (format!("evil.example.com:{port}"), false),
        (format!("127.0.0.1.example.com:{port}"), false),
        (format!("localhost.example.com:{port}"), false),
        (format!("192.0.2.1:{port}"), false),
    ] {
        let headers = [
            ("host", host.as_str()),
            ("cookie", cookie.as_str()),
            ("sec-fetch-site", "same-origin"),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        let request_id = uuid::Uuid::now_v7();
        let new = format!("key={KEY}&request_id={request_id}&name=token+{request_id}&expiry=30");
        let choice = format!("key={KEY}&user=victim");
        for (request, form, expected) in [
            ("GET /personal-api-tokens", "", 200),
            (NEW, new.as_str(), 200),
            ("POST /personal-api-tokens/user", choice.as_str(), 303),
        ] {
            let (status, _, body) = http::send(app.http_addr, request, &headers, form.as_bytes()).await;
            let expected = if is_open { expected } else { 403 };
            assert_eq!(status, expected, "{request} {host} {body}");
        }
    }
    assert_eq!(app.count("tokens").await, 3);
}
