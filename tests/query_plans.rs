//! No query reads a whole table: looked at where reading one would cost, with every statement that the service makes.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use latchkey::proto::latchkey::{CreateTokenRequest, invalid::Reason};
use sea_orm::{ConnectionTrait as _, DbBackend, Statement};
use tracing::{
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
};

use crate::support::{
    App,
    postgres::{Options, Postgres},
    until,
};

/// The tables that grow.
const TABLES: [&str; 3] = ["tokens", "users", "token_events"];

/// So many users, each with so many tokens and events.
const USERS: usize = 2_000;
const TOKENS_OF_EACH: usize = 25;

/// Fills the tables, and gives the statements to do so: one for each.
fn fill(series: impl Fn(usize) -> String, random_id: &str, now: &str) -> [String; 3] {
    let (users, tokens) = (series(USERS), series(TOKENS_OF_EACH));
    [
        format!("INSERT INTO users (user_id) SELECT 'user ' || u.n FROM {users} AS u"),
        format!(
            "INSERT INTO tokens (id, user_id, name, secret_hash, scopes, created_at) \
             SELECT {random_id}, 'user ' || u.n, 'token ' || t.n, 'x', '', {now} \
             FROM {users} AS u CROSS JOIN {tokens} AS t"
        ),
        format!(
            "INSERT INTO token_events (at, kind, token_id, user_id, actor) \
             SELECT {now}, 'token_revoked', {random_id}, 'user ' || u.n, 'a' \
             FROM {users} AS u CROSS JOIN {tokens} AS t"
        ),
    ]
}

/// Does everything that the service can do, with the result of each checked.
async fn everything(app: &App, before_retagging: impl AsyncFn(&str)) {
    let (id, one) = app.issue("user 7", "one").await;
    let request = CreateTokenRequest { user_id: "user 7".into(), name: "one".into(), ..Default::default() };
    app.create_with(request).await.unwrap_err();
    let (retagged, two) = app.issue("new user", "two").await;
    let page = app.page("user 7", 10, "").await.unwrap();
    assert_eq!(page.tokens.len(), 10);
    assert_eq!(app.page("user 7", 10, &page.next_page_token).await.unwrap().tokens.len(), 10);
    before_retagging(&retagged).await;
    app.validate(&one).await.unwrap();
    app.validate(&two).await.unwrap();
    app.server.registry().flush_last_used().await.unwrap();
    app.delete("user 7", &id).await.unwrap();
    app.delete("user 7", &id).await.unwrap_err();
    app.delete_user("new user").await;
    assert_eq!(app.validate(&two).await, Err(Reason::UserDeleted));
    // The other replica's poll has evicted both by now, or will; its statement is one of those looked at.
    app.refuses(&one, Reason::Revoked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_no_query_reads_a_whole_table() {
    // Every plan is logged, under the name of the program that asked.
    let postgres = Postgres::start_with(&Options {
        settings: &[
            "session_preload_libraries=auto_explain",
            "auto_explain.log_min_duration=0",
            "log_line_prefix=[%a] ",
        ],
        ..Default::default()
    });
    let url = postgres.create_database().await;
    let app = App::start_on(url, tempfile::tempdir().unwrap(), &["--revocation-poll", "10ms"]).await;
    for sql in fill(|to| format!("(SELECT generate_series(1, {to}) AS n)"), "gen_random_uuid()", "now()") {
        app.sql(&sql).await;
    }
    app.sql("ANALYZE").await;
    // Reading all of a table that is empty costs nothing, and is planned so.
    let filled = postgres.log().len();
    everything(&app, async |id| {
        app.sql(&format!("UPDATE tokens SET tag = NULL, tag_key_id = NULL WHERE id = '{id}'")).await;
    })
    .await;
    // At the start of a service, too.
    let app = app.restart(&[]).await;
    app.names("user 7").await;

    let seen = |table: &str, verb: &str| {
        entries(&postgres.log()[filled..])
            .iter()
            .any(|plan| plan.contains(verb) && plan.contains(&format!("\"{table}\"")))
    };
    until("the plans", || async { seen("users", "UPDATE").then_some(()) }).await;
    for (verb, table) in [
        ("INSERT", "tokens"),
        ("INSERT", "users"),
        ("INSERT", "token_events"),
        ("SELECT", "tokens"),
        ("UPDATE", "tokens"),
    ] {
        assert!(seen(table, verb), "no plan of {verb} {table}");
    }
    let log = postgres.log().split_off(filled);
    for expected in
        ["LEFT JOIN users", "xid = ANY", "pg_current_snapshot()", "VALUES ($1, $2)", "count(*) FILTER"]
    {
        assert!(entries(&log).iter().any(|plan| plan.contains(expected)), "no plan of {expected}");
    }
    for plan in entries(&log) {
        for table in TABLES {
            assert!(!plan.contains(&format!("Seq Scan on {table}")), "{plan}");
        }
    }
}

/// The entries of the log that are the service's, each with its plan.
fn entries(log: &str) -> Vec<String> {
    let mut entries: Vec<String> = Vec::new();
    for line in log.lines() {
        // What follows the first line of an entry begins with a tab.
        match entries.last_mut() {
            Some(entry) if !line.starts_with('[') => {
                entry.push('\n');
                entry.push_str(line);
            }
            _ => entries.push(line.to_owned()),
        }
    }
    entries.retain(|entry| entry.starts_with("[latchkey]") && entry.contains("plan:"));
    entries
}

/// On one thread, since the statements are taken from the spans of the test's own subscriber.
#[tokio::test]
async fn on_sqlite_no_query_reads_a_whole_table() {
    let statements = Statements::default();
    let subscriber = tracing_subscriber::registry().with(statements.clone());
    let _guard = tracing::subscriber::set_default(subscriber);
    let app = App::start_with(crate::support::Database::Sqlite, &["--revocation-poll", "10ms"]).await;
    let series = |to| {
        format!(
            "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {to}) SELECT n FROM s)"
        )
    };
    let paused = async |sql: &str| {
        statements.pause(true);
        app.sql(sql).await;
        statements.pause(false);
    };
    for sql in fill(series, "randomblob(16)", "'2026-01-01 00:00:00+00:00'") {
        paused(&sql).await;
    }
    paused("ANALYZE").await;
    everything(&app, async |_| {
        paused("UPDATE tokens SET tag = NULL, tag_key_id = NULL WHERE user_id = 'new user'").await
    })
    .await;
    tokio::time::sleep(Duration::from_millis(50)).await;

    let made = statements.taken();
    for expected in [
        "INSERT INTO \"tokens\"",
        "INSERT INTO \"users\"",
        "INSERT INTO \"token_events\"",
        "UPDATE \"users\"",
        "SET \"tag_key_id\"",
        "SET \"revoked_at\"",
        "FROM tokens JOIN users",
        "count(*) FILTER",
        "VALUES ($1, $2)",
        "WHERE id > $1 AND id <= $2",
        "ORDER BY \"tokens\".\"id\" DESC",
    ] {
        assert!(made.iter().any(|sql| sql.contains(expected)), "{expected} was not asked: {made:#?}");
    }
    let database = app.database().await;
    for sql in made {
        let explain = async |how: &str, column: &str| -> Vec<String> {
            let explain = Statement::from_string(DbBackend::Sqlite, format!("{how} {sql}"));
            let rows = database.query_all_raw(explain).await.unwrap();
            rows.iter().map(|row| row.try_get("", column).unwrap()).collect()
        };
        let plan = explain("EXPLAIN QUERY PLAN", "detail").await;
        let scanned = |step: &&String| {
            let table = step.strip_prefix("SCAN ").and_then(|rest| rest.split(' ').next());
            table.is_some_and(|table| TABLES.contains(&table))
        };
        // SQLite jumps over the search for rows that refer to a new key, unless a row refers to a missing one already.
        let skipped = explain("EXPLAIN", "opcode").await.iter().filter(|it| *it == "FkIfZero").count();
        assert!(plan.iter().filter(scanned).count() <= skipped, "{sql}: {plan:#?}");
    }
}

/// The statements in the spans that sea-orm makes.
#[derive(Clone, Default)]
struct Statements {
    paused: Arc<AtomicBool>,
    taken: Arc<Mutex<BTreeSet<String>>>,
}

impl Statements {
    fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    fn taken(&self) -> BTreeSet<String> {
        let schema = ["BEGIN", "COMMIT", "ROLLBACK", "CREATE", "PRAGMA", "ANALYZE", "DROP", "ALTER"];
        let taken = self.taken.lock().unwrap().clone();
        taken.into_iter().filter(|sql| !schema.iter().any(|word| sql.starts_with(word))).collect()
    }
}

impl Visit for &Statements {
    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "db.statement" && !self.paused.load(Ordering::Relaxed) {
            self.taken.lock().unwrap().insert(value.to_owned());
        }
    }
}

impl<S: tracing::Subscriber> Layer<S> for Statements {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        attributes.record(&mut &*self);
    }

    fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, S>) {
        values.record(&mut &*self);
    }
}
