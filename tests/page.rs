//! The web page, in a real browser, and who may use it.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use rstest::rstest;

use crate::support::{
    App,
    Database::Sqlite,
    certificates::private_file,
    http,
    issuer::{Issuer, SigningKey},
    latchkey::Killed,
    tools, until,
};

const INSTALL_CHROMIUM: &str = "install Chromium: apt-get install chromium";

/// Runs a walk of tests/page/walks.mjs, which says what it expects.
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
        "forgery",
        "accessible"
    )]
    walk: &'static str,
) {
    let app = App::start(Sqlite).await;
    let folder = scripts();
    // Looked at by people when the page changes: UPDATE=1 scripts/test accessible
    let pictures = if std::env::var_os("UPDATE").is_some() {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/page")
    } else {
        folder.path().join("pictures")
    };
    run(&folder, &app, walk, &pictures).await;
    if walk == "accessible" {
        for name in ["list-light-wide", "form-dark-narrow", "token-light-narrow", "dialog-dark-wide"] {
            assert!(pictures.join(format!("{name}.png")).is_file(), "{name}");
        }
    }
}

/// A folder with the scripts and the packages that they need.
fn scripts() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["walks.mjs", "provider.mjs"] {
        std::fs::copy(Path::new("tests/page").join(name), folder.path().join(name)).unwrap();
    }
    std::os::unix::fs::symlink(tools::node_modules(), folder.path().join("node_modules")).unwrap();
    folder
}

async fn run(folder: &tempfile::TempDir, app: &App, walk: &str, pictures: &Path) {
    let mut node = Command::new(tools::find("node", tools::INSTALL_NODE));
    node.env("CHROMIUM", tools::find("chromium", INSTALL_CHROMIUM));
    node.arg(folder.path().join("walks.mjs")).args([&app.http_addr.to_string(), walk]).arg(pictures);
    let output = tokio::task::spawn_blocking(move || node.output().unwrap()).await.unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success() && out == "done\n", "{out}{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_log_in_and_out_with_an_openid_provider() {
    let folder = scripts();
    let secret = "a secret of the client + 100 %";
    let [http, provider] = [tools::free_port(), tools::free_port()];
    let url = format!("http://127.0.0.1:{http}");
    let mut node = Command::new(tools::find("node", tools::INSTALL_NODE));
    node.arg(folder.path().join("provider.mjs")).args([&provider.to_string(), &url, secret]);
    let _provider = Killed(node.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    until("the provider", || async {
        let metadata = "GET /.well-known/openid-configuration";
        http::try_send(([127, 0, 0, 1], provider).into(), metadata, &[], b"").await
    })
    .await;
    let file = private_file(folder.path(), "secret", secret);
    let app = App::start_with(
        Sqlite,
        &[
            "--http-addr",
            &format!("127.0.0.1:{http}"),
            "--page-url",
            &url,
            "--page-oidc-issuer",
            &format!("http://127.0.0.1:{provider}"),
            "--page-oidc-client-id",
            "latchkey",
            "--page-oidc-client-secret-file",
            file.to_str().unwrap(),
            "--page-max-age",
            "2s",
        ],
    )
    .await;
    run(&folder, &app, "login", folder.path()).await;
    assert_eq!(app.count("token_events WHERE actor = 'user:alice'").await, 1);
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
            status == 409 && page.contains("already created") && !page.contains("pat_"),
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
        ("another", "You have 1 tokens, as many as are allowed", 409),
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
