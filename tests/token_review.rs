//! Kubernetes' webhook for bearer tokens.

use serde_json::{Value, json};

use crate::support::{App, Database::Sqlite, client::create_request, http};

async fn review(app: &App, body: &Value) -> (u16, String) {
    let (status, _, body) =
        http::send(app.http_addr, "POST /kubernetes/token-review", &[], body.to_string().as_bytes()).await;
    (status, body)
}

fn question(spec: Value) -> Value {
    json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec })
}

#[tokio::test]
async fn a_review_says_who_the_token_stands_for() {
    let app = App::start(Sqlite).await;
    let request = latchkey::proto::latchkey::CreateTokenRequest {
        scopes: vec!["read".into(), "write".into()],
        ..create_request("alice", "one")
    };
    let created = app.create_with(request).await.unwrap();
    let id = created.token.unwrap().id;
    let spec = json!({ "token": created.secret, "audiences": ["https://cluster.example.com"] });
    let (status, body) = review(&app, &question(spec.clone())).await;
    let expected = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "status": {
            "authenticated": true,
            "user": {
                "username": "alice",
                "uid": "alice",
                "extra": { "latchkey/token-id": [id], "latchkey/scopes": ["read", "write"] },
            },
            "audiences": ["https://cluster.example.com"],
        },
    });
    assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()), (200, expected));

    app.delete("alice", &id).await.unwrap();
    for spec in [spec, json!({ "token": "nonsense" }), json!({ "token": "" })] {
        let (status, body) = review(&app, &question(spec)).await;
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &answer["status"]), (200, &json!({ "authenticated": false })));
    }
}

#[tokio::test]
async fn what_is_no_review_is_refused_without_repeating_it() {
    let app = App::start(Sqlite).await;
    for body in [
        json!({ "apiVersion": "authentication.k8s.io/v1beta1", "kind": "TokenReview", "spec": { "token": "hunter2" } }),
        json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "hunter2", "spec": { "token": "hunter2" } }),
        json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": ["hunter2"] } }),
        json!("hunter2"),
    ] {
        let (status, answer) = review(&app, &body).await;
        assert_eq!(status, 400, "{body}");
        assert!(answer.contains("TokenReview") && !answer.contains("hunter2"), "{answer}");
    }
}
