//! Token introspection (RFC 7662): what a resource server learns of a token.

use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::support::{App, Database, http, on_both_databases, postgres::Postgres, until};

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

async fn introspect(app: &App, form: &str) -> (u16, Value) {
    let (status, head, body) =
        http::send(app.http_addr, "POST /oauth2/introspect", &[FORM], form.as_bytes()).await;
    assert!(
        head.contains("cache-control: no-store") && head.contains("content-type: application/json"),
        "{head}"
    );
    (status, serde_json::from_str(&body).unwrap())
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_good_token_is_described_and_any_other_is_only_inactive(database: Database) {
    let app = App::start(database).await;
    let request = latchkey::proto::latchkey::CreateTokenRequest {
        scopes: vec!["write".into(), "read".into()],
        expire_time: Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 }),
        ..crate::support::client::create_request("alice", "one")
    };
    let created = app.create_with(request).await.unwrap();
    let token = created.token.unwrap();
    let (status, answer) = introspect(&app, &format!("token={}&token_type_hint=x", created.secret)).await;
    assert_eq!(status, 200);
    let expected = json!({
        "active": true, "sub": "alice", "scope": "read write", "jti": token.id, "token_type": "Bearer",
        "iat": token.create_time.unwrap().seconds, "exp": 4_000_000_000_i64,
    });
    assert_eq!(answer, expected);

    let inactive = (200, json!({ "active": false }));
    assert_eq!(introspect(&app, "token=nonsense").await, inactive);
    app.delete("alice", &token.id).await.unwrap();
    assert_eq!(introspect(&app, &format!("token={}", created.secret)).await, inactive);
    for form in ["", "token=a&token=b", "x=1"] {
        let (status, answer) = introspect(&app, form).await;
        assert_eq!((status, &answer["error"]), (400, &json!("invalid_request")), "{form}");
    }
    let (status, ..) = http::send(app.http_addr, "GET /oauth2/introspect?token=a", &[], b"").await;
    assert_eq!(status, 405);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_known_is_never_inactive() {
    let mut server = Postgres::start();
    let url = server.create_database().await;
    let settings = ["--database-timeout", "500ms", "--max-staleness", "1s"];
    let app = App::start_on(url, tempfile::tempdir().unwrap(), &settings).await;
    let (_, secret) = app.issue("alice", "one").await;
    server.stop();
    until("503", || async {
        let (status, answer) = introspect(&app, &format!("token={secret}")).await;
        assert!(status == 503 || answer["active"] == true, "{status} {answer}");
        (status == 503).then_some(())
    })
    .await;
}
