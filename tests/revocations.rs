use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use latchkey::proto::latchkey::invalid::Reason;
use rstest_reuse::apply;
use sea_orm::{ConnectionTrait as _, DatabaseConnection};
use tokio::{sync::mpsc, task::JoinSet};
use tonic::Code;

use crate::support::{
    App,
    Database::{self, Postgres},
    database::{SOME_TIME, connect},
    on_both_databases, postgres,
    proxy::Proxy,
    soon, until,
};

#[apply(on_both_databases)]
#[tokio::test]
async fn a_token_that_one_replica_revokes_is_refused_by_all(database: Database) {
    let app = App::start(database).await;
    let replica = app.replica().await;
    let (id, one) = app.issue("alice", "one").await;
    let (_, two) = app.issue("bob", "two").await;
    let (_, three) = app.issue("alice", "three").await;
    for secret in [&one, &two, &three] {
        app.validate(secret).await.unwrap();
        replica.validate(secret).await.unwrap();
    }
    app.delete("alice", &id).await.unwrap();
    assert_eq!(app.validate(&one).await, Err(Reason::Revoked), "at once at the replica that revoked it");
    replica.refuses(&one, Reason::Revoked).await;
    app.delete_user("bob").await;
    assert_eq!(app.validate(&two).await, Err(Reason::UserDeleted), "at once at the replica that revoked it");
    replica.refuses(&two, Reason::UserDeleted).await;
    replica.validate(&three).await.unwrap();
}

/// Begins a transaction that revokes a token, and leaves it open.
async fn revoking(app: &App, id: &str) -> DatabaseConnection {
    let open = app.database().await;
    for sql in [
        "BEGIN".to_owned(),
        format!("UPDATE tokens SET revoked_at = now(), revoke_reason = 'deleted' WHERE id = '{id}'"),
        format!(
            "INSERT INTO token_events (at, kind, token_id, user_id, actor) \
             VALUES (now(), 'token_revoked', '{id}', 'alice', 'alice')"
        ),
    ] {
        open.execute_unprepared(&sql).await.unwrap();
    }
    open
}

/// SQLite has one writer at a time, so there transactions cannot overlap.
#[tokio::test]
async fn a_revocation_that_commits_late_is_not_missed() {
    let app = App::start(Postgres).await;
    let (early_id, early) = app.issue("alice", "early").await;
    app.validate(&early).await.unwrap();
    let open = revoking(&app, &early_id).await;
    // These events have greater ids and are visible first. Each is read by another poll.
    for name in ["late", "later", "latest"] {
        let (id, late) = app.issue("alice", name).await;
        app.validate(&late).await.unwrap();
        revoking(&app, &id).await.execute_unprepared("COMMIT").await.unwrap();
        app.refuses(&late, Reason::Revoked).await;
    }
    app.validate(&early).await.unwrap();
    open.execute_unprepared("COMMIT").await.unwrap();
    app.refuses(&early, Reason::Revoked).await;
}

/// The service starts, and reads the log for the first time, while the transaction is open.
#[tokio::test]
async fn a_revocation_that_began_before_the_start_is_not_missed() {
    let app = App::start(Postgres).await;
    let (early_id, early) = app.issue("alice", "early").await;
    let open = revoking(&app, &early_id).await;
    app.issue("alice", "later event").await;
    let app = app.restart(&[]).await;
    app.validate(&early).await.unwrap();
    app.validate(&early).await.unwrap();
    open.execute_unprepared("COMMIT").await.unwrap();
    app.refuses(&early, Reason::Revoked).await;
}

/// A newer version may have kinds of events that take access away in new ways.
#[apply(on_both_databases)]
#[tokio::test]
async fn an_event_of_a_kind_that_this_version_does_not_know_evicts(database: Database) {
    let app = App::start(database).await;
    let (id, secret) = app.issue("alice", "one").await;
    for (name, token) in [("two", database.id(&id)), ("three", "NULL".to_owned())] {
        let known = app.validate(&secret).await.unwrap().name;
        app.sql(&format!("UPDATE tokens SET name = '{name}'")).await;
        assert_eq!(app.validate(&secret).await.unwrap().name, known, "from memory");
        app.sql(&format!(
            "INSERT INTO token_events (at, kind, token_id, user_id, actor) \
             VALUES ({SOME_TIME}, 'of_a_newer_version', {token}, 'alice', 'a')"
        ))
        .await;
        until("an answer from the database", || async {
            (app.validate(&secret).await.unwrap().name == name).then_some(())
        })
        .await;
    }
}

/// When there are more events than one poll reads, the service evicts everything and continues behind them.
#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_revocations_at_once_take_effect_in_time(database: Database) {
    const REVOCATIONS: usize = 1_000_000;
    let app = App::start(database).await;
    let (id, doomed) = app.issue("alice", "doomed").await;
    let (_, kept) = app.issue("alice", "kept").await;
    app.validate(&doomed).await.unwrap();
    app.validate(&kept).await.unwrap();
    let id = database.id(&id);
    let insert = |ids: &str, from: &str| {
        format!(
            "INSERT INTO token_events (at, kind, token_id, user_id, actor) \
             SELECT {SOME_TIME}, 'token_revoked', {ids}, 'a', 'a' FROM {from}"
        )
    };
    let open = app.database().await;
    for sql in [
        "BEGIN".to_owned(),
        format!("UPDATE tokens SET revoked_at = {SOME_TIME}, revoke_reason = 'deleted' WHERE id = {id}"),
        insert(&id, "(SELECT 1) AS one"),
        insert(database.random_id(), &format!("{} AS s", database.series(REVOCATIONS))),
        "COMMIT".to_owned(),
    ] {
        open.execute_unprepared(&sql).await.unwrap();
    }
    let committed = Instant::now();
    app.refuses(&doomed, Reason::Revoked).await;
    assert!(committed.elapsed() < Duration::from_secs(2), "{:?}", committed.elapsed());
    app.validate(&kept).await.unwrap();
    // Cached tokens are trusted again, and the service stays ready.
    app.sql("UPDATE tokens SET name = 'changed' WHERE name = 'kept'").await;
    for _ in 0..20 {
        assert_eq!(app.validate(&kept).await.unwrap().name, "kept", "from memory");
        let (status, body) = app.get("/readyz").await;
        assert_eq!(status, 200, "{body}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[apply(on_both_databases)]
#[tokio::test]
async fn while_the_log_is_unreadable_cached_tokens_are_trusted_for_a_bounded_time(database: Database) {
    let app = App::start_with(database, &["--max-staleness", "1s"]).await;
    let (_, secret) = app.issue("alice", "one").await;
    app.validate(&secret).await.unwrap();
    app.sql("UPDATE tokens SET name = 'changed'").await;
    assert_eq!(app.validate(&secret).await.unwrap().name, "one", "from memory");
    app.sql("ALTER TABLE token_events RENAME TO elsewhere").await;
    let hidden = Instant::now();
    // Nobody can take a SQLite file away from its readers; a server of PostgreSQL may be one that was replaced.
    until("no answer from memory", || async {
        match app.try_validate(&secret, &[]).await {
            Ok(verdict) => (verdict.unwrap().name == "changed").then_some(()),
            Err(status) if database == Postgres => {
                assert_eq!(status.code(), Code::Unavailable);
                Some(())
            }
            Err(status) => panic!("{status:?}"),
        }
    })
    .await;
    assert!(hidden.elapsed() < Duration::from_secs(3), "{:?}", hidden.elapsed());
}

const STALE_SOON: [&str; 4] = ["--max-staleness", "1s", "--database-timeout", "500ms"];

/// Callers that validate one token all the time, and the answers they get.
struct Load {
    answers: mpsc::Receiver<Answer>,
    _callers: JoinSet<()>,
}

struct Answer {
    caller: usize,
    asked: Instant,
    outcome: Result<(), Code>,
}

const CALLERS: usize = 16;
const BETWEEN_CALLS: Duration = Duration::from_millis(10);
/// The answers of all callers in half a minute.
const QUEUED_ANSWERS: usize = 3_000 * CALLERS;

impl Load {
    fn start(app: &Arc<App>, secret: &str) -> Self {
        let (sender, answers) = mpsc::channel(QUEUED_ANSWERS);
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let (app, secret, sender) = (Arc::clone(app), secret.to_owned(), sender.clone());
            callers.spawn(async move {
                loop {
                    let asked = Instant::now();
                    let answer = app.try_validate(&secret, &[]).await;
                    // The token is valid: any other answer would be a guess.
                    let outcome =
                        answer.map(|verdict| drop(verdict.unwrap())).map_err(|status| status.code());
                    if sender.send(Answer { caller, asked, outcome }).await.is_err() {
                        return;
                    }
                    // Leaves the service time on the processor.
                    tokio::time::sleep(BETWEEN_CALLS).await;
                }
            });
        }
        Self { answers, _callers: callers }
    }

    async fn next(&mut self) -> Answer {
        soon("an answer", self.answers.recv()).await.unwrap()
    }

    /// Checks that every caller gets UNAVAILABLE in time, and nothing but "valid" until then.
    async fn becomes_unavailable(&mut self) {
        let cut = Instant::now();
        let mut refused = [false; CALLERS];
        while refused.contains(&false) {
            let answer = self.next().await;
            assert!(matches!(answer.outcome, Ok(()) | Err(Code::Unavailable)), "{:?}", answer.outcome);
            refused[answer.caller] |= answer.outcome.is_err();
        }
        assert!(cut.elapsed() < Duration::from_secs(4), "{:?}", cut.elapsed());
    }

    /// Checks that every call that begins a second after the database is back succeeds.
    async fn resumes(&mut self) {
        let back = Instant::now();
        let mut answered = [false; CALLERS];
        while answered.contains(&false) {
            let answer = self.next().await;
            let late = answer.asked.saturating_duration_since(back) >= Duration::from_secs(1);
            assert!(!late || answer.outcome.is_ok(), "{:?}", answer.outcome);
            answered[answer.caller] |= late;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_database_the_service_guesses_nothing_and_resumes_with_it() {
    let mut postgres = postgres::Postgres::start();
    let url = postgres.create_database().await;
    let app = Arc::new(App::start_on(url, tempfile::tempdir().unwrap(), &STALE_SOON).await);
    let (_, secret) = app.issue("alice", "one").await;
    let mut load = Load::start(&app, &secret);
    load.next().await.outcome.unwrap();
    postgres.stop();
    load.becomes_unavailable().await;
    postgres.resume();
    load.resumes().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_hanging_connection_the_service_guesses_nothing_and_resumes_with_it() {
    let (proxy, url) = Proxy::to_new_database().await;
    let app = Arc::new(App::start_on(url, tempfile::tempdir().unwrap(), &STALE_SOON).await);
    let (_, secret) = app.issue("alice", "one").await;
    let mut load = Load::start(&app, &secret);
    load.next().await.outcome.unwrap();
    proxy.swallow_requests();
    load.becomes_unavailable().await;
    proxy.pass_requests();
    // A token that was evicted is cached again: a read of the log that timed out evicts everything.
    load.resumes().await;
    // Cached tokens are trusted again: without the table nothing else can answer.
    app.sql("ALTER TABLE tokens RENAME TO elsewhere").await;
    load.resumes().await;
    app.sql("ALTER TABLE elsewhere RENAME TO tokens").await;
    // The pools have closed the connections that hung.
    app.issue("alice", "two").await;
}

#[tokio::test]
async fn a_log_that_became_shorter_evicts_everything() {
    let app = App::start(Postgres).await;
    let (_, secret) = app.issue("alice", "one").await;
    let (id, seen) = app.issue("alice", "two").await;
    app.validate(&secret).await.unwrap();
    app.validate(&seen).await.unwrap();
    revoking(&app, &id).await.execute_unprepared("COMMIT").await.unwrap();
    app.refuses(&seen, Reason::Revoked).await;
    app.sql("UPDATE tokens SET name = 'restored' WHERE name = 'one'").await;
    assert_eq!(app.validate(&secret).await.unwrap().name, "one", "from memory");
    app.sql("TRUNCATE token_events").await;
    until("an answer from the database", || async {
        (app.validate(&secret).await.unwrap().name == "restored").then_some(())
    })
    .await;
}

/// Transactions of other databases, and their subtransactions, use up ids, and are none of this one's concern.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_neighbour_in_the_cluster_empties_no_cache() {
    let app = App::start(Postgres).await;
    let (_, secret) = app.issue("alice", "one").await;
    app.validate(&secret).await.unwrap();
    app.sql("UPDATE tokens SET name = 'changed'").await;
    let neighbour = connect(postgres::Postgres::shared().create_database().await).await;
    neighbour.execute_unprepared("CREATE TABLE rows (n int)").await.unwrap();
    let busy = "DO $$ BEGIN FOR n IN 1..10100 LOOP \
                BEGIN INSERT INTO rows VALUES (n); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$";
    neighbour.execute_unprepared(busy).await.unwrap();
    let reads = app.metric("latchkey_revocation_events_read_total").await;
    // One that is read after it.
    let (id, _) = app.issue("bob", "two").await;
    app.delete("bob", &id).await.unwrap();
    until("a read", || async {
        (app.metric("latchkey_revocation_events_read_total").await > reads).then_some(())
    })
    .await;
    assert_eq!(app.validate(&secret).await.unwrap().name, "one", "from memory");
}
