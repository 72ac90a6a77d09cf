use std::{collections::BTreeSet, path::Path, time::Duration};

use latchkey::proto::latchkey::invalid::Reason;
use rstest_reuse::apply;

use crate::support::{
    App, Client,
    Database::{self, Sqlite},
    latchkey::Process,
    nats::{Identity, Nats, attached},
    on_both_databases, postgres,
    proxy::Proxy,
    until,
};

/// Starts a replica in a process, on the database at `url`.
fn replica(folder: &Path, url: &str, nats_url: &str) -> Process {
    let settings =
        ["--database-url", url, "--nats-url", nats_url, "--nats-ack-wait", "1s", "--database-timeout", "3s"];
    Process::start(folder, &settings)
}

#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_receipt_and_commit_loses_nothing(database: Database) {
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
    assert!(app.validate(&secret).await.is_ok(), "the crash came before the commit");

    let process = replica(app.folder.path(), &app.url, &nats.url());
    identity.all_answered().await;
    app.refuses(&secret, Reason::UserDeleted).await;
    process.stop().await;
}

#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_commit_and_acknowledgement_repeats_nothing(database: Database) {
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
    let acknowledged = identity.consumer().await.ack_floor.stream_sequence;
    assert_eq!(acknowledged, 0, "the crash came before the acknowledgement");

    let process = replica(app.folder.path(), &app.url, &nats.url());
    identity.all_answered().await;
    assert!(identity.consumer().await.delivered.consumer_sequence >= 2, "the message was delivered again");
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
    app.attached().await;
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

/// The delays between deliveries grow, so the end takes longer than other tests wait for anything.
const WAITS_FOR_THE_END: usize = 3;
const WAIT_FOR_THE_END: Duration = Duration::from_secs(25);

/// Two replicas handle a thousand deleted users and some poison, while everything fails in turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_users_are_deleted_while_everything_fails() {
    let mut postgres = postgres::Postgres::start();
    let mut nats = Nats::start();
    let mut identity = nats.with_identity_stream().await;
    let url = postgres.create_database().await;
    // The replicas share a folder and so a key ring: a validation needs no argon2.
    let (nats_url, folder) = (nats.url(), tempfile::tempdir().unwrap());
    let start = || replica(folder.path(), &url, &nats_url);
    let (mut one, mut two) = (start(), start());

    let client = one.client().await;
    let doomed = issue_each(&client, "doomed", BATCHES * BATCH).await;
    let survivors = issue_each(&client, "survivor", SURVIVORS).await;

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

    for _ in 0..WAITS_FOR_THE_END {
        if tokio::time::timeout(WAIT_FOR_THE_END, identity.all_answered()).await.is_ok() {
            break;
        }
    }
    identity.all_answered().await;
    for process in [&one, &two] {
        let client = process.client().await;
        for secret in &doomed {
            assert_eq!(client.validate(secret).await, Err(Reason::UserDeleted));
        }
        for secret in &survivors {
            client.validate(secret).await.unwrap();
        }
    }
    let consumer = identity.consumer().await;
    assert_eq!((consumer.num_pending, consumer.num_ack_pending), (0, 0));
    let letters = identity.dead_letters().await;
    let bodies: BTreeSet<Vec<u8>> = letters.into_iter().map(|(_, body)| body).collect();
    let sent = (0..BATCHES).flat_map(|batch| (0..POISON_IN_EACH).map(move |n| poison(batch, n))).collect();
    assert_eq!(bodies, sent);
    one.stop().await;
    two.stop().await;
}

/// A body that is not UserDeleted in any form.
fn poison(batch: usize, n: usize) -> Vec<u8> {
    format!("\u{7}poison {batch} {n}").into_bytes()
}

async fn publish(identity: Identity, batch: usize) {
    const DISTANCE: usize = BATCH / POISON_IN_EACH;
    for n in 0..BATCH {
        if n % DISTANCE == 0 {
            identity.publish(&[], poison(batch, n / DISTANCE)).await;
        }
        identity.delete_user(&format!("doomed {}", batch * BATCH + n)).await;
    }
}

/// Issues one token for each of `count` users, and returns the bearer tokens.
async fn issue_each(client: &Client, users: &str, count: usize) -> Vec<String> {
    let mut secrets = Vec::new();
    for n in 0..count {
        secrets.push(client.issue(&format!("{users} {n}"), "one").await.1);
    }
    secrets
}
