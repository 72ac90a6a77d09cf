//! Who may call, and what each may do: what docs/security.md says of the callers file.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use ::latchkey::{
    caller::{POLICY, table},
    proto::latchkey::{
        CreateTokenRequest, DeleteTokenRequest, ListEventsRequest, ListTokensRequest, ValidateTokenRequest,
        audit_service_client::AuditServiceClient, validate_token_response::Outcome,
    },
};
use futures_util::stream;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt as _;

use crate::support::{
    App,
    Database::{self, Sqlite},
    app::FREE_PORTS,
    caller::{SharedSecret, tokens_as, with_bearer, write},
    client::create_request,
    http,
    issuer::{self, Issuer, SigningKey},
    latchkey::{self, Process},
    on_both_databases,
    status::reason,
    tools, until,
};
use rstest_reuse::apply;

/// A service with a callers file.
struct Guarded {
    app: App,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Guarded {
    async fn start(database: Database, callers: &str, settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("callers.toml");
        fs::write(&file, callers).unwrap();
        let settings = [&["--callers", file.to_str().unwrap()], settings].concat();
        let app = App::start_with(database, &settings).await;
        Self { app, file, _folder: folder }
    }

    fn channel(&self) -> &Channel {
        &self.app.channel
    }

    /// Calls an RPC with an empty message, and returns the code of the answer.
    async fn code(&self, path: &'static str, credential: Option<&str>) -> Code {
        let mut client = tonic::client::Grpc::new(with_bearer(self.channel(), credential));
        client.ready().await.unwrap();
        let messages = Request::new(stream::iter([()]));
        let codec = ProstCodec::<(), ()>::default();
        match client.streaming(messages, path.parse().unwrap(), codec).await {
            Ok(_) => Code::Ok,
            Err(status) => status.code(),
        }
    }
}

fn create(user: &str, scopes: &[&str]) -> CreateTokenRequest {
    let scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
    CreateTokenRequest { scopes, ..create_request(user, "token") }
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.unwrap_err();
    (status.code(), reason(&status))
}

#[test]
fn the_table_in_the_documentation_is_that_of_the_code() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/security.md")).unwrap();
    assert!(page.contains(&table()), "docs/security.md lacks this table:\n{}", table());
}

/// Whether an entry of the policy is an HTTP route.
fn is_route(name: &str) -> bool {
    !name.starts_with("/latchkey.v1.") && !name.starts_with("/grpc.")
}

/// The RPCs of a running service, as reflection lists them.
fn rpcs_of(guarded: &Guarded, credential: &str) -> Vec<String> {
    let grpcurl = tools::find("grpcurl", tools::INSTALL_GRPCURL);
    let (address, header) =
        (guarded.app.grpc_addr.to_string(), format!("authorization: Bearer {credential}"));
    let list = |service: Option<&str>| {
        let mut command = Command::new(&grpcurl);
        command.args(["-plaintext", "-H", &header, &address, "list"]).args(service);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let methods = list(None).lines().map(|service| list(Some(service))).collect::<String>();
    // grpcurl writes package.Service.Method.
    let parts = methods.lines().map(|name| name.rsplit_once('.').unwrap());
    parts.map(|(service, method)| format!("/{service}/{method}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rpc_is_in_the_table() {
    let secret = SharedSecret::new();
    let guarded = Guarded::start(Sqlite, &secret.entry("console", "manager", ""), &[]).await;
    let rpcs = rpcs_of(&guarded, &secret.secret);
    assert!(rpcs.len() >= 8, "{rpcs:?}");
    for rpc in &rpcs {
        assert!(POLICY.iter().any(|entry| entry.name == rpc), "{rpc} is not in the policy");
    }
    // Older versions of grpcurl list the older of the two versions of reflection.
    for entry in POLICY.iter().filter(|entry| !is_route(entry.name) && !entry.name.contains("reflection")) {
        assert!(rpcs.iter().any(|rpc| rpc == entry.name), "{} does not exist", entry.name);
    }
}

/// Calls every RPC and route as every kind of caller, and compares with the table in docs/security.md.
#[tokio::test]
async fn each_kind_of_caller_may_use_what_the_table_says_and_nothing_else() {
    let key = SigningKey::new("1");
    let issuer = Issuer::start(&[&key]).await;
    let roles = ["validator", "manager", "publisher", "admin"];
    let secrets = roles.map(|_| SharedSecret::new());
    let entries: String =
        roles.iter().zip(&secrets).map(|(role, secret)| secret.entry(role, role, "")).collect();
    let callers = format!("{}user_claim = \"sub\"\n{entries}", issuer.entry());
    let guarded = Guarded::start(Sqlite, &callers, &[]).await;

    let jwt = key.sign(&issuer.claims("alice"));
    let mut kinds = vec![None];
    kinds.extend(secrets.iter().map(|secret| Some(secret.secret.as_str())));
    kinds.push(Some(&jwt));
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/security.md")).unwrap();
    for endpoint in POLICY {
        let name = endpoint.name;
        let row = page.lines().find(|line| line.contains(&format!("`{name}`"))).unwrap();
        let cells: Vec<&str> = row.split('|').skip(2).map(str::trim).take(kinds.len()).collect();
        for (kind, cell) in kinds.iter().zip(cells) {
            let refused = if is_route(name) {
                let header =
                    if name.starts_with("/verify") { "x-latchkey-authorization" } else { "authorization" };
                let credential = kind.map(|credential| format!("Bearer {credential}"));
                let headers: Vec<_> = credential.iter().map(|value| (header, value.as_str())).collect();
                let path = format!("POST {}", name.replace('*', "some/path"));
                let (status, _, body) = http::send(guarded.app.http_addr, &path, &headers, b"").await;
                // /verify also answers 401 to a caller: then without a word, since the gateway hands the answer on.
                matches!(status, 401 | 403) && !body.is_empty()
            } else {
                let code = guarded.code(name, *kind).await;
                matches!(code, Code::Unauthenticated | Code::PermissionDenied)
            };
            assert_eq!(refused, cell.is_empty(), "{name} as {kind:?}: {row}");
        }
    }
    assert_eq!(
        guarded.code("/latchkey.v1.TokenService/Missing", Some(&secrets[1].secret)).await,
        Code::PermissionDenied
    );
    assert_eq!(guarded.code("/", None).await, Code::Unauthenticated);
}

#[tokio::test]
async fn credentials_are_refused_unless_there_is_exactly_one_good_one() {
    let (one, two) = (SharedSecret::new(), SharedSecret::new());
    let callers = one.entry("one", "manager", "") + &two.entry("two", "validator", "");
    let guarded = Guarded::start(Sqlite, &callers, &[]).await;
    let (good, other) = (format!("Bearer {}", one.secret), format!("Bearer {}", two.secret));
    let basic = |name: &str, secret: &str| {
        use base64::Engine as _;
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{name}:{secret}")))
    };
    let list = async |values: &[&str]| {
        let mut request = Request::new(ListTokensRequest { user_id: "alice".into(), ..Default::default() });
        for value in values {
            request.metadata_mut().append("authorization", value.parse().unwrap());
        }
        guarded.app.tokens().list_tokens(request).await.map(drop)
    };
    list(&[&good]).await.unwrap();
    list(&[&good.replace("Bearer", "bEARER")]).await.unwrap();
    list(&[&basic("one", &one.secret)]).await.unwrap();
    assert_eq!(refused(list(&[]).await), (Code::Unauthenticated, "NO_CREDENTIALS".into()));
    let bearer_token = {
        let mut client = tokens_as(guarded.channel(), &one.secret);
        client.create_token(create("alice", &[])).await.unwrap().into_inner().secret
    };
    for values in [
        &["Bearer nonsense"][..],
        &["Bearer "],
        &["nonsense"],
        &[&good[..good.len() - 1]],
        &[&basic("two", &one.secret)],
        &[&good, &other],
        &[&good, &good],
        &[&format!("{good},{good}")],
        // A personal API token is no credential for the management of tokens.
        &[&format!("Bearer {bearer_token}")],
    ] {
        assert_eq!(
            refused(list(values).await),
            (Code::Unauthenticated, "BAD_CREDENTIALS".into()),
            "{values:?}"
        );
    }
    assert_eq!(refused(list(&[&other]).await), (Code::PermissionDenied, "NOT_ALLOWED".into()));
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_user_manages_the_own_tokens_and_learns_nothing_of_others(database: Database) {
    let key = SigningKey::new("1");
    let issuer = Issuer::start(&[&key]).await;
    let manager = SharedSecret::new();
    let callers =
        format!("{}user_claim = \"sub\"\n{}", issuer.entry(), manager.entry("console", "manager", ""));
    let guarded = Guarded::start(database, &callers, &[]).await;
    let mut console = tokens_as(guarded.channel(), &manager.secret);
    console.create_token(create("bob", &[])).await.unwrap();

    let mut alice = tokens_as(guarded.channel(), &key.sign(&issuer.claims("alice")));
    let token = alice.create_token(create("", &[])).await.unwrap().into_inner().token.unwrap();
    assert_eq!(token.user_id, "alice");
    for user in ["", "alice"] {
        let request = ListTokensRequest { user_id: user.into(), ..Default::default() };
        assert_eq!(alice.list_tokens(request).await.unwrap().into_inner().tokens.len(), 1);
    }
    let mut words = Vec::new();
    for user in ["bob", "nobody"] {
        let user_id = || user.to_owned();
        let delete =
            DeleteTokenRequest { user_id: user_id(), token_id: token.id.clone(), allow_missing: true };
        for answer in [
            alice.list_tokens(ListTokensRequest { user_id: user_id(), ..Default::default() }).await.map(drop),
            alice.delete_token(delete).await.map(drop),
            alice.create_token(create(user, &[])).await.map(drop),
        ] {
            let status = answer.unwrap_err();
            assert_eq!((status.code(), reason(&status)), (Code::PermissionDenied, "NOT_ALLOWED".into()));
            words.push(status.message().to_owned());
        }
    }
    words.dedup();
    assert_eq!(words.len(), 1, "{words:?}");
    // For a manager an empty user id is still an error.
    let error = console.create_token(create("", &[])).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let delete = DeleteTokenRequest { user_id: String::new(), token_id: token.id, allow_missing: false };
    alice.delete_token(delete).await.unwrap();
    let rows = guarded.app.query("SELECT actor FROM token_events ORDER BY id").await;
    let actors: Vec<String> = rows.iter().map(|row| row.try_get("", "actor").unwrap()).collect();
    assert_eq!(actors, ["caller:console", "user:alice", "user:alice"]);
}

#[tokio::test]
async fn a_caller_may_be_limited_to_users_and_scopes() {
    let [all, manager, validator] = [(); 3].map(|()| SharedSecret::new());
    let limits = "users = [\"alice\"]\nscopes = [\"read\", \"write\"]";
    let callers = all.entry("all", "manager", "")
        + &manager.entry("some", "manager", limits)
        + &validator.entry("gateway", "validator", "users = [\"alice\"]");
    let guarded = Guarded::start(Sqlite, &callers, &[]).await;
    let mut some = tokens_as(guarded.channel(), &manager.secret);
    let good = some.create_token(create("alice", &["read"])).await.unwrap().into_inner().secret;
    for request in [create("alice", &["read", "admin"]), create("bob", &["read"])] {
        assert_eq!(refused(some.create_token(request).await), (Code::PermissionDenied, "NOT_ALLOWED".into()));
    }
    let mut all = tokens_as(guarded.channel(), &all.secret);
    let of_bob = all.create_token(create("bob", &[])).await.unwrap().into_inner().secret;
    let mut gateway = tokens_as(guarded.channel(), &validator.secret);
    let mut is_valid = async |secret: String| {
        let request = ValidateTokenRequest { secret: secret.into(), required_scopes: Vec::new() };
        matches!(gateway.validate_token(request).await.unwrap().into_inner().outcome, Some(Outcome::Valid(_)))
    };
    assert!(is_valid(good).await);
    assert!(!is_valid(of_bob).await);
}

#[tokio::test]
async fn a_changed_file_is_read_again_and_a_wrong_one_changes_nothing() {
    let (one, two) = (SharedSecret::new(), SharedSecret::new());
    let guarded = Guarded::start(Sqlite, &one.entry("one", "manager", ""), &[]).await;
    const LIST: &str = "/latchkey.v1.TokenService/ListTokens";
    let becomes = async |secret: &SharedSecret, code: Code| {
        until("the callers", || async {
            (guarded.code(LIST, Some(&secret.secret)).await == code).then_some(())
        })
        .await;
    };
    becomes(&one, Code::InvalidArgument).await;
    becomes(&two, Code::Unauthenticated).await;
    write(&guarded.file, &two.entry("two", "manager", ""));
    becomes(&two, Code::InvalidArgument).await;
    becomes(&one, Code::Unauthenticated).await;
    for wrong in ["[[caller]]\nname = \"x\"", "", "nonsense"] {
        write(&guarded.file, wrong);
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        becomes(&two, Code::InvalidArgument).await;
    }
    write(&guarded.file, &one.entry("one", "manager", ""));
    becomes(&one, Code::InvalidArgument).await;
}

#[tokio::test]
async fn creations_are_limited_by_user_and_by_caller() {
    let secret = SharedSecret::new();
    let settings = ["--max-creations-per-user", "3", "--max-creations-per-caller", "5"];
    let guarded = Guarded::start(Sqlite, &secret.entry("console", "manager", ""), &settings).await;
    let mut console = tokens_as(guarded.channel(), &secret.secret);
    let mut code = async |user: &str, n: usize| {
        let request = create_request(user, &format!("token {n}"));
        let answer = console.create_token(request).await;
        if let Err(status) = &answer {
            assert_eq!(reason(status), "TOO_FAST");
            let wait = status.get_details_retry_info().unwrap().retry_delay.unwrap();
            assert!(wait > Duration::ZERO && wait <= Duration::from_secs(60), "{wait:?}");
        }
        answer.err().map_or(Code::Ok, |status| status.code())
    };
    for n in 0..3 {
        assert_eq!(code("alice", n).await, Code::Ok);
    }
    assert_eq!(code("alice", 3).await, Code::ResourceExhausted);
    assert_eq!(code("bob", 0).await, Code::Ok);
    // The refused attempt counted for the caller too.
    assert_eq!(code("carol", 0).await, Code::ResourceExhausted);
}

#[tokio::test]
async fn wrong_credentials_are_limited_by_address_and_counted() {
    let secret = SharedSecret::new();
    let guarded = Guarded::start(Sqlite, &secret.entry("console", "manager", ""), &[]).await;
    const LIST: &str = "/latchkey.v1.TokenService/ListTokens";
    let mut codes = Vec::new();
    for _ in 0..80 {
        codes.push(guarded.code(LIST, Some("wrong")).await);
    }
    assert_eq!(codes[0], Code::Unauthenticated);
    assert_eq!(codes[79], Code::ResourceExhausted);
    // Who has a good credential is let in all the same, from the same address.
    assert_eq!(guarded.code(LIST, Some(&secret.secret)).await, Code::InvalidArgument);
    let counted = async |reason: &str| {
        guarded.app.metric(&format!("latchkey_requests_refused_total{{reason=\"{reason}\"}}")).await
    };
    let (bad, many) = (counted("bad_credentials").await, counted("too_many_failures").await);
    assert_eq!(bad + many, 80.0);
    assert!(bad >= 60.0 && many > 0.0);
}

#[apply(on_both_databases)]
#[tokio::test]
async fn the_audit_log_is_listed_page_by_page(database: Database) {
    let (manager, admin) = (SharedSecret::new(), SharedSecret::new());
    let callers = manager.entry("console", "manager", "") + &admin.entry("auditor", "admin", "");
    let guarded = Guarded::start(database, &callers, &[]).await;
    let mut console = tokens_as(guarded.channel(), &manager.secret);
    for n in 0..5 {
        for user in ["alice", "bob"] {
            console.create_token(create_request(user, &format!("token {n}"))).await.unwrap();
        }
    }
    let mut auditor = AuditServiceClient::new(with_bearer(guarded.channel(), Some(&admin.secret)));
    let mut pages = async |user: &str| {
        let mut request = ListEventsRequest { user_id: user.into(), page_size: 2, ..Default::default() };
        let mut events = Vec::new();
        loop {
            let page = auditor.list_events(request.clone()).await.unwrap().into_inner();
            events.extend(page.events);
            if page.next_page_token.is_empty() {
                return events;
            }
            request.page_token = page.next_page_token;
        }
    };
    let all = pages("").await;
    assert_eq!(all.len(), 10);
    assert!(all.is_sorted_by(|one, next| one.id > next.id), "newest first");
    let of_bob = pages("bob").await;
    assert_eq!(of_bob.len(), 5);
    assert!(of_bob.iter().all(|event| event.user_id == "bob"
        && event.kind == "token_issued"
        && event.actor == "caller:console"));

    let page =
        auditor.list_events(ListEventsRequest { user_id: "bob".into(), page_size: 2, ..Default::default() });
    let page_token = page.await.unwrap().into_inner().next_page_token;
    for (user, page_token) in [("alice", page_token.as_str()), ("", &page_token), ("bob", "nonsense")] {
        let request =
            ListEventsRequest { user_id: user.into(), page_token: page_token.into(), ..Default::default() };
        assert_eq!(auditor.list_events(request).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let later = prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 };
    let request = ListEventsRequest { start_time: Some(later), ..Default::default() };
    let page = auditor.list_events(request).await.unwrap().into_inner();
    assert!(page.events.is_empty() && page.next_page_token.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_sends_its_credential_and_prints_the_audit_log() {
    let (manager, admin) = (SharedSecret::new(), SharedSecret::new());
    let callers = manager.entry("console", "manager", "") + &admin.entry("auditor", "admin", "");
    let guarded = Guarded::start(Sqlite, &callers, &[]).await;
    let server = format!("http://{}", guarded.app.grpc_addr);
    let run = |secret: &SharedSecret, arguments: &[&str]| {
        let file = guarded.app.file("credential", &format!("{}\n", secret.secret));
        let credential = ["--server", &server, "--credential-file", file.to_str().unwrap()];
        let output = latchkey::run([arguments, &credential].concat(), "");
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let create = ["token", "create", "--user", "alice", "--name", "one"];
    assert_eq!(run(&manager, &create).0, Some(0));
    let (code, _, error) = run(&admin, &create);
    assert!(code == Some(2) && error.contains("the caller may not make this call"), "{error}");
    let (code, text, error) = run(&admin, &["audit", "--user", "alice", "--since", "7d"]);
    assert_eq!((code, text.lines().count()), (Some(0), 2), "{error}");
    assert!(text.contains("token_issued") && text.contains("caller:console"), "{text}");
    let (_, text, _) = run(&admin, &["audit", "--json"]);
    let event: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!((&event["kind"], &event["actor"]), (&"token_issued".into(), &"caller:console".into()));
    assert!(event["eventTime"].as_str().unwrap().ends_with('Z'));
    let (_, text, _) = run(&admin, &["audit", "--user", "bob"]);
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn the_command_line_prepares_the_callers_file() {
    let run = |arguments: &[&str], input: &str| {
        let output = latchkey::run(arguments, input);
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text)
    };
    let (code, text) = run(&["callers", "hash", "--generate"], "");
    assert_eq!(code, Some(0));
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    let (secret, hash) = (line("secret: "), line("hash: "));
    assert_eq!(run(&["callers", "hash"], &format!("{secret}\n")).1.trim(), hash);
    let (code, text) = run(&["callers", "hash"], "hunter2");
    assert!(
        code == Some(2) && text.contains("fewer than 32 characters") && !text.contains("hunter2"),
        "{text}"
    );

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("callers.toml");
    let check = |content: &str| {
        fs::write(&file, content).unwrap();
        run(&["callers", "check", file.to_str().unwrap()], "")
    };
    let good = format!("[[caller]]\nname = \"ci\"\nroles = [\"manager\"]\nsecret_hashes = [\"{hash}\"]\n");
    assert_eq!(check(&good).0, Some(0));
    let (code, text) = check(&good.replace("sha256:", "md5:"));
    assert!(code == Some(2) && text.contains("line 1: secret_hashes"), "{text}");
    // The service does not start with it.
    let data = folder.path().to_str().unwrap();
    let mut serve = vec!["serve", "--callers", file.to_str().unwrap(), "--data-dir", data];
    serve.extend(FREE_PORTS);
    let (code, text) = run(&serve, "");
    assert!(
        code == Some(2) && text.contains("LATCHKEY_CALLERS") && text.contains("line 1: secret_hashes"),
        "{text}"
    );
}

/// Reads everything that the service has emitted, at the most talkative level.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_credential_of_a_caller_is_ever_emitted() {
    let key = SigningKey::new("1");
    let issuer = Issuer::start(&[&key]).await;
    let (good, wrong) = (SharedSecret::new(), SharedSecret::new());
    let callers = format!("{}user_claim = \"sub\"\n{}", issuer.entry(), good.entry("console", "manager", ""));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("callers.toml"), callers).unwrap();
    let settings = ["--callers", "callers.toml", "--log", "trace", "--log-format", "json"];
    let process = Process::start(folder.path(), &settings);
    let client = process.client().await;
    let [jwt, expired] = [3_600, -3_600].map(|seconds: i64| {
        let mut claims = issuer.claims("alice");
        claims["exp"] = (issuer::now() as i64 + seconds).into();
        key.sign(&claims)
    });
    let credentials = [&good.secret, &wrong.secret, &jwt, &expired];
    for credential in credentials {
        let list = ListTokensRequest { user_id: "alice".into(), ..Default::default() };
        let _ = tokens_as(&client.channel, credential).list_tokens(list).await;
        let header = format!("Bearer {credential}");
        http::send(process.http_addr, "POST /events", &[("authorization", &header)], b"").await;
    }
    let metrics = client.metrics().await;
    let emitted = process.stop().await + &metrics;
    assert!(emitted.contains("a request was refused") && emitted.contains("no caller has this secret"));
    for credential in credentials {
        // The parts of a JWT, and a secret without its prefix.
        for part in credential.split('.').map(|part| part.trim_start_matches("lkc_")) {
            assert!(!emitted.contains(part), "{part}");
        }
    }
    assert!(!emitted.contains(&good.hash), "the hash");
}
