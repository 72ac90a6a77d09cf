//! Token revocation (RFC 7009), the metadata of the authorization server (RFC 8414), and both with independent clients.

use ::latchkey::proto::latchkey::invalid::Reason;
use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::support::{App, Database, Database::Sqlite, http, on_both_databases};

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const ISSUER: &str = "https://example.com/tokens";

async fn revoke(app: &App, form: &str) -> (u16, String) {
    let (status, head, body) =
        http::send(app.http_addr, "POST /oauth2/revoke", &[FORM], form.as_bytes()).await;
    assert!(head.contains("cache-control: no-store"), "{head}");
    (status, body)
}

#[apply(on_both_databases)]
#[tokio::test]
async fn whoever_holds_a_token_can_revoke_it_and_no_replica_accepts_it_afterwards(database: Database) {
    let app = App::start(database).await;
    let replica = app.replica().await;
    let (id, secret) = app.issue("alice", "one").await;
    let (_, kept) = app.issue("alice", "two").await;
    replica.validate(&secret).await.unwrap();
    assert_eq!(
        revoke(&app, &format!("token={secret}&token_type_hint=access_token")).await,
        (200, String::new())
    );
    replica.refuses(&secret, Reason::Revoked).await;
    app.validate(&kept).await.unwrap();
    // The audit log says that it was the holder.
    assert_eq!(app.count(&format!("token_events WHERE actor = 'token:{id}'")).await, 1);

    for form in [&format!("token={secret}"), "token=nonsense", "token="] {
        assert_eq!(revoke(&app, form).await, (200, String::new()), "{form}");
    }
    for form in ["", "token=a&token=b", "x=1"] {
        let (status, body) = revoke(&app, form).await;
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &answer["error"]), (400, &json!("invalid_request")), "{form}");
    }
    let (status, ..) = http::send(app.http_addr, &format!("GET /oauth2/revoke?token={kept}"), &[], b"").await;
    assert_eq!(status, 405);
    app.validate(&kept).await.unwrap();
}

#[tokio::test]
async fn the_metadata_is_where_the_issuer_says_and_introspection_names_the_issuer() {
    let app = App::start_with(Sqlite, &["--issuer", ISSUER]).await;
    let (_, secret) = app.issue("alice", "one").await;
    let get = async |path: &str| http::send(app.http_addr, &format!("GET {path}"), &[], b"").await;
    let (status, _, body) = get("/.well-known/oauth-authorization-server/tokens").await;
    assert_eq!(status, 200);
    let expected = json!({
        "issuer": ISSUER,
        "response_types_supported": ["none"],
        "introspection_endpoint": "https://example.com/tokens/oauth2/introspect",
        "introspection_endpoint_auth_methods_supported": ["client_secret_basic", "tls_client_auth", "Bearer"],
        "revocation_endpoint": "https://example.com/tokens/oauth2/revoke",
        "revocation_endpoint_auth_methods_supported": ["none"],
    });
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), expected);
    for other in ["", "/", "/token", "/tokens/x"] {
        let (status, ..) = get(&format!("/.well-known/oauth-authorization-server{other}")).await;
        assert_eq!(status, 404, "{other}");
    }
    let form = format!("token={secret}");
    let (_, _, body) = http::send(app.http_addr, "POST /oauth2/introspect", &[FORM], form.as_bytes()).await;
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["iss"], ISSUER);

    let without = App::start(Sqlite).await;
    let path = "GET /.well-known/oauth-authorization-server";
    assert_eq!(http::send(without.http_addr, path, &[], b"").await.0, 404);
}
