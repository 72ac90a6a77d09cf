use std::{
    collections::{BTreeSet, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use chrono::TimeDelta;
use latchkey::proto::latchkey::CreateTokenRequest;
use prost_types::Timestamp;
use rstest_reuse::apply;
use sea_orm::{ConnectionTrait as _, Statement};

use crate::support::{
    App,
    Database::{self, Postgres},
    app::{START_SECONDS, manual_clock},
    client::create_request,
    on_both_databases,
    status::violations,
};

const MANY_TOKENS: [&str; 4] = ["--max-tokens-per-user", "1000", "--max-creations-per-user", "1000"];

/// The names on each page of a user's list.
async fn pages(app: &App, user: &str, size: i32) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut token = String::new();
    loop {
        let page = app.page(user, size, &token).await.unwrap();
        pages.push(page.tokens.into_iter().map(|token| token.name).collect());
        token = page.next_page_token;
        if token.is_empty() {
            return pages;
        }
    }
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_list_has_the_users_tokens_that_are_not_deleted_and_the_newest_come_first(database: Database) {
    let app = App::start_with_clock(database, manual_clock()).await;
    app.issue("alice", "one").await;
    let expire_time = Some(Timestamp { seconds: START_SECONDS + 1, nanos: 0 });
    let expires = CreateTokenRequest { expire_time, ..create_request("alice", "expired") };
    app.create_with(expires).await.unwrap();
    app.issue("alice", "three").await;
    let (deleted, _) = app.issue("alice", "deleted").await;
    app.issue("bob", "bob's").await;
    app.delete("alice", &deleted).await.unwrap();
    app.clock.advance(TimeDelta::seconds(1));
    assert_eq!(app.names("alice").await, ["three", "expired", "one"]);
    assert_eq!(app.names("bob").await, ["bob's"]);
    assert!(app.names("nobody").await.is_empty());
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_page_has_the_size_requested_fifty_by_default_and_at_most_two_hundred(database: Database) {
    /// One more than fit on the largest page, and three pages of 67.
    const TOKENS: usize = 201;
    let app = App::start_with(database, &MANY_TOKENS).await;
    for n in 0..TOKENS {
        app.issue("alice", &format!("token {n}")).await;
    }
    let newest_first: Vec<String> = (0..TOKENS).rev().map(|n| format!("token {n}")).collect();
    for (size, expected) in [(0, 50), (1, 1), (67, 67), (200, 200), (201, 200), (i32::MAX, 200)] {
        let pages = pages(&app, "alice", size).await;
        assert_eq!(pages[0].len(), expected, "{size}");
        assert_eq!(pages.len(), TOKENS.div_ceil(expected), "{size}");
        assert_eq!(pages.concat(), newest_first, "{size}");
    }
    assert_eq!(pages(&app, "alice", 67).await.len(), 3, "a full last page says that it is the last");
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_bad_page_size_or_page_token_is_named(database: Database) {
    let app = App::start(database).await;
    for name in ["one", "two"] {
        app.issue("alice", name).await;
        app.issue("bob", name).await;
    }
    let token = app.page("alice", 1, "").await.unwrap().next_page_token;
    assert_eq!(app.page("alice", 1, &token).await.unwrap().tokens[0].name, "one");

    let foreign = violations(&app.page("bob", 1, &token).await.unwrap_err());
    assert_eq!(foreign[0].0, "page_token");
    for bad in ["x", "%", &token[1..], &"A".repeat(10_000), &format!("{token}A")] {
        let said = violations(&app.page("alice", 1, bad).await.unwrap_err());
        assert_eq!(said[0].0, "page_token");
    }
    let said = violations(&app.page("alice", -1, "x").await.unwrap_err());
    assert_eq!([&*said[0].0, &*said[1].0], ["page_size", "page_token"]);
    let said = violations(&app.page("", -1, "x").await.unwrap_err());
    assert_eq!([&*said[0].0, &*said[1].0], ["user_id", "page_size"]);
}

/// Tokens are created and deleted during the read. Those that exist throughout are read exactly once.
#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_repeat_and_skip_nothing_while_tokens_are_created_and_deleted(database: Database) {
    const TOKENS: usize = 60;
    let app = Arc::new(App::start_with(database, &MANY_TOKENS).await);
    let mut doomed = Vec::new();
    for n in 0..TOKENS {
        app.issue("alice", &format!("stays {n}")).await;
        doomed.push(app.issue("alice", &format!("goes {n}")).await.0);
    }
    let done = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (app, done) = (Arc::clone(&app), Arc::clone(&done));
        async move {
            for (n, id) in doomed.iter().enumerate() {
                app.delete("alice", id).await.unwrap();
                app.issue("alice", &format!("comes {n}")).await;
            }
            done.store(true, Ordering::Release);
        }
    });
    let stays: BTreeSet<String> = (0..TOKENS).map(|n| format!("stays {n}")).collect();
    let mut rounds = 0;
    while !done.load(Ordering::Acquire) || rounds == 0 {
        let read = pages(&app, "alice", 7).await.concat();
        let unique: HashSet<&String> = read.iter().collect();
        assert_eq!(unique.len(), read.len(), "a token was read twice");
        let stayed: BTreeSet<String> = read.into_iter().filter(|name| name.starts_with("stays")).collect();
        assert_eq!(stayed, stays);
        rounds += 1;
    }
    writer.await.unwrap();
}

/// The pages that the database reads do not grow with the number of deleted tokens.
#[tokio::test]
async fn deleted_tokens_do_not_slow_lists_down() {
    const PAGE: i32 = 50;
    let app = App::start_with(Postgres, &MANY_TOKENS).await;
    let database = app.database().await;
    let run = |sql: &'static str| database.execute_unprepared(sql);
    run("CREATE EXTENSION pg_stat_statements").await.unwrap();
    run("INSERT INTO users (user_id) VALUES ('long'), ('short')").await.unwrap();
    run(
        "INSERT INTO tokens (id, user_id, name, secret_hash, scopes, created_at, revoked_at, revoke_reason) \
         SELECT gen_random_uuid(), 'long', 'token ' || n, 'x', '', now(), now(), 'deleted' \
         FROM generate_series(1, 100000) AS n",
    )
    .await
    .unwrap();
    run("INSERT INTO tokens (id, user_id, name, secret_hash, scopes, created_at) \
         SELECT gen_random_uuid(), who, 'live ' || n, 'x', '', now() \
         FROM generate_series(1, 120) AS n, (VALUES ('long'), ('short')) AS users (who)")
    .await
    .unwrap();
    run("ANALYZE").await.unwrap();

    let mut blocks = Vec::new();
    for user in ["short", "long"] {
        run("SELECT pg_stat_statements_reset()").await.unwrap();
        let page = app.page(user, PAGE, "").await.unwrap();
        assert_eq!(page.tokens.len(), PAGE as usize);
        let page = app.page(user, PAGE, &page.next_page_token).await.unwrap();
        assert_eq!(page.tokens.len(), PAGE as usize);
        let read = "SELECT CAST(sum(shared_blks_hit + shared_blks_read) AS bigint) AS blocks \
                    FROM pg_stat_statements WHERE query LIKE 'SELECT %tokens%'";
        let row = database.query_one_raw(Statement::from_string(sea_orm::DbBackend::Postgres, read)).await;
        blocks.push(row.unwrap().unwrap().try_get::<i64>("", "blocks").unwrap());
    }
    assert!(blocks[0] > 0 && blocks[1] <= 2 * blocks[0], "blocks read: {blocks:?}");
}
