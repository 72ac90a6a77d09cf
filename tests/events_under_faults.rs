use std::{path::Path, time::Duration};

use latchkey::proto::latchkey::{
    CreateTokenRequest, ValidateTokenRequest, invalid::Reason, token_service_client::TokenServiceClient,
    validate_token_response::Outcome,
};
use rstest::rstest;
use tonic::transport::Channel;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    app::connect,
    latchkey::Process,
    nats::{Identity, Nats, attached},
    postgres,
    proxy::Proxy,
    until,
};

/// A replica as a process of its own, on the database at `url`.
fn replica(folder: &Path, url: &str, nats_url: &str) -> Process {
    let settings =
        ["--database-url", url, "--nats-url", nats_url, "--nats-ack-wait", "1s", "--database-timeout", "3s"];
    Process::start(folder, &settings)
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_receipt_and_commit(#[values(Sqlite, Postgres)] database: Database) {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = App::start(database).await;
    let (_, secret) = app.issue("alice", "one").await;
    let process = replica(app.folder.path(), &app.url, &nats.url());
    let lock = app.lock_user("alice").await;
    identity.delete_user("alice").await;
    identity.consumer_shows("the receipt", |it| it.num_ack_pending == 1).await;
    process.kill();
    lock.release().await;
    assert!(app.validate(&secret).await.is_ok(), "it was killed before the commit");

    let process = replica(app.folder.path(), &app.url, &nats.url());
    identity.all_answered().await;
    app.refuses(&secret, Reason::UserDeleted).await;
    process.stop().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_commit_and_acknowledgement(#[values(Sqlite, Postgres)] database: Database) {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = App::start(database).await;
    let (_, secret) = app.issue("alice", "one").await;
    let proxy = Proxy::to(nats.port()).await;
    let process = replica(app.folder.path(), &app.url, &format!("nats://{}", proxy.addr));
    identity.consumer_shows("a request for messages", |it| it.num_waiting > 0).await;
    proxy.swallow_requests();
    identity.delete_user("alice").await;
    until("the commit", || async { app.validate(&secret).await.err() }).await;
    process.kill();
    assert_eq!(
        identity.consumer().await.ack_floor.stream_sequence,
        0,
        "it was killed before it was acknowledged"
    );

    let process = replica(app.folder.path(), &app.url, &nats.url());
    identity.all_answered().await;
    assert!(identity.consumer().await.delivered.consumer_sequence >= 2, "it came again");
    app.refuses(&secret, Reason::UserDeleted).await;
    assert_eq!(app.count("token_events WHERE kind = 'user_deleted'").await, 1);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_restarts_loses_nothing() {
    let mut postgres = postgres::Postgres::start();
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let url = postgres.create_database().await;
    let nats_url = nats.url();
    let settings = ["--nats-url", &nats_url, "--database-timeout", "500ms"];
    let app = App::start_on(url, tempfile::tempdir().unwrap(), &settings).await;
    let (_, secret) = app.issue("alice", "one").await;
    crate::support::nats::wait_until_attached(&app).await;
    postgres.stop();
    identity.delete_user("alice").await;
    identity.redelivered(2).await;
    postgres.resume();
    identity.all_answered().await;
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_restarts_while_a_message_is_handled_loses_nothing() {
    let mut nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(Sqlite, &nats, &["--nats-ack-wait", "1s", "--database-timeout", "20s"]).await;
    let (_, secret) = app.issue("alice", "one").await;
    let lock = app.lock_user("alice").await;
    identity.delete_user("alice").await;
    identity.consumer_shows("the receipt", |it| it.num_ack_pending == 1).await;
    nats.stop();
    lock.release().await;
    nats.resume();
    let identity = Identity(nats.jetstream().await);
    identity.all_answered().await;
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
    assert_eq!(app.count("token_events WHERE kind = 'user_deleted'").await, 1);
}

const BATCHES: usize = 10;
const BATCH: usize = 100;
const POISON_IN_EACH: usize = 5;
const SURVIVORS: usize = 100;

/// Two replicas, a thousand deleted users, poison in between, and everything fails in turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_deleted_users_with_everything_failing() {
    let mut postgres = postgres::Postgres::start();
    let mut nats = Nats::start();
    let mut identity = nats.with_identity_stream().await;
    let url = postgres.create_database().await;
    let (nats_url, folder) = (nats.url(), tempfile::tempdir().unwrap());
    // One ring for both, so that this is about events and not about argon2.
    let start = || replica(folder.path(), &url, &nats_url);
    let (mut one, mut two) = (start(), start());

    let client = connect(&one.url()).await;
    let doomed = issue(&client, "doomed", BATCHES * BATCH).await;
    let survivors = issue(&client, "survivor", SURVIVORS).await;

    for batch in 0..BATCHES {
        let publisher = tokio::spawn(publish(identity.clone(), batch));
        match batch % 5 {
            0 => {
                one.kill();
                one = start();
            }
            1 => {
                postgres.stop();
                postgres.resume();
            }
            2 => {
                two.kill();
                two = start();
            }
            3 => {
                publisher.await.unwrap();
                nats.stop();
                nats.resume();
                identity = Identity(nats.jetstream().await);
                continue;
            }
            _ => {
                one.kill();
                postgres.stop();
                postgres.resume();
                one = start();
            }
        }
        publisher.await.unwrap();
    }

    for _ in 0..3 {
        // Delays between deliveries grow: this takes longer than anything else that tests wait for.
        if tokio::time::timeout(Duration::from_secs(25), identity.all_answered()).await.is_ok() {
            break;
        }
    }
    identity.all_answered().await;
    for process in [&one, &two] {
        let client = connect(&process.url()).await;
        for secret in &doomed {
            assert_eq!(validate(&client, secret).await, Err(Reason::UserDeleted));
        }
        for secret in &survivors {
            assert_eq!(validate(&client, secret).await, Ok(()));
        }
    }
    let consumer = identity.consumer().await;
    assert_eq!((consumer.num_pending, consumer.num_ack_pending), (0, 0));
    let letters = identity.dead_letters().await;
    let bodies: std::collections::BTreeSet<Vec<u8>> = letters.into_iter().map(|(_, body)| body).collect();
    let sent = (0..BATCHES).flat_map(|batch| (0..POISON_IN_EACH).map(move |n| poison(batch, n))).collect();
    assert_eq!(bodies, sent);
    one.stop().await;
    two.stop().await;
}

fn poison(batch: usize, n: usize) -> Vec<u8> {
    format!("\u{7}poison {batch} {n}").into_bytes()
}

async fn publish(identity: Identity, batch: usize) {
    for n in 0..BATCH {
        if n % (BATCH / POISON_IN_EACH) == 0 {
            identity.publish(&[], poison(batch, n / (BATCH / POISON_IN_EACH))).await;
        }
        identity.delete_user(&format!("doomed {}", batch * BATCH + n)).await;
    }
}

/// A token for each of `count` users.
async fn issue(client: &TokenServiceClient<Channel>, users: &str, count: usize) -> Vec<String> {
    let mut secrets = Vec::new();
    for n in 0..count {
        let request = CreateTokenRequest {
            user_id: format!("{users} {n}"),
            name: "one".into(),
            ..CreateTokenRequest::default()
        };
        secrets.push(client.clone().create_token(request).await.unwrap().into_inner().secret);
    }
    secrets
}

async fn validate(client: &TokenServiceClient<Channel>, secret: &str) -> Result<(), Reason> {
    let request = ValidateTokenRequest { secret: secret.into(), required_scopes: vec![] };
    match client.clone().validate_token(request).await.unwrap().into_inner().outcome.unwrap() {
        Outcome::Valid(_) => Ok(()),
        Outcome::Invalid(invalid) => Err(invalid.reason()),
    }
}
