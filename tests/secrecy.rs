use std::{collections::HashMap, path::Path};

use ::latchkey::proto::{
    envoy::service::auth::v3::{
        AttributeContext, CheckRequest,
        attribute_context::{HttpRequest, Request},
        authorization_client::AuthorizationClient,
    },
    latchkey::CreateTokenRequest,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use rstest_reuse::apply;
use sea_orm::ConnectionTrait as _;

use crate::support::{
    App, Client,
    Database::{self, Postgres, Sqlite},
    bearer_token::{forge, secret_bits_of, secret_of, with_a_typo},
    client::create_request,
    database::sqlite_file,
    latchkey::{self, FAILURE, Process},
    nats::Nats,
    on_both_databases,
    otlp::Collector,
    tools,
};

const PASSWORD: &str = "correct-horse-battery";
const NATS_PASSWORD: &str = "staple-of-nats";
const COLLECTOR_KEY: &str = "key-of-the-collector";
const REQUEST_ID: &str = "5b3c8f0e-6d0b-4c1e-9a55-0f6c3b1d7e42";
const FIRST_KEY: [u8; 32] = [0xa7; 32];
const SECOND_KEY: [u8; 32] = [0x5c; 32];

/// Every form in which bytes could be printed.
fn forms(bytes: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let decimal = format!("{bytes:?}");
    let base64 = BASE64_STANDARD.encode(bytes);
    let escaped = bytes.escape_ascii().to_string();
    vec![
        bytes.to_vec(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
        decimal.trim_matches(['[', ']']).to_owned().into_bytes(),
        base64.trim_end_matches('=').to_owned().into_bytes(),
        escaped.into_bytes(),
    ]
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Makes every call with good and bad input. Returns the bearer tokens that were presented, and the output with metrics
/// and spans.
async fn drive(app_url: &str, settings: &[&str], folder: &Path) -> (Vec<String>, String) {
    let nats = Nats::start_with(
        tempfile::tempdir().unwrap(),
        &format!("authorization {{ user: latchkey, password: {NATS_PASSWORD:?} }}"),
    );
    let nats_url = nats.url().replace("nats://", &format!("nats://latchkey:{NATS_PASSWORD}@"));
    let common =
        ["--database-url", app_url, "--log", "trace", "--nats-url", &nats_url, "--nats-create-stream"];
    let collector = Collector::start().await;
    let headers = format!("authorization=Bearer {COLLECTOR_KEY}");
    let variables = [&collector.variables()[..], &[("OTEL_EXPORTER_OTLP_HEADERS", &headers)]].concat();
    let process = Process::start_with(folder, &[&common, settings].concat(), &variables);
    let client = process.client().await;
    let mut secrets = Vec::new();
    for (user, name) in
        [("alice", "one"), ("alice", "two"), ("alice", "one"), ("", "x"), ("bob", "b\u{202e}b")]
    {
        let request = CreateTokenRequest { scopes: vec!["a".into()], ..create_request(user, name) };
        secrets.extend(client.create_with(request).await.ok().map(|answer| answer.secret));
    }
    let [one, two] = [&secrets[0], &secrets[1]];
    let mut presented = vec![one.clone(), two.clone(), with_a_typo(one), forge(one, two)];
    for _ in 0..2 {
        let request_id = REQUEST_ID.to_owned();
        let request = CreateTokenRequest { request_id, ..create_request("alice", "repeated") };
        presented.extend(client.create_with(request).await.ok().map(|answer| answer.secret));
    }
    for bearer in presented.iter().map(String::as_str).chain([""]) {
        for scope in ["a", "b", "Bad"] {
            let _ = client.try_validate(bearer, &[scope]).await;
        }
    }
    let on_page = create_on_page(&client).await;
    presented.push(on_page);
    for bearer in &presented {
        ask_for_gateways(&client, bearer).await;
    }
    let page = client.list("alice").await;
    let _ = client.page("alice", -1, "").await;
    for id in [&page[0].id, &page[0].id, "x"] {
        let _ = client.delete("alice", id).await;
    }
    client.delete_user("bob").await;
    let unreadable = client.post_event(&[("content-type", "application/cloudevents+json")], b"bob").await;
    assert_eq!(unreadable.0, 400);
    client.attached().await;
    let metrics = client.metrics().await;
    assert!(metrics.contains("latchkey_validations_total"), "{metrics}");
    let mut output = process.stop().await;
    output.push_str(&metrics);
    let spans = collector.received();
    assert!(!spans.is_empty());
    output.push_str(&format!("{spans:?}"));
    (presented, output)
}

/// Creates a token on the web page, also with what is refused, and returns the bearer token that the page shows.
async fn create_on_page(client: &Client) -> String {
    let key = "A".repeat(43);
    let cookie = format!("latchkey-form={key}; latchkey-user=pat");
    let headers = [("cookie", cookie.as_str()), ("content-type", "application/x-www-form-urlencoded")];
    let request_id = uuid::Uuid::now_v7();
    let mut pages = String::new();
    for name in ["page", "page", "ab"] {
        let form = format!("key={key}&request_id={request_id}&name={name}&expiry=never&scopes=a");
        let path = "POST /personal-api-tokens/new";
        pages += &crate::support::http::send(client.http_addr, path, &headers, form.as_bytes()).await.2;
    }
    let begin = pages.find("pat_").expect("the page shows a token");
    pages[begin..begin + BEARER_LENGTH].to_owned()
}

/// `pat_`, 22 characters, `_` and 49 characters.
const BEARER_LENGTH: usize = 4 + 22 + 1 + 49;

/// Asks about a token in every way that gateways do, with good and bad requests.
async fn ask_for_gateways(client: &Client, bearer: &str) {
    let (authorization, form) = (format!("Bearer {bearer}"), format!("token={bearer}"));
    let mut checks = AuthorizationClient::connect(format!("http://{}", client.grpc_addr)).await.unwrap();
    for headers in [HashMap::from([("authorization".to_owned(), authorization.clone())]), HashMap::new()] {
        let http = Some(HttpRequest { headers, header_map: None });
        for scopes in ["a", "b", "Bad!"] {
            let context_extensions = HashMap::from([("scopes".to_owned(), scopes.to_owned())]);
            let attributes =
                AttributeContext { request: Some(Request { http: http.clone() }), context_extensions };
            let _ = checks.check(CheckRequest { attributes: Some(attributes) }).await;
        }
    }
    const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
    let review = format!(
        r#"{{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{{"token":"{bearer}"}}}}"#
    );
    for (path, header, body) in [
        ("GET /verify?scope=a", ("authorization", authorization.as_str()), ""),
        ("GET /verify?scope=b", ("authorization", authorization.as_str()), ""),
        ("GET /verify", ("authorization", bearer), ""),
        ("POST /oauth2/introspect", FORM, &form),
        ("POST /oauth2/introspect", ("content-type", "text/plain"), &form),
        ("POST /kubernetes/token-review", FORM, &review),
        ("POST /kubernetes/token-review", FORM, &form),
        ("POST /oauth2/revoke", ("content-type", "text/plain"), &form),
        ("POST /oauth2/revoke", FORM, &format!("{form}x")),
    ] {
        crate::support::http::send(client.http_addr, path, &[header], body.as_bytes()).await;
    }
}

#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_hash_tag_key_or_password_is_emitted_or_stored(
    database: Database,
    #[values("text", "json")] format: &str,
) {
    let app = App::start(database).await;
    let folder = tempfile::tempdir().unwrap();
    let ring = format!("primary = \"k\"\n[keys]\nk = \"{}\"\n", BASE64_STANDARD.encode(FIRST_KEY));
    let ring = app.file("ring.toml", &ring);
    let url = match database {
        Sqlite => app.url.clone(),
        Postgres => with_password(&app).await,
    };
    // The second run has another key, and writes new tags.
    let (mut secrets, mut output) =
        drive(&url, &["--key-ring", ring.to_str().unwrap(), "--log-format", format], folder.path()).await;
    std::fs::write(
        &ring,
        format!("primary = \"j\"\n[keys]\nj = \"{}\"\n", BASE64_STANDARD.encode(SECOND_KEY)),
    )
    .unwrap();
    app.sql("UPDATE tokens SET name = name || ' (old)'").await;
    let (more, second) =
        drive(&url, &["--key-ring", ring.to_str().unwrap(), "--log-format", format], folder.path()).await;
    secrets.extend(more);
    output.push_str(&second);
    for expected in ["token issued", "token secret replaced", "TRACE", "attached"] {
        assert!(output.contains(expected), "the log lacks {expected}");
    }
    let mut hidden: Vec<_> =
        [PASSWORD, NATS_PASSWORD, COLLECTOR_KEY].map(|password| password.as_bytes().to_vec()).into();
    for secret in &secrets {
        // The id in the token is public, and the log has it.
        hidden.push(secret_of(secret).as_bytes().to_vec());
        hidden.extend(forms(&secret_bits_of(secret)));
    }
    hidden.extend(forms(&FIRST_KEY));
    hidden.extend(forms(&SECOND_KEY));
    let rows = app.query("SELECT secret_hash, tag FROM tokens").await;
    assert!(rows.len() >= 4);
    let mut stored_once = Vec::new();
    for row in rows {
        let hash: String = row.try_get("", "secret_hash").unwrap();
        stored_once.push(hash.rsplit('$').next().unwrap().as_bytes().to_vec());
        stored_once.extend(forms(&row.try_get::<Vec<u8>>("", "tag").unwrap()));
    }
    for hidden in hidden.iter().chain(&stored_once) {
        assert!(!contains(output.as_bytes(), hidden), "emitted: {}", hidden.escape_ascii());
    }

    let stored = stored(&app, database).await;
    assert!(contains(&stored, b"alice"), "the search reads what is stored");
    for hidden in &hidden {
        assert!(!contains(&stored, hidden), "stored: {}", hidden.escape_ascii());
    }
    let elsewhere = other_columns(&app).await;
    assert!(contains(&elsewhere, b"alice"));
    for hidden in &stored_once {
        assert!(!contains(&elsewhere, hidden), "stored outside its column: {}", hidden.escape_ascii());
    }
}

/// The URL of the database for a role with a password.
async fn with_password(app: &App) -> String {
    let role = app.url.rsplit('/').next().unwrap().replace("test", "role");
    let database = app.database().await;
    let create = format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{PASSWORD}'");
    database.execute_unprepared(&create).await.unwrap();
    app.url.replace("postgres@", &format!("{role}:{PASSWORD}@"))
}

/// Every byte in the files of SQLite; on PostgreSQL every row of every table as text.
async fn stored(app: &App, database: Database) -> Vec<u8> {
    match database {
        Sqlite => ["", "-wal"]
            .iter()
            .flat_map(|end| {
                let file = format!("{}{end}", sqlite_file(app.folder.path()).display());
                std::fs::read(file).unwrap_or_default()
            })
            .collect(),
        Postgres => rows(app, &["users", "tokens", "token_events"], "CAST(t AS text)").await,
    }
}

/// The text of all columns except `secret_hash` and `tag`.
async fn other_columns(app: &App) -> Vec<u8> {
    let text = |columns: &[&str]| {
        columns
            .iter()
            .map(|column| format!("coalesce(CAST({column} AS text), '')"))
            .collect::<Vec<_>>()
            .join(" || ' ' || ")
    };
    let tokens = ["user_id", "name", "tag_key_id", "scopes", "created_at", "expires_at", "revoke_reason"];
    let events = ["at", "kind", "user_id", "actor", "reason"];
    [
        rows(app, &["users"], &text(&["user_id", "deleted_at"])).await,
        rows(app, &["tokens"], &text(&tokens)).await,
        rows(app, &["token_events"], &text(&events)).await,
    ]
    .concat()
}

async fn rows(app: &App, tables: &[&str], columns: &str) -> Vec<u8> {
    let mut all = Vec::new();
    for table in tables {
        for row in app.query(&format!("SELECT {columns} AS line FROM {table} AS t")).await {
            all.extend(row.try_get::<String>("", "line").unwrap().into_bytes());
        }
    }
    all
}

/// `migrate` ends with the error; `serve` logs it and waits for the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_the_database_does_not_contain_its_password() {
    let database = format!("127.0.0.1:{}/d", tools::free_port());
    let url = format!("postgres://u:{PASSWORD}@{database}");
    let settings = ["--database-url", &url, "--log", "trace", "--database-timeout", "300ms"];
    let migration = latchkey::run([&["migrate"], &settings[..]].concat(), "");
    assert_eq!(migration.status.code(), Some(FAILURE));
    let migration = String::from_utf8([migration.stdout, migration.stderr].concat()).unwrap();
    assert!(migration.contains("LATCHKEY_DATABASE_URL"), "{migration}");

    let folder = tempfile::tempdir().unwrap();
    let service = Process::start(folder.path(), &settings).stop().await;
    assert!(service.contains(&database), "{service}");
    for output in [migration, service] {
        assert!(output.contains("Connection refused"), "{output}");
        assert!(!output.contains(PASSWORD), "{output}");
    }
}
