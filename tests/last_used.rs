use std::time::SystemTime;

use latchkey::proto::latchkey::{
    CreateTokenRequest, ListTokensRequest, ValidateTokenRequest, token_service_client::TokenServiceClient,
    validate_token_response::Outcome,
};
use prost_types::Timestamp;
use rstest::rstest;
use tonic::transport::Channel;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    latchkey::Process,
    until,
};

#[rstest]
#[tokio::test]
async fn it_is_noted_in_time_and_at_the_stop(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start_with(database, &["--last-used-interval", "1s"]).await;
    let (_, used) = app.issue("alice", "used").await;
    app.issue("alice", "unused").await;
    let before = SystemTime::now();
    app.validate(&used).await.unwrap();
    let noted = until("a note of the use", || async {
        let page = app.page("alice", 0, "").await.unwrap();
        assert_eq!(page.tokens[0].last_used_time, None);
        page.tokens[1].last_used_time
    })
    .await;
    let noted_at = SystemTime::try_from(noted).unwrap();
    assert!(noted_at + std::time::Duration::from_micros(1) > before && noted_at <= SystemTime::now());

    let app = app.restart(&["--last-used-interval", "1h"]).await;
    app.validate(&used).await.unwrap();
    let app = app.restart(&[]).await;
    let again = app.page("alice", 0, "").await.unwrap().tokens[1].last_used_time.unwrap();
    assert!((again.seconds, again.nanos) > (noted.seconds, noted.nanos), "the stop wrote it down");
}

#[rstest]
#[tokio::test]
async fn it_never_goes_back(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start(database).await;
    let (_, secret) = app.issue("alice", "one").await;
    app.sql("UPDATE tokens SET last_used_at = '2999-01-01 00:00:00+00:00'").await;
    app.validate(&secret).await.unwrap();
    let app = app.restart(&[]).await;
    let noted = app.page("alice", 0, "").await.unwrap().tokens[0].last_used_time.unwrap();
    assert_eq!(noted.seconds, 32_472_144_000);
}

#[tokio::test]
async fn a_crash_loses_what_was_not_noted_yet_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--last-used-interval", "1s"]);
    let mut client = TokenServiceClient::connect(process.url()).await.unwrap();
    let create = CreateTokenRequest { user_id: "alice".into(), name: "one".into(), ..Default::default() };
    let secret = client.create_token(create).await.unwrap().into_inner().secret;
    let validate = || ValidateTokenRequest { secret: secret.clone().into(), ..Default::default() };
    client.validate_token(validate()).await.unwrap();
    let noted = until("a note of the use", || {
        let mut client = client.clone();
        async move { last_used(&mut client).await }
    })
    .await;
    client.validate_token(validate()).await.unwrap();
    process.kill();

    let process = Process::start(folder.path(), &[]);
    let mut client = TokenServiceClient::connect(process.url()).await.unwrap();
    let kept = last_used(&mut client).await.unwrap();
    assert!((kept.seconds, kept.nanos) >= (noted.seconds, noted.nanos), "{kept:?}, after {noted:?}");
    let verdict = client.validate_token(validate()).await.unwrap().into_inner().outcome;
    assert!(matches!(verdict, Some(Outcome::Valid(_))), "{verdict:?}");
}

async fn last_used(client: &mut TokenServiceClient<Channel>) -> Option<Timestamp> {
    let list = ListTokensRequest { user_id: "alice".into(), ..Default::default() };
    client.list_tokens(list).await.unwrap().into_inner().tokens.remove(0).last_used_time
}

#[tokio::test]
async fn an_invalid_token_is_not_used() {
    let app = App::start(Sqlite).await;
    let (_, secret) = app.issue("alice", "one").await;
    app.validate_for(&secret, &["admin"]).await.unwrap_err();
    let app = app.restart(&[]).await;
    assert_eq!(app.page("alice", 0, "").await.unwrap().tokens[0].last_used_time, None);
}
