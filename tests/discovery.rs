use std::process::Command;

use latchkey::grpc::TOKEN_SERVICE;
use rstest_reuse::apply;
use tonic_health::pb::HealthCheckRequest;
use tonic_reflection::pb::{v1, v1alpha};

use tonic::Code;

use crate::support::{
    App,
    Database::{self, Sqlite},
    on_both_databases, tools, until,
};

#[apply(on_both_databases)]
#[tokio::test]
async fn each_service_has_a_health_state(database: Database) {
    let app = App::start(database).await;
    assert!(app.is_serving("").await);
    assert!(app.is_serving(TOKEN_SERVICE).await);
    let request = HealthCheckRequest { service: "no.such.Service".into() };
    let unknown = app.health().check(request).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn both_versions_of_reflection_describe_the_services() {
    let app = App::start(Sqlite).await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(app.channel.clone());
    let ask = v1::ServerReflectionRequest {
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut answers = client.server_reflection_info(once(ask)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let v1::server_reflection_response::MessageResponse::ListServicesResponse(list) = answer else {
        panic!("the answer is not a list")
    };
    let mut names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "envoy.service.auth.v3.Authorization",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "latchkey.v1.AuditService",
            "latchkey.v1.TokenService"
        ]
    );

    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(app.channel.clone());
    let symbol = v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
        "latchkey.v1.TokenService".into(),
    );
    let ask = v1alpha::ServerReflectionRequest { message_request: Some(symbol), ..Default::default() };
    let mut answers = client.server_reflection_info(once(ask)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    assert!(matches!(
        answer,
        v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_)
    ));
}

fn once<T>(one: T) -> impl tonic::codegen::tokio_stream::Stream<Item = T> {
    tonic::codegen::tokio_stream::iter([one])
}

/// What grpcurl prints for an error.
fn grpcurl_error(app: &App, method: &str, request: &str) -> String {
    let grpcurl = tools::find("grpcurl", tools::INSTALL_GRPCURL);
    let address = app.grpc_addr.to_string();
    let method = format!("latchkey.v1.TokenService/{method}");
    let output =
        Command::new(grpcurl).args(["-plaintext", "-d", request, &address, &method]).output().unwrap();
    assert!(!output.status.success(), "{method} {request} is not an error");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpcurl_shows_the_details_of_errors() {
    let app = App::start_with(Sqlite, &["--max-tokens-per-user", "1"]).await;
    app.issue("alice", "one").await;
    let shows = |said: String, details: &[&str]| {
        // Some versions of grpcurl write a space after a colon.
        let compact = said.replace("\": ", "\":");
        for detail in details {
            assert!(compact.contains(detail), "no {detail}: {said}");
        }
        assert!(!said.contains("@value") && !said.contains("@error"), "{said}");
    };
    shows(
        grpcurl_error(&app, "CreateToken", r#"{"user_id": "", "name": "two"}"#),
        &[
            r#""@type":"type.googleapis.com/google.rpc.BadRequest""#,
            r#""field":"user_id""#,
            r#""description":"must not be empty""#,
        ],
    );
    shows(
        grpcurl_error(&app, "CreateToken", r#"{"user_id": "alice", "name": "one"}"#),
        &[r#""@type":"type.googleapis.com/google.rpc.ErrorInfo""#, r#""reason":"NAME_TAKEN""#],
    );
    shows(
        grpcurl_error(&app, "CreateToken", r#"{"user_id": "alice", "name": "two"}"#),
        &[r#""@type":"type.googleapis.com/google.rpc.QuotaFailure""#, r#""subject":"live tokens of a user""#],
    );
    let patient = ["--database-timeout", "30s", "--request-timeout", "30s"];
    let settings = [&["--max-concurrent-requests", "1"][..], &patient].concat();
    let overloaded = App::start_with(Sqlite, &settings).await;
    // A creation that waits for a lock holds the only permit.
    let lock = overloaded.lock_user("bob").await;
    let client = overloaded.client.clone();
    let creation = tokio::spawn(async move {
        loop {
            match client.create("bob", "one").await {
                // The probe below held the permit.
                Err(status) if status.code() == Code::ResourceExhausted => {}
                done => return done,
            }
        }
    });
    until("a refusal", || async { overloaded.page("alice", 0, "").await.err() }).await;
    shows(
        grpcurl_error(&overloaded, "CreateToken", r#"{"user_id": "alice", "name": "two"}"#),
        &[r#""@type":"type.googleapis.com/google.rpc.RetryInfo""#, r#""retryDelay":"0.500s""#],
    );
    lock.release().await;
    creation.await.unwrap().unwrap();
}
