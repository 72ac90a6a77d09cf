//! Envoy's external authorization, asked directly. tests/forward_auth.rs has Envoy itself.

use ::latchkey::proto::envoy::{
    config::core::v3::{HeaderMap, HeaderValue, HeaderValueOption},
    service::auth::v3::{
        AttributeContext, CheckRequest, CheckResponse, OkHttpResponse,
        attribute_context::{HttpRequest, Request},
        authorization_client::AuthorizationClient,
        check_response::HttpResponse,
    },
};
use prost_types::value::Kind;
use tonic::Code;

use crate::support::{App, Database::Sqlite, postgres::Postgres, until};

/// A request with these headers, to a route with these context extensions.
fn check(headers: &[(&str, &str)], extensions: &[(&str, &str)]) -> CheckRequest {
    let owned = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    with(HttpRequest { headers: owned(headers), header_map: None }, owned(extensions))
}

fn with(http: HttpRequest, context_extensions: std::collections::HashMap<String, String>) -> CheckRequest {
    let request = Some(Request { http: Some(http) });
    CheckRequest { attributes: Some(AttributeContext { request, context_extensions }) }
}

async fn ask(app: &App, request: CheckRequest) -> Result<CheckResponse, tonic::Status> {
    let mut client = AuthorizationClient::connect(format!("http://{}", app.grpc_addr)).await.unwrap();
    client.check(request).await.map(tonic::Response::into_inner)
}

fn values(headers: &[HeaderValueOption]) -> Vec<(String, String)> {
    let header = |option: &HeaderValueOption| {
        #[expect(deprecated, reason = "Envoy's releases heed it")]
        let append = option.append;
        // A forged header is replaced, also by an empty one.
        assert_eq!((append, option.append_action, option.keep_empty_value), (Some(false), 2, true));
        option.header.clone().map(|header| (header.key, header.value)).unwrap()
    };
    headers.iter().map(header).collect()
}

async fn allowed(app: &App, request: CheckRequest) -> (OkHttpResponse, CheckResponse) {
    let response = ask(app, request).await.unwrap();
    assert_eq!(response.status.as_ref().unwrap().code, 0);
    let Some(HttpResponse::OkResponse(ok)) = response.http_response.clone() else { panic!("{response:?}") };
    (ok, response)
}

/// The gRPC code, the HTTP status and the challenge of a refusal.
async fn denied(app: &App, request: CheckRequest) -> (i32, i32, String) {
    let response = ask(app, request).await.unwrap();
    assert_eq!(response.dynamic_metadata, None);
    let Some(HttpResponse::DeniedResponse(denied)) = response.http_response else { panic!("{response:?}") };
    let [(name, challenge)] = &values(&denied.headers)[..] else { panic!("{:?}", denied.headers) };
    assert_eq!(name, "www-authenticate");
    (response.status.unwrap().code, denied.status.unwrap().code, challenge.clone())
}

#[tokio::test]
async fn a_good_token_sets_every_identity_header_and_the_facts_for_the_access_log() {
    let app = App::start(Sqlite).await;
    let (id, secret) = app.issue_for("älice", &["read", "write"]).await;
    let (_, bare) = app.issue_for("bob", &[]).await;
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let headers = [("authorization", &*format!("{scheme} {secret}")), ("x-latchkey-user-id", "mallory")];
        let (ok, response) = allowed(&app, check(&headers, &[("scopes", "read  write")])).await;
        let expected = [
            ("x-latchkey-user-id", "älice"),
            ("x-latchkey-token-id", &id),
            ("x-latchkey-scopes", "read write"),
        ];
        assert_eq!(values(&ok.headers), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        // What applications may take for the same headers is removed; the credential stays.
        for name in ["x_latchkey_user_id", "x-latchkey_token-id", "x_latchkey-scopes"] {
            assert!(ok.headers_to_remove.iter().any(|removed| removed == name), "{name}");
        }
        assert!(!ok.headers_to_remove.iter().any(|name| name == "authorization"));
        let facts = response.dynamic_metadata.unwrap().fields;
        for (name, value) in [("user_id", "älice"), ("token_id", &id), ("scopes", "read write")] {
            assert_eq!(facts[name].kind, Some(Kind::StringValue(value.to_owned())));
        }
    }
    let (ok, _) = allowed(&app, check(&[("authorization", &format!("Bearer {bare}"))], &[])).await;
    assert_eq!(values(&ok.headers)[2], ("x-latchkey-scopes".to_owned(), String::new()));
}

#[tokio::test]
async fn each_refusal_has_its_status_and_challenge() {
    let app = App::start(Sqlite).await;
    let (id, secret) = app.issue_for("alice", &["read"]).await;
    let good = format!("Bearer {secret}");
    let unauthenticated = i32::from(Code::Unauthenticated);
    let invalid = (unauthenticated, 401, "Bearer error=\"invalid_token\"".to_owned());
    for none in [check(&[], &[]), check(&[("x-api-key", &secret)], &[]), CheckRequest::default()] {
        assert_eq!(denied(&app, none).await, (unauthenticated, 401, "Bearer".to_owned()));
    }
    for bad in
        ["Bearer nonsense", "Basic YTpi", "", &secret, &format!("{good},{good}"), &format!("{good}, x")]
    {
        assert_eq!(denied(&app, check(&[("authorization", bad)], &[])).await, invalid, "{bad}");
    }
    let request = check(&[("authorization", &good)], &[("scopes", "read write")]);
    let challenge = "Bearer error=\"insufficient_scope\", scope=\"read write\"".to_owned();
    assert_eq!(denied(&app, request).await, (i32::from(Code::PermissionDenied), 403, challenge));
    // A mistake in the gateway's configuration lets nothing through, and says what it is.
    let status = ask(&app, check(&[("authorization", &good)], &[("scopes", "NOT!")])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("context_extensions.scopes"), "{status}");

    app.delete("alice", &id).await.unwrap();
    assert_eq!(denied(&app, check(&[("authorization", &good)], &[])).await, invalid);
}

#[tokio::test]
async fn headers_that_come_one_by_one_are_read_too_and_a_second_credential_is_refused() {
    let app = App::start_with(Sqlite, &["--api-key-header", "X-Api-Key", "--remove-credential"]).await;
    let (_, secret) = app.issue_for("alice", &[]).await;
    let good = format!("Bearer {secret}");
    let raw = |headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|&(key, value)| HeaderValue {
            key: key.to_owned(),
            value: String::new(),
            raw_value: value.as_bytes().to_vec(),
        });
        let header_map = Some(HeaderMap { headers: headers.collect() });
        with(HttpRequest { headers: Default::default(), header_map }, Default::default())
    };
    for headers in [[("authorization", good.as_str())], [("x-api-key", &secret)]] {
        for request in [raw(&headers), check(&headers, &[])] {
            let (ok, _) = allowed(&app, request).await;
            for name in ["authorization", "x-api-key"] {
                assert!(ok.headers_to_remove.iter().any(|removed| removed == name), "{name}");
            }
        }
    }
    for headers in [
        [("authorization", good.as_str()), ("authorization", &good)],
        [("authorization", &good), ("x-api-key", &secret)],
        [("x-api-key", &secret), ("x-api-key", &secret)],
    ] {
        assert_eq!(denied(&app, raw(&headers)).await.1, 401, "{headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_known_is_unavailable() {
    let mut server = Postgres::start();
    let url = server.create_database().await;
    let settings = ["--database-timeout", "500ms", "--max-staleness", "1s"];
    let app = App::start_on(url, tempfile::tempdir().unwrap(), &settings).await;
    let (_, secret) = app.issue_for("alice", &[]).await;
    server.stop();
    until("UNAVAILABLE", || async {
        match ask(&app, check(&[("authorization", &format!("Bearer {secret}"))], &[])).await {
            Ok(response) => {
                assert_eq!(response.status.unwrap().code, 0);
                None
            }
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable);
                Some(())
            }
        }
    })
    .await;
}
