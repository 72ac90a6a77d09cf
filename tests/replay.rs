use async_nats::jetstream::consumer::PullConsumer;
use futures_util::StreamExt as _;
use latchkey::proto::latchkey::invalid::Reason;
use sea_orm::{ConnectionTrait as _, Database as Connection, DbBackend, Statement};

use crate::support::{
    App,
    Database::Postgres,
    database::SOME_TIME,
    latchkey::Process,
    nats::{Identity, Nats, SUBJECT, attached, protobuf},
    postgres::{self, Options},
    proxy::Proxy,
    soon,
    standby::Standby,
    until,
};

/// Headers that the client library cannot read.
const DAMAGED: &[u8] = b"NATS/1.0\r\nX-Name: Jos\xe9\r\n\r\n";

/// A database that can fail over while the service runs, and a broker.
struct Site {
    nats: Nats,
    identity: Identity,
    primary: postgres::Postgres,
    proxy: Proxy,
    /// The URL of the database on the primary.
    url: String,
}

impl Site {
    async fn new() -> Self {
        let nats = Nats::start();
        let identity = nats.with_identity_stream().await;
        let options = Options { settings: &["wal_level=replica"], ..Default::default() };
        let primary = postgres::Postgres::start_with(&options);
        let url = primary.create_database().await;
        let proxy = Proxy::to(primary.port()).await;
        Self { nats, identity, primary, proxy, url }
    }

    /// Starts a service whose connections follow the failover.
    async fn serve(&self) -> App {
        let url = self.proxy.url_of(&self.url);
        let nats = self.nats.url();
        let settings = ["--nats-url", &nats, "--nats-ack-wait", "1s"];
        let app = App::start_on(url, tempfile::tempdir().unwrap(), &settings).await;
        app.attached().await;
        app
    }

    /// Publishes deletions and messages that cannot be read, and waits until they have been answered.
    async fn delete_users(&self) {
        self.nats.publish_raw(SUBJECT, DAMAGED, b"\xff").await;
        self.identity.publish(&[], b"\xff".to_vec()).await;
        self.nats.publish_raw(SUBJECT, DAMAGED, &protobuf("damaged")).await;
        self.identity.delete_user("good").await;
        self.identity.all_answered().await;
        assert_eq!(self.identity.dead_letters().await.len(), 2);
    }

    /// Replaces the primary by its standby.
    async fn fail_over(&mut self, standby: &Standby) {
        self.primary.stop();
        standby.promote().await;
        let database = Connection::connect(standby.url(&self.url)).await.unwrap();
        let lost = "SELECT FROM users WHERE user_id IN ('damaged', 'good') AND deleted_at IS NULL";
        let lost = Statement::from_string(DbBackend::Postgres, lost);
        assert_eq!(database.query_all_raw(lost).await.unwrap().len(), 2, "the deletions are lost");
        self.proxy.redirect_to(standby.port);
    }
}

/// Waits until a token is refused because its user is deleted. Calls fail until the service has found the new primary.
async fn refuses(app: &App, secret: &str) {
    until("a refusal", || async {
        let refused = app.try_validate(secret, &[]).await.ok()?.err()?;
        assert_eq!(refused, Reason::UserDeleted);
        Some(())
    })
    .await;
}

/// Two were lost and are applied again. The messages that cannot be read are not copied to the dead letters again.
async fn lost_deletions_are_applied_again(site: &Site, app: &App, secrets: &[String]) {
    for secret in secrets {
        refuses(app, secret).await;
    }
    app.metric_becomes("latchkey_events_replayed_total", 2.0).await;
    assert_eq!(site.identity.dead_letters().await.len(), 2);
    assert_eq!(app.create("good", "two").await.unwrap_err().code(), tonic::Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_service_applies_again_what_a_failover_has_lost() {
    let mut site = Site::new().await;
    let app = site.serve().await;
    let kept = app.issue("kept", "one").await.1;
    app.issue("early", "one").await;
    site.identity.delete_user("early").await;
    let secrets = [app.issue("damaged", "one").await.1, app.issue("good", "one").await.1];
    site.identity.all_answered().await;
    let standby = Standby::of(&site.primary);
    standby.cut_off().await;
    site.delete_users().await;
    for secret in &secrets {
        assert_eq!(app.validate(secret).await, Err(Reason::UserDeleted));
    }
    site.fail_over(&standby).await;
    lost_deletions_are_applied_again(&site, &app, &secrets).await;
    app.validate(&kept).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_starts_after_a_failover_applies_again_what_was_lost() {
    let mut site = Site::new().await;
    let app = site.serve().await;
    let secrets = [app.issue("damaged", "one").await.1, app.issue("good", "one").await.1];
    let standby = Standby::of(&site.primary);
    standby.cut_off().await;
    site.delete_users().await;
    app.server.stopper().cancel();
    soon("stop", app.server.ended()).await.unwrap();
    site.fail_over(&standby).await;
    let app = site.serve().await;
    lost_deletions_are_applied_again(&site, &app, &secrets).await;
}

/// As in a database that was restored into another cluster: its epoch is not recorded, and deletions are missing.
const RESTORED: &str = "DELETE FROM account_event_replays; UPDATE users SET deleted_at = NULL";
const DELETED: &str = "users WHERE deleted_at IS NOT NULL";
const REPLAYED: &str = "account_event_replays";

async fn becomes(app: &App, rows: &str, expected: i64) {
    until(rows, || async { (app.count(rows).await == expected).then_some(()) }).await;
}

/// Acknowledges what the stream holds, as a service would whose commits are then lost.
async fn acknowledge_all(identity: &Identity, messages: usize) {
    let stream = identity.0.get_stream("IDENTITY").await.unwrap();
    let consumer: PullConsumer = stream.get_consumer("latchkey").await.unwrap();
    let mut left = messages;
    let acknowledging = async {
        // A fetch returns what the broker has ready at that moment.
        while left > 0 {
            let batch = consumer.fetch().max_messages(left).messages().await.unwrap();
            let acknowledged = batch.then(|message| async move { message.unwrap().ack().await.unwrap() });
            left -= acknowledged.count().await;
        }
    };
    soon("every message", acknowledging).await;
    identity.all_answered().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_long_stream_only_what_was_lost_is_applied() {
    // More than one query's worth for each of the readers.
    const USERS: usize = 5_000;
    const LOST: usize = USERS / 100;
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(Postgres, &nats, &[]).await;
    app.server.stopper().cancel();
    for n in 0..USERS {
        if n % 10 == 0 {
            identity.0.publish("identity.v1.user_created", "".into()).await.unwrap().await.unwrap();
        }
        let deleted = protobuf(&format!("user {n}"));
        identity.0.publish(SUBJECT, deleted.into()).await.unwrap().await.unwrap();
    }
    acknowledge_all(&identity, USERS).await;
    let kept = format!("SELECT 'user ' || n, {SOME_TIME} FROM {} AS s", Postgres.series(USERS - 1));
    app.sql(&format!("INSERT INTO users (user_id, deleted_at) {kept} WHERE n % 100 <> 0")).await;
    app.sql("DELETE FROM account_event_replays").await;

    let app = app.restart(&["--nats-url", &nats.url()]).await;
    becomes(&app, REPLAYED, 1).await;
    assert_eq!(app.count(DELETED).await, USERS as i64);
    assert_eq!(app.metric("latchkey_events_replayed_total").await, LOST as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_fails_is_tried_again_and_messages_are_handled_meanwhile() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(Postgres, &nats, &[]).await;
    identity.delete_user("alice").await;
    identity.delete_user("bob").await;
    identity.all_answered().await;
    app.sql(RESTORED).await;
    let lock = app.lock_user("alice").await;
    let app = app.restart(&["--nats-url", &nats.url(), "--database-timeout", "500ms"]).await;
    let waiting = "pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    // The first attempt, and the second.
    for expected in [1, 0, 1] {
        becomes(&app, waiting, expected).await;
    }
    identity.delete_user("carol").await;
    identity.all_answered().await;
    assert_eq!(app.count(&format!("{DELETED} AND user_id = 'carol'")).await, 1);
    assert_eq!(app.count(REPLAYED).await, 0);
    lock.release().await;
    becomes(&app, REPLAYED, 1).await;
    assert_eq!(app.count(DELETED).await, 3);
}

/// Not on a new database, to which all messages are delivered anyway, and not at each start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_is_replayed_once_in_each_epoch() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = App::start(Postgres).await;
    let broker = nats.url();
    let settings = ["--database-url", &app.url, "--nats-url", &broker];
    identity.delete_user("alice").await;
    for (start, expected) in [("the first", 0), ("the same epoch", 0), ("an epoch without replay", 1)] {
        if expected == 1 {
            app.sql(RESTORED).await;
        }
        let folder = tempfile::tempdir().unwrap();
        let process = Process::start(folder.path(), &settings);
        process.client().await.attached().await;
        identity.delete_user("bob").await;
        identity.all_answered().await;
        becomes(&app, REPLAYED, 1).await;
        becomes(&app, DELETED, 2).await;
        let log = process.stop().await;
        let replays = log.lines().filter(|line| line.contains("replaying the account events")).count();
        assert_eq!(replays, expected, "{start}: {log}");
    }
}
