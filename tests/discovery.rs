use rstest::rstest;
use tonic_health::pb::HealthCheckRequest;
use tonic_reflection::pb::{v1, v1alpha};

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    health::{channel, health, is_serving},
};

#[rstest]
#[tokio::test]
async fn each_service_has_a_health(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start(database).await;
    assert!(is_serving(&app, "").await);
    assert!(is_serving(&app, "latchkey.v1.TokenService").await);
    let request = HealthCheckRequest { service: "no.such.Service".into() };
    let unknown = health(&app).await.check(request).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn reflection_lists_the_services_in_both_versions() {
    let app = App::start(Sqlite).await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel(&app).await);
    let ask = v1::ServerReflectionRequest {
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut answers = client.server_reflection_info(tokio_stream(ask)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let v1::server_reflection_response::MessageResponse::ListServicesResponse(list) = answer else {
        panic!("no list")
    };
    let mut names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(
        names,
        ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "latchkey.v1.TokenService"]
    );

    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel(&app).await);
    let symbol = v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
        "latchkey.v1.TokenService".into(),
    );
    let ask = v1alpha::ServerReflectionRequest { message_request: Some(symbol), ..Default::default() };
    let mut answers = client.server_reflection_info(tokio_stream(ask)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    assert!(matches!(
        answer,
        v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_)
    ));
}

fn tokio_stream<T>(one: T) -> impl tonic::codegen::tokio_stream::Stream<Item = T> {
    tonic::codegen::tokio_stream::iter([one])
}
