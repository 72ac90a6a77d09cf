use std::{
    collections::{BTreeSet, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rstest::rstest;
use sea_orm::{ConnectionTrait as _, Statement};

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    app::violations,
};

/// Every page of a user's list, by names.
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

#[rstest]
#[tokio::test]
async fn lists_are_newest_first_and_show_ones_own_tokens_that_are_not_deleted(
    #[values(Sqlite, Postgres)] database: Database,
) {
    let app = App::start(database).await;
    for name in ["one", "two", "six"] {
        app.issue("alice", name).await;
    }
    let (deleted, _) = app.issue("alice", "deleted").await;
    app.issue("bob", "bob's").await;
    app.delete("alice", &deleted).await.unwrap();
    app.sql("UPDATE tokens SET expires_at = '2020-01-01 00:00:00+00:00' WHERE name = 'two'").await;
    assert_eq!(app.names("alice").await, ["six", "two", "one"]);
    assert_eq!(app.names("bob").await, ["bob's"]);
    assert!(app.names("nobody").await.is_empty());
}

#[rstest]
#[tokio::test]
async fn a_page_has_as_many_as_asked_for_fifty_by_default_two_hundred_at_most(
    #[values(Sqlite, Postgres)] database: Database,
) {
    let app = App::start_with(database, &["--max-tokens-per-user", "1000"]).await;
    for n in 0..201 {
        app.issue("alice", &format!("token {n}")).await;
    }
    let newest: Vec<String> = (0..201).rev().map(|n| format!("token {n}")).collect();
    for (size, expected) in [(0, 50), (1, 1), (67, 67), (200, 200), (201, 200), (i32::MAX, 200)] {
        let pages = pages(&app, "alice", size).await;
        assert_eq!(pages[0].len(), expected, "{size}");
        assert_eq!(pages.len(), 201_usize.div_ceil(expected), "{size}");
        assert_eq!(pages.concat(), newest, "{size}");
    }
    // The last page is full, and says that it is the last.
    assert_eq!(pages(&app, "alice", 67).await.len(), 3);
}

#[rstest]
#[tokio::test]
async fn a_bad_size_or_page_token_is_named(#[values(Sqlite, Postgres)] database: Database) {
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

/// Tokens come and go under the reader; those that stay all the while are read once each.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_have_no_doubles_and_no_gaps_while_tokens_come_and_go(
    #[values(Sqlite, Postgres)] database: Database,
) {
    let app = Arc::new(App::start_with(database, &["--max-tokens-per-user", "1000"]).await);
    let mut passing = Vec::new();
    for n in 0..60 {
        app.issue("alice", &format!("stays {n}")).await;
        passing.push(app.issue("alice", &format!("goes {n}")).await.0);
    }
    let done = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (app, done) = (Arc::clone(&app), Arc::clone(&done));
        async move {
            for (n, id) in passing.iter().enumerate() {
                app.delete("alice", id).await.unwrap();
                app.issue("alice", &format!("comes {n}")).await;
            }
            done.store(true, Ordering::Release);
        }
    });
    let stays: BTreeSet<String> = (0..60).map(|n| format!("stays {n}")).collect();
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

/// What the database reads for a page does not grow with what the user has deleted.
#[tokio::test]
async fn a_user_with_a_long_history_pages_as_fast_as_one_without() {
    let app = App::start_with(Postgres, &["--max-tokens-per-user", "1000"]).await;
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
        let page = app.page(user, 50, "").await.unwrap();
        assert_eq!(page.tokens.len(), 50);
        let page = app.page(user, 50, &page.next_page_token).await.unwrap();
        assert_eq!(page.tokens.len(), 50);
        let read = "SELECT CAST(sum(shared_blks_hit + shared_blks_read) AS bigint) AS blocks \
                    FROM pg_stat_statements WHERE query LIKE 'SELECT %tokens%'";
        let row = database.query_one_raw(Statement::from_string(sea_orm::DbBackend::Postgres, read)).await;
        blocks.push(row.unwrap().unwrap().try_get::<i64>("", "blocks").unwrap());
    }
    assert!(blocks[0] > 0 && blocks[1] <= 2 * blocks[0], "blocks read: {blocks:?}");
}
