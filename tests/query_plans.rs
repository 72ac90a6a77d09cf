//! Every query of the service is planned on tables so large that reading one whole would cost.

use std::{collections::BTreeSet, time::Duration};

use latchkey::{
    proto::latchkey::{CreateTokenRequest, DeleteTokenRequest, invalid::Reason},
    registry::{PurgedRows, Retention, TokenRegistry},
    token::{PageSize, UserId},
};
use sea_orm::{ConnectionTrait as _, DbBackend, Statement};

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    client::create_request,
    database::SOME_TIME,
    postgres::{self, Options},
    statements::Statements,
    until,
};

/// The tables that grow.
const TABLES: [&str; 4] = ["tokens", "users", "token_events", "create_requests"];

const USERS: usize = 2_000;
const TOKENS_OF_EACH: usize = 25;

/// The service polls so often that its polls are among the queries.
const POLL: &str = "10ms";
const SEVERAL_POLLS: Duration = Duration::from_millis(50);

/// So many rows of each kind are old enough to be purged; the others are not.
const OLD: usize = 1_000;
const LATER: &str = "'2100-01-01T00:00:00+00:00'";
/// The indexes that a purge reads.
const PURGE_INDEXES: [&str; 4] = ["tokens_revoked", "tokens_expiry", "users_to_purge", "token_events_at"];

/// The statements that fill the tables.
fn fill(database: Database) -> Vec<String> {
    let (users, tokens) = (database.series(USERS), database.series(TOKENS_OF_EACH));
    let id = database.random_id();
    let mut statements = database.old_rows(OLD);
    statements.extend([
        format!("INSERT INTO users (user_id) SELECT 'user ' || u.n FROM {users} AS u"),
        format!(
            "INSERT INTO tokens (id, user_id, name, secret_hash, scopes, created_at) \
             SELECT {id}, 'user ' || u.n, 'token ' || t.n, 'x', '', {SOME_TIME} \
             FROM {users} AS u CROSS JOIN {tokens} AS t"
        ),
        format!(
            "INSERT INTO token_events (at, kind, token_id, user_id, actor) \
             SELECT {LATER}, 'token_revoked', {id}, 'user ' || u.n, 'a' \
             FROM {users} AS u CROSS JOIN {tokens} AS t"
        ),
    ]);
    statements.push(format!(
        "INSERT INTO create_requests (user_id, request_id, token_id, content, created_at) \
         SELECT 'user ' || u.n, {id}, {id}, '', {SOME_TIME} FROM {users} AS u CROSS JOIN {tokens} AS t"
    ));
    statements
}

/// A request that can be repeated.
fn repeatable(user: &str, name: &str) -> CreateTokenRequest {
    let request_id = "5b3c8f0e-6d0b-4c1e-9a55-0f6c3b1d7e42".to_owned();
    CreateTokenRequest { request_id, ..create_request(user, name) }
}

/// Does everything that the service can do, and checks each result.
async fn do_everything(app: &App, remove_tag: impl AsyncFn(&str)) {
    const PAGE: usize = 10;
    let (id, one) = app.issue("user 7", "one").await;
    app.create("user 7", "one").await.unwrap_err();
    let (retagged, two) = app.issue("new user", "two").await;
    app.create_with(repeatable("user 7", "repeated")).await.unwrap();
    app.create_with(repeatable("user 7", "repeated")).await.unwrap();
    let page = app.page("user 7", PAGE as i32, "").await.unwrap();
    assert_eq!(page.tokens.len(), PAGE);
    assert_eq!(app.page("user 7", PAGE as i32, &page.next_page_token).await.unwrap().tokens.len(), PAGE);
    remove_tag(&retagged).await;
    app.validate(&one).await.unwrap();
    app.validate(&two).await.unwrap();
    app.server.registry().flush_last_used().await.unwrap();
    app.delete("user 7", &id).await.unwrap();
    app.delete("user 7", &id).await.unwrap_err();
    app.delete_user("new user").await;
    list_events(app.server.registry()).await;
    assert_eq!(app.validate(&two).await, Err(Reason::UserDeleted));
    app.refuses(&one, Reason::Revoked).await;
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let mut purger = app.server.registry().purger(Retention { events: DAY, tokens: DAY });
    let PurgedRows { tokens, events, requests } = purger.purge_once().await.unwrap();
    assert_eq!((tokens, events), (3 * OLD as u64, 0));
    assert!(requests > 0);
    let PurgedRows { tokens, events, requests } = purger.purge_once().await.unwrap();
    assert_eq!((tokens, events, requests), (0, OLD as u64, 0));
}

/// Lists the events of a user with many, and of all users.
async fn list_events(registry: &TokenRegistry) {
    let user: UserId = "user 7".parse().unwrap();
    let size = PageSize::parse(10).unwrap();
    for user in [Some(&user), None] {
        let page = registry.events(user, None, None, size).await.unwrap();
        assert_eq!(page.events.len(), 10);
        let next = registry.events(user, None, page.next, size).await.unwrap();
        assert_eq!(next.events.len(), 10);
    }
}

/// Queries what a replay of the account events does, which is done on PostgreSQL alone.
async fn replay(registry: &TokenRegistry) {
    let epoch = registry.epochs().borrow().unwrap();
    registry.record_replay(epoch).await.unwrap();
    assert!(registry.is_replayed(epoch).await.unwrap());
    let users: [UserId; 2] = ["user 7", "new user"].map(|user| user.parse().unwrap());
    let not_deleted = registry.not_deleted(epoch, &users.iter().collect::<Vec<_>>()).await.unwrap();
    assert_eq!(not_deleted, users[..1]);
    registry.not_deleted(uuid::Uuid::nil(), &[]).await.unwrap_err();
    registry.record_replay(uuid::Uuid::nil()).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_no_query_reads_a_whole_table() {
    // Every plan is logged, under the name of the application that made the query.
    let postgres = postgres::Postgres::start_with(&Options {
        settings: &[
            "session_preload_libraries=auto_explain",
            "auto_explain.log_min_duration=0",
            "log_line_prefix=[%a] ",
        ],
        ..Default::default()
    });
    let url = postgres.create_database().await;
    let app = App::start_on(url, tempfile::tempdir().unwrap(), &["--revocation-poll", POLL]).await;
    for sql in fill(Postgres) {
        app.sql(&sql).await;
    }
    app.sql("ANALYZE").await;
    // Plans from before this point may read a whole table: it was empty.
    let filled = postgres.log().len();
    do_everything(&app, async |id| {
        app.sql(&format!("UPDATE tokens SET tag = NULL, tag_key_id = NULL WHERE id = '{id}'")).await;
    })
    .await;
    let app = app.restart(&[]).await;
    app.names("user 7").await;
    replay(app.server.registry()).await;

    let seen = |table: &str, verb: &str| {
        plans(&postgres.log()[filled..]).iter().any(|plan| {
            [format!("\"{table}\""), format!("{verb} INTO {table} ")].iter().any(|text| plan.contains(text))
                && plan.contains(verb)
        })
    };
    until("the plans", || async { seen("users", "UPDATE").then_some(()) }).await;
    for (verb, table) in [
        ("INSERT", "tokens"),
        ("INSERT", "users"),
        ("INSERT", "token_events"),
        ("INSERT", "create_requests"),
        ("SELECT", "tokens"),
        ("UPDATE", "tokens"),
    ] {
        assert!(seen(table, verb), "no plan of {verb} {table}");
    }
    let log = postgres.log().split_off(filled);
    for expected in [
        "LEFT JOIN users",
        "FROM create_requests",
        "SET \"secret_hash\"",
        "xid = ANY",
        "pg_current_snapshot()",
        "VALUES ($1, $2)",
        "count(*) FILTER",
        "json_array_elements_text",
        "FROM token_events WHERE user_id = $2 AND id < $1 ORDER BY id DESC",
        "FROM token_events WHERE id < $1 ORDER BY id DESC",
    ] {
        assert!(plans(&log).iter().any(|plan| plan.contains(expected)), "no plan of {expected}");
    }
    for index in PURGE_INDEXES {
        let is_read = |plan: &String| plan.contains(&format!("Index Scan using {index}"));
        assert!(plans(&log).iter().any(is_read), "{index} is not read");
    }
    for plan in plans(&log) {
        for table in TABLES {
            assert!(!plan.contains(&format!("Seq Scan on {table}")), "{plan}");
        }
    }
}

/// The entries of the log that hold a plan of the service.
fn plans(log: &str) -> Vec<String> {
    let mut entries: Vec<String> = Vec::new();
    for line in log.lines() {
        // Only the first line of an entry begins with the prefix.
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

#[tokio::test]
async fn on_sqlite_no_query_reads_a_whole_table() {
    let (statements, _guard) = Statements::record();
    let app = App::start_with(Sqlite, &["--revocation-poll", POLL]).await;
    let fill = fill(Sqlite);
    for sql in &fill {
        app.sql(sql).await;
    }
    app.sql("ANALYZE").await;
    let remove_tag = "UPDATE tokens SET tag = NULL, tag_key_id = NULL WHERE user_id = 'new user'";
    do_everything(&app, async |_| app.sql(remove_tag).await).await;
    tokio::time::sleep(SEVERAL_POLLS).await;

    let mut made: BTreeSet<String> = statements.take().into_iter().collect();
    let schema = ["BEGIN", "COMMIT", "ROLLBACK", "CREATE", "PRAGMA", "ANALYZE", "DROP", "ALTER"];
    made.retain(|sql| !schema.iter().any(|word| sql.starts_with(word)));
    made.retain(|sql| sql != remove_tag && !fill.contains(sql));
    for expected in [
        "INSERT INTO \"tokens\"",
        "INSERT INTO \"users\"",
        "INSERT INTO token_events",
        "INSERT INTO \"create_requests\"",
        "FROM create_requests",
        "SET \"secret_hash\"",
        "UPDATE \"users\"",
        "SET \"tag_key_id\"",
        "SET \"revoked_at\"",
        "FROM tokens JOIN users",
        "count(*) FILTER",
        "VALUES ($1, $2)",
        "WHERE id > $1 AND id <= $2",
        "ORDER BY \"tokens\".\"id\" DESC",
        "FROM token_events WHERE user_id = $2 AND id < $1 ORDER BY id DESC",
        "FROM token_events WHERE id < $1 ORDER BY id DESC",
        "DELETE FROM tokens",
        "DELETE FROM token_events",
        "UPDATE users SET tokens_purged_at",
    ] {
        assert!(made.iter().any(|sql| sql.contains(expected)), "{expected} was not queried: {made:#?}");
    }
    let database = app.database().await;
    let mut read = BTreeSet::new();
    for sql in made {
        let explain = async |how: &str, column: &str| -> Vec<String> {
            let explain = Statement::from_string(DbBackend::Sqlite, format!("{how} {sql}"));
            let rows = database.query_all_raw(explain).await.unwrap();
            rows.iter().map(|row| row.try_get("", column).unwrap()).collect()
        };
        let plan = explain("EXPLAIN QUERY PLAN", "detail").await;
        read.extend(
            PURGE_INDEXES
                .into_iter()
                .filter(|index| plan.iter().any(|step| step.contains(&format!(" INDEX {index} (")))),
        );
        let scanned = |step: &&String| {
            let table = step.strip_prefix("SCAN ").and_then(|rest| rest.split(' ').next());
            table.is_some_and(|table| TABLES.contains(&table))
        };
        // The plan of an insert has a scan for rows that refer to the new key. SQLite skips it (FkIfZero) unless a row
        // refers to a missing key.
        let skipped = explain("EXPLAIN", "opcode").await.iter().filter(|it| *it == "FkIfZero").count();
        assert!(plan.iter().filter(scanned).count() <= skipped, "{sql}: {plan:#?}");
    }
    assert_eq!(read, BTreeSet::from(PURGE_INDEXES));
}

/// A verb and the tables that a statement names. Polls, which run at any time, are left out.
fn summary(sql: &str) -> Option<String> {
    let words: Vec<&str> =
        sql.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').collect();
    let mut tables: Vec<&str> = Vec::new();
    for word in &words {
        if TABLES.contains(word) && !tables.contains(word) {
            tables.push(word);
        }
    }
    let verb = words[0];
    let is_poll =
        verb == "PRAGMA" || verb == "SELECT" && !tables.iter().any(|it| ["tokens", "users"].contains(it));
    (!is_poll).then(|| [&[verb], &tables[..]].concat().join(" "))
}

/// A statement more or less in any call fails this test: each has a cost, and each in a transaction holds its lock
/// longer. Say here why it is worth that.
#[tokio::test]
async fn each_call_makes_these_statements_and_no_others() {
    let (statements, _guard) = Statements::record();
    let app = App::start_with(Sqlite, &["--last-used-interval", "1h"]).await;
    let made = || statements.take().iter().filter_map(|sql| summary(sql)).collect::<Vec<_>>();
    made();
    let (id, bearer) = app.issue("alice", "one").await;
    let creation = [
        // What would be refused is refused before argon2 runs.
        "SELECT users tokens",
        "BEGIN",
        // Inserts the account's row, or locks it.
        "INSERT users",
        // Again, under the lock.
        "SELECT users tokens",
        "INSERT tokens",
        "INSERT token_events",
        "COMMIT",
    ];
    assert_eq!(made(), creation);
    app.create("alice", "one").await.unwrap_err();
    assert_eq!(made(), creation[..1]);
    app.create_with(repeatable("alice", "two")).await.unwrap();
    let repeatable_creation = [
        "SELECT users tokens",
        "SELECT tokens create_requests",
        "BEGIN",
        "INSERT users",
        // Another call with the same request id may have come first.
        "SELECT tokens create_requests",
        "SELECT users tokens",
        "INSERT tokens",
        "INSERT create_requests",
        "INSERT token_events",
        "COMMIT",
    ];
    assert_eq!(made(), repeatable_creation);
    let two = app.create_with(repeatable("alice", "two")).await.unwrap();
    let repeated_creation = [
        "SELECT users tokens",
        "SELECT tokens create_requests",
        "BEGIN",
        "INSERT users",
        "SELECT tokens create_requests",
        "UPDATE tokens",
        "INSERT token_events",
        "COMMIT",
    ];
    assert_eq!(made(), repeated_creation);
    app.validate(&two.secret).await.unwrap();
    made();
    app.create_with(repeatable("alice", "two")).await.unwrap_err();
    assert_eq!(made(), repeated_creation[..2]);
    app.list("alice").await;
    assert_eq!(made(), ["SELECT tokens users"]);
    app.validate(&bearer).await.unwrap();
    assert_eq!(made(), ["SELECT tokens users"]);
    app.validate(&bearer).await.unwrap();
    assert!(made().is_empty(), "it is answered from memory");
    app.delete("alice", &id).await.unwrap();
    assert_eq!(made(), ["BEGIN", "UPDATE tokens users", "INSERT token_events", "COMMIT"]);
    app.delete("alice", &id).await.unwrap_err();
    assert_eq!(made(), ["BEGIN", "UPDATE tokens users"]);
    let again = DeleteTokenRequest { user_id: "alice".into(), token_id: id, allow_missing: true };
    app.tokens().delete_token(again).await.unwrap();
    assert_eq!(made(), ["BEGIN", "UPDATE tokens users"]);
    app.delete_user("alice").await;
    assert_eq!(made(), ["BEGIN", "INSERT users", "UPDATE users", "INSERT token_events", "COMMIT"]);
    app.delete_user("alice").await;
    assert_eq!(made(), ["BEGIN", "INSERT users"], "the account is deleted already");
}
