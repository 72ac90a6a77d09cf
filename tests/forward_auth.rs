//! `/verify` alone, and behind real gateways that are started from the files in examples/gateways/.

use std::{
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use rstest::rstest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{
    App,
    Database::Sqlite,
    certificates::{Authority, Validity},
    gateway::{Gateway, Kind, Service, arrived},
    http,
    latchkey::{self, Process},
    soon, tools, until,
};

const IDENTITY: [&str; 3] = ["x-latchkey-user-id", "x-latchkey-token-id", "x-latchkey-scopes"];

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[tokio::test]
async fn verify_answers_each_token_with_its_status_and_all_identity_headers() {
    let app = App::start(Sqlite).await;
    let (id, secret) = app.issue_for("älice", &["read", "write"]).await;
    let (_, bare) = app.issue_for("bob", &[]).await;
    let (gone_id, gone) = app.issue_for("carol", &[]).await;
    app.delete("carol", &gone_id).await.unwrap();
    let good = format!("Bearer {secret}");
    let verify = async |path: &str, tokens: &[&str]| {
        let headers: Vec<_> = tokens.iter().map(|token| ("authorization", *token)).collect();
        let (status, head, body) = http::send(app.http_addr, path, &headers, b"").await;
        let identity = IDENTITY.map(|name| header(&head, name).map(str::trim).map(str::to_owned));
        assert!(identity.iter().all(Option::is_some), "{head}");
        assert_eq!(header(&head, "cache-control"), Some("no-store"));
        assert_eq!(body, "");
        let challenge = header(&head, "www-authenticate").unwrap_or_default().to_owned();
        (status, identity.map(Option::unwrap), challenge)
    };
    for path in ["GET /verify", "POST /verify/any/path?x=1", "DELETE /verify?scope=read&scope=write"] {
        let (status, identity, challenge) = verify(path, &[&good]).await;
        let expected = ["älice", &id, "read write"].map(str::to_owned);
        assert_eq!((status, identity, challenge.as_str()), (200, expected, ""), "{path}");
    }
    let empty = || ["", "", ""].map(str::to_owned);
    assert_eq!(verify("GET /verify", &[]).await, (401, empty(), "bearer".into()));
    for tokens in [
        &["Bearer nonsense"][..],
        &[&format!("Bearer {gone}")],
        &[&good, &good],
        &[&format!("{good}, {good}")],
        &["Basic YTpi"],
    ] {
        let refused = (401, empty(), "bearer error=\"invalid_token\"".into());
        assert_eq!(verify("GET /verify", tokens).await, refused, "{tokens:?}");
    }
    // A token in the query is not taken.
    assert_eq!(verify(&format!("GET /verify?access_token={secret}"), &[]).await.0, 401);
    let (status, identity, challenge) = verify("GET /verify?scope=write", &[&format!("Bearer {bare}")]).await;
    assert_eq!((status, identity), (403, empty()));
    assert_eq!(challenge, "bearer error=\"insufficient_scope\", scope=\"write\"");
    let (status, ..) =
        http::send(app.http_addr, "GET /verify?scope=NOT%20A+SCOPE!", &[("authorization", &good)], b"").await;
    assert_eq!(status, 400);
}

/// The ways to write a header with dashes and underscores, in lower case and as most clients do.
fn spellings(name: &str) -> Vec<String> {
    let words: Vec<_> = name.split('-').collect();
    let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
    let with = |choice: usize, words: &[String]| {
        let mut text = words[0].clone();
        for (index, word) in words[1..].iter().enumerate() {
            text.push(if choice & (1 << index) == 0 { '-' } else { '_' });
            text.push_str(word);
        }
        text
    };
    let lower: Vec<_> = words.iter().map(|word| word.to_string()).collect();
    let upper: Vec<_> = words.iter().map(|word| capital(word)).collect();
    (0..1 << (words.len() - 1)).flat_map(|choice| [with(choice, &lower), with(choice, &upper)]).collect()
}

/// Returns the service that a gateway is to ask: the app, or another replica with TLS for Apache, which asks no other.
fn service(kind: Kind, app: &App) -> (Service, Option<Process>) {
    if kind != Kind::Apache {
        return (Service { grpc: app.grpc_addr, http: app.http_addr, ca: None }, None);
    }
    let authority = Authority::new();
    authority.server(Validity::Now).write(app.folder.path());
    let settings = ["--database-url", &app.url, "--tls-cert", "tls.crt", "--tls-key", "tls.key"];
    let replica = Process::start(app.folder.path(), &settings);
    (Service { grpc: replica.grpc_addr, http: replica.http_addr, ca: Some(authority.pem()) }, Some(replica))
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_lets_only_good_tokens_through_and_hands_on_who_it_is(
    #[values(Kind::Nginx, Kind::Caddy, Kind::Traefik, Kind::Envoy, Kind::Apache)] kind: Kind,
) {
    let app = App::start(Sqlite).await;
    let (id, secret) = app.issue_for("alice", &["read"]).await;
    let (_, writer) = app.issue_for("writer", &["write"]).await;
    let (_, leaver) = app.issue_for("leaver", &[]).await;
    let (service, replica) = service(kind, &app);
    let gateway = Gateway::start(kind, &service).await;
    let send = async |path: &str, headers: &[(&str, &str)], body: &[u8]| {
        http::send(gateway.addr, path, headers, body).await
    };
    let bearer = |secret: &str| format!("Bearer {secret}");
    let (good, writer, leaver) = (bearer(&secret), bearer(&writer), bearer(&leaver));

    // Forged identity headers, in every spelling, are overwritten or removed.
    let spellings: Vec<_> = IDENTITY.into_iter().flat_map(spellings).collect();
    let mut forged = vec![("authorization", good.as_str())];
    forged.extend(spellings.iter().map(|name| (name.as_str(), "mallory")));
    let (status, _, body) = send("GET /items", &forged, b"").await;
    let headers = arrived(&body).unwrap_or_else(|| panic!("{status}: {body}"));
    let expected = ["alice", &id, "read"];
    for (name, expected) in IDENTITY.into_iter().zip(expected) {
        assert_eq!(headers.get(name).map(String::as_str), Some(expected), "{kind:?} {headers:?}");
    }
    assert!(!body.contains("mallory"), "{kind:?} {body}");

    // A large body arrives whole.
    let (_, _, body) = send("POST /items", &[("authorization", &good)], &[b'x'; 1 << 20]).await;
    assert_eq!(arrived(&body).unwrap()["length"], (1 << 20).to_string());

    // So does a WebSocket, if the token is good.
    let mut socket =
        http::upgrade(gateway.addr, "/socket", &[("authorization", &good)]).await.expect("the upgrade");
    socket.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    soon("echo", socket.read_exact(&mut echo)).await.unwrap();
    assert_eq!(&echo, b"hello");
    let bad = [("authorization", "Bearer nonsense")];
    assert_eq!(http::upgrade(gateway.addr, "/socket", &bad).await.err(), Some(401), "{kind:?}");

    let double = [("authorization", good.as_str()), ("authorization", good.as_str())];
    let in_query = format!("GET /items?access_token={secret}");
    for (path, headers) in [
        ("GET /items", &[][..]),
        ("GET /items", &[("authorization", "Bearer nonsense")]),
        ("GET /items", &double),
        (&in_query, &[]),
    ] {
        let (status, head, body) = send(path, headers, b"").await;
        // nginx itself refuses a second Authorization header with 400.
        assert!(
            matches!(status, 400 | 401) && arrived(&body).is_none(),
            "{kind:?} {path} {headers:?}: {status} {body}"
        );
        assert!(status == 400 || head.contains("www-authenticate: bearer"), "{kind:?} {head}");
    }
    let (status, _, body) = send("POST /write/items", &[("authorization", &good)], b"x").await;
    assert!(status == 403 && arrived(&body).is_none(), "{kind:?} {status} {body}");
    let (_, _, body) = send("POST /write/items", &[("authorization", &writer)], b"x").await;
    assert_eq!(arrived(&body).unwrap()[IDENTITY[0]], "writer");

    // Envoy's access log has who it was.
    if kind == Kind::Envoy {
        until("the access log", || async {
            let output = gateway.output();
            (output.contains(r#""user":"alice""#) && output.contains(&format!(r#""token":"{id}""#)))
                .then_some(())
        })
        .await;
    }

    // A revocation holds for the next request.
    assert!(arrived(&send("GET /items", &[("authorization", &leaver)], b"").await.2).is_some());
    app.delete("alice", &id).await.unwrap();
    app.delete_user("leaver").await;
    for token in [&good, &leaver] {
        let (status, _, body) = send("GET /items", &[("authorization", token)], b"").await;
        assert!(status == 401 && arrived(&body).is_none(), "{kind:?} {status} {body}");
    }

    // Without Latchkey nothing gets through.
    drop(replica);
    app.server.stopper().cancel();
    soon("the stop", app.server.ended()).await.unwrap();
    let (status, _, body) = send("GET /items", &[("authorization", &writer)], b"").await;
    // Apache's module does not tell a token that is not valid from one that cannot be validated.
    let expected = if kind == Kind::Apache { 401..402 } else { 500..600 };
    assert!(expected.contains(&status) && arrived(&body).is_none(), "{kind:?} {status} {body}");
}

/// What the requests of a load saw.
#[derive(Default)]
struct Load {
    ended: AtomicBool,
    let_through: AtomicU64,
    refused: AtomicU64,
    bad_let_through: AtomicU64,
}

/// How many send requests at once.
const SENDERS: u64 = 3;

/// Sends requests with good tokens and bad ones in turn, until the load ends.
async fn run(load: &Load, gateway: &Gateway, good: &str) {
    while !load.ended.load(Ordering::Relaxed) {
        for token in [good, "Bearer nonsense"] {
            let Some((_, _, body)) =
                http::try_send(gateway.addr, "GET /items", &[("authorization", token)], b"").await
            else {
                continue;
            };
            let counter = match (arrived(&body).is_some(), token == good) {
                (true, true) => &load.let_through,
                (true, false) => &load.bad_let_through,
                (false, _) => &load.refused,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_stays_closed_while_latchkey_is_killed_under_load_and_opens_when_it_is_back(
    #[values(Kind::Nginx, Kind::Caddy, Kind::Traefik, Kind::Envoy, Kind::Apache)] kind: Kind,
) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.server(Validity::Now).write(folder.path());
    let ports = [tools::free_port(), tools::free_port()].map(|port| format!("127.0.0.1:{port}"));
    let mut settings = vec!["--grpc-addr", &ports[0], "--http-addr", &ports[1]];
    if kind == Kind::Apache {
        settings.extend(["--tls-cert", "tls.crt", "--tls-key", "tls.key"]);
    }
    let latchkey = Process::start(folder.path(), &settings);
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    let mut create = latchkey::command();
    create.current_dir(folder.path()).arg("token");
    if kind == Kind::Apache {
        create.args(["--server", &format!("https://{}", ports[0]), "--server-ca", "ca.pem"]);
    } else {
        create.args(["--server", &format!("http://{}", ports[0])]);
    }
    create.args(["create", "--user", "alice", "--name", "token", "--secret-only"]);
    let created = create.output().unwrap();
    let good = format!("Bearer {}", String::from_utf8(created.stdout).unwrap().trim());
    let service = Service {
        grpc: latchkey.grpc_addr,
        http: latchkey.http_addr,
        ca: (kind == Kind::Apache).then(|| authority.pem()),
    };
    let gateway = Gateway::start(kind, &service).await;
    let load = Load::default();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let walk = async {
        until("a request that is let through", || async { (count(&load.let_through) > 5).then_some(()) })
            .await;
        latchkey.kill();
        let (through, refused) = (count(&load.let_through), count(&load.refused));
        until("refusals", || async { (count(&load.refused) > refused + 20).then_some(()) }).await;
        // Each of the senders may have had a request that was checked before.
        assert!(count(&load.let_through) <= through + SENDERS, "{kind:?}");
        let _latchkey = Process::start(folder.path(), &settings);
        until("the way back", || async { (count(&load.let_through) > through + 5).then_some(()) }).await;
        load.ended.store(true, Ordering::Relaxed);
    };
    let senders = (0..SENDERS).map(|_| run(&load, &gateway, &good));
    tokio::join!(walk, futures_util::future::join_all(senders));
    assert_eq!(count(&load.bad_let_through), 0, "{kind:?}");
}

#[test]
fn configuration_that_is_not_run_says_so_and_fits_its_schema() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/gateways");
    for name in ["istio.yaml", "envoy-gateway.yaml", "kong.yaml", "apisix.yaml"] {
        let text = std::fs::read_to_string(examples.join(name)).unwrap();
        assert!(text.contains("Not run by the tests"), "{name}");
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy("tests/gateway_schemas/validate.mjs", folder.path().join("validate.mjs")).unwrap();
    std::os::unix::fs::symlink(tools::node_modules(), folder.path().join("node_modules")).unwrap();
    let validate = |files: &[&Path]| {
        let mut node = Command::new(tools::find("node", tools::INSTALL_NODE));
        let output = node.arg(folder.path().join("validate.mjs")).args(files).output().unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.success(), out, err)
    };
    let [istio, envoy] = ["istio.yaml", "envoy-gateway.yaml"].map(|name| examples.join(name));
    let (fits, out, err) = validate(&[&istio, &envoy]);
    assert!(fits, "{err}");
    assert_eq!(out, "valid: IstioOperator\nvalid: AuthorizationPolicy\nvalid: SecurityPolicy\n");
    // The check finds a mistake.
    let wrong = folder.path().join("wrong.yaml");
    let text = std::fs::read_to_string(&envoy).unwrap().replace("failOpen: false", "failOpen: never");
    std::fs::write(&wrong, text).unwrap();
    let (fits, _, err) = validate(&[&wrong]);
    assert!(!fits && err.contains("failOpen must be boolean"), "{err}");
}

#[test]
fn each_example_has_its_section_in_the_documentation() {
    let documentation = std::fs::read_to_string("docs/gateways.md").unwrap();
    for file in std::fs::read_dir("examples/gateways").unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(documentation.contains(&format!("(../examples/gateways/{name})")), "{name}");
    }
}
