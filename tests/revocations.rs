use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use latchkey::proto::latchkey::invalid::Reason;
use rstest::rstest;
use sea_orm::{ConnectionTrait as _, DatabaseConnection};
use tokio::{sync::mpsc, task::JoinSet};
use tonic::Code;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    http, postgres,
    proxy::Proxy,
    soon, until,
};

#[rstest]
#[tokio::test]
async fn what_one_replica_revokes_all_refuse(#[values(Sqlite, Postgres)] database: Database) {
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
    assert_eq!(app.validate(&one).await, Err(Reason::Revoked), "at once where it was asked for");
    replica.refuses(&one, Reason::Revoked).await;
    app.delete_user("bob").await;
    assert_eq!(app.validate(&two).await, Err(Reason::UserDeleted), "at once where it was asked for");
    replica.refuses(&two, Reason::UserDeleted).await;
    replica.validate(&three).await.unwrap();
}

/// A transaction of the test's own that revokes a token, not yet committed.
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

/// On SQLite there is one writer: no transaction can be open around another.
#[tokio::test]
async fn a_revocation_that_becomes_visible_late_is_not_missed() {
    let app = App::start(Postgres).await;
    let (early_id, early) = app.issue("alice", "early").await;
    app.validate(&early).await.unwrap();
    let open = revoking(&app, &early_id).await;
    // With greater ids, and visible first; seen by three looks into the log, one after the other.
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

/// A service that reads its log for the first time while an older transaction is open.
#[tokio::test]
async fn nor_is_one_from_before_the_start() {
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

/// More at once than one read of the log takes: the service forgets everything, and goes on.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_revocations_at_once_are_caught_up_with(#[values(Sqlite, Postgres)] database: Database) {
    const REVOCATIONS: usize = 1_000_000;
    let app = App::start(database).await;
    let (id, doomed) = app.issue("alice", "doomed").await;
    let (_, kept) = app.issue("alice", "kept").await;
    app.validate(&doomed).await.unwrap();
    app.validate(&kept).await.unwrap();
    let (series, random_id, now, id) = match database {
        Sqlite => (
            format!(
                "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {REVOCATIONS}) SELECT n FROM s)"
            ),
            "randomblob(16)",
            "'2026-01-01 00:00:00+00:00'",
            format!("x'{}'", id.replace('-', "")),
        ),
        Postgres => {
            (format!("generate_series(1, {REVOCATIONS})"), "gen_random_uuid()", "now()", format!("'{id}'"))
        }
    };
    let insert = |ids: &str, from: &str| {
        format!(
            "INSERT INTO token_events (at, kind, token_id, user_id, actor) SELECT {now}, 'token_revoked', {ids}, 'a', 'a' FROM {from}"
        )
    };
    let open = app.database().await;
    for sql in [
        "BEGIN".to_owned(),
        format!("UPDATE tokens SET revoked_at = {now}, revoke_reason = 'deleted' WHERE id = {id}"),
        insert(&id, "(SELECT 1) AS one"),
        insert(random_id, &format!("{series} AS s")),
        "COMMIT".to_owned(),
    ] {
        open.execute_unprepared(&sql).await.unwrap();
    }
    let committed = Instant::now();
    app.refuses(&doomed, Reason::Revoked).await;
    assert!(committed.elapsed() < Duration::from_secs(2), "{:?}", committed.elapsed());
    app.validate(&kept).await.unwrap();
    // Memory is trusted again, and the service was ready all the time.
    app.sql("UPDATE tokens SET name = 'changed' WHERE name = 'kept'").await;
    for _ in 0..20 {
        assert_eq!(app.validate(&kept).await.unwrap().name, "kept", "from memory");
        let (status, _, body) = http::send(app.server.http_addr(), "GET /readyz", &[], b"").await;
        assert_eq!(status, 200, "{body}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[rstest]
#[tokio::test]
async fn without_sight_of_them_memory_is_trusted_for_a_bounded_time(
    #[values(Sqlite, Postgres)] database: Database,
) {
    let app = App::start_with(database, &["--max-staleness", "1s"]).await;
    let (_, secret) = app.issue("alice", "one").await;
    app.validate(&secret).await.unwrap();
    app.sql("UPDATE tokens SET name = 'changed'").await;
    assert_eq!(app.validate(&secret).await.unwrap().name, "one", "from memory");
    app.sql("ALTER TABLE token_events RENAME TO elsewhere").await;
    let hidden = Instant::now();
    until("an answer of the database's", || async {
        (app.validate(&secret).await.unwrap().name == "changed").then_some(())
    })
    .await;
    assert!(hidden.elapsed() < Duration::from_secs(3), "{:?}", hidden.elapsed());
}

const STALE_SOON: [&str; 4] = ["--max-staleness", "1s", "--database-timeout", "500ms"];

/// Callers who validate one token all the time, and what they are told.
struct Load {
    answers: mpsc::UnboundedReceiver<Answer>,
    _callers: JoinSet<()>,
}

struct Answer {
    caller: usize,
    asked: Instant,
    outcome: Result<(), Code>,
}

const CALLERS: usize = 16;

impl Load {
    fn start(app: &Arc<App>, secret: &str) -> Self {
        let (tell, answers) = mpsc::unbounded_channel();
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let (app, secret, tell) = (Arc::clone(app), secret.to_owned(), tell.clone());
            callers.spawn(async move {
                loop {
                    let asked = Instant::now();
                    let answer = app.try_validate(&secret, &[]).await;
                    // Never an answer that would be a guess: it is valid.
                    let outcome =
                        answer.map(|verdict| drop(verdict.unwrap())).map_err(|status| status.code());
                    if tell.send(Answer { caller, asked, outcome }).is_err() {
                        return;
                    }
                    // Else the callers would take the processor that the service needs.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            });
        }
        Self { answers, _callers: callers }
    }

    async fn next(&mut self) -> Answer {
        soon("an answer", self.answers.recv()).await.unwrap()
    }

    /// Valid, then UNAVAILABLE once memory is too old, and never anything else.
    async fn becomes_unavailable(&mut self) {
        let cut = Instant::now();
        let mut told = [false; CALLERS];
        while told.contains(&false) {
            let answer = self.next().await;
            assert!(matches!(answer.outcome, Ok(()) | Err(Code::Unavailable)), "{:?}", answer.outcome);
            told[answer.caller] |= answer.outcome.is_err();
        }
        assert!(cut.elapsed() < Duration::from_secs(4), "{:?}", cut.elapsed());
    }

    /// Whoever asks a second after the database is back is answered again.
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
async fn with_the_database_stopped_nothing_is_guessed_and_service_resumes() {
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
async fn with_a_way_to_the_database_that_hangs_nothing_is_guessed_and_service_resumes() {
    let url = postgres::Postgres::shared().create_database().await;
    let (_, rest) = url.split_once("127.0.0.1:").unwrap();
    let (port, name) = rest.split_once('/').unwrap();
    let proxy = Proxy::to(port.parse().unwrap()).await;
    let url = format!("postgres://postgres@{}/{name}", proxy.addr);
    let app = Arc::new(App::start_on(url, tempfile::tempdir().unwrap(), &STALE_SOON).await);
    let (_, secret) = app.issue("alice", "one").await;
    let mut load = Load::start(&app, &secret);
    load.next().await.outcome.unwrap();
    proxy.swallow_requests();
    load.becomes_unavailable().await;
    proxy.pass_requests();
    // Memory is trusted again: there is nothing else to answer from.
    app.sql("ALTER TABLE tokens RENAME TO elsewhere").await;
    load.resumes().await;
    app.sql("ALTER TABLE elsewhere RENAME TO tokens").await;
    // The connections that hung have left their pools.
    app.issue("alice", "two").await;
}

#[tokio::test]
async fn a_log_that_is_shorter_than_it_was_empties_the_memory() {
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
    until("an answer of the database's", || async {
        (app.validate(&secret).await.unwrap().name == "restored").then_some(())
    })
    .await;
}
