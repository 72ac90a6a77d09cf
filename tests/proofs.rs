use latchkey::proto::latchkey::invalid::Reason;
use rstest::rstest;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    forge::forge,
};

const A: &str = "a = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"";
const B: &str = "b = \"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\"";

/// The service with a ring of these keys, as after a restart.
async fn with_ring(app: App, primary: &str, keys: &[&str]) -> App {
    let file = app.file("ring.toml", &format!("primary = \"{primary}\"\n[keys]\n{}\n", keys.join("\n")));
    app.restart(&["--key-ring", file.to_str().unwrap()]).await
}

async fn all_validate(app: &App, secrets: &[String]) {
    for secret in secrets {
        app.validate(secret).await.unwrap();
    }
}

#[rstest]
#[tokio::test]
async fn argon2_runs_only_where_no_key_is_at_hand_and_then_once(
    #[values(Sqlite, Postgres)] database: Database,
) {
    let app = with_ring(App::start(database).await, "a", &[A]).await;
    let mut secrets = Vec::new();
    for n in 0..3 {
        secrets.push(app.issue("alice", &format!("token {n}")).await.1);
    }
    assert_eq!(app.server.registry().argon2_runs(), 3, "once for each token that is issued");

    let app = with_ring(app, "a", &[A]).await;
    all_validate(&app, &secrets).await;
    assert_eq!(app.validate(&forge(&secrets[0], &secrets[1])).await, Err(Reason::Unknown));
    assert_eq!(app.server.registry().argon2_runs(), 0, "its key is in the ring");

    let app = with_ring(app, "b", &[B]).await;
    all_validate(&app, &secrets).await;
    assert_eq!(app.server.registry().argon2_runs(), 3, "the key is gone: once for each token");
    all_validate(&app, &secrets).await;
    assert_eq!(app.server.registry().argon2_runs(), 3, "then never again");

    let app = with_ring(app, "b", &[B]).await;
    all_validate(&app, &secrets).await;
    assert_eq!(app.server.registry().argon2_runs(), 0, "nor after a restart");
}

#[rstest]
#[tokio::test]
async fn after_a_rotation_old_and_new_tokens_validate(#[values(Sqlite, Postgres)] database: Database) {
    let app = with_ring(App::start(database).await, "a", &[A]).await;
    let old = app.issue("alice", "old").await.1;
    let idle = app.issue("alice", "idle").await.1;
    let app = with_ring(app, "b", &[A, B]).await;
    let new = app.issue("alice", "new").await.1;
    assert_eq!(app.server.registry().argon2_runs(), 1);
    all_validate(&app, &[old.clone(), new.clone()]).await;
    assert_eq!(app.server.registry().argon2_runs(), 1);
    assert_eq!(app.count("tokens WHERE tag_key_id = 'b'").await, 2, "what was used has moved to the new key");

    let app = with_ring(app, "b", &[B]).await;
    all_validate(&app, &[old, new]).await;
    assert_eq!(app.server.registry().argon2_runs(), 0);
    all_validate(&app, &[idle]).await;
    assert_eq!(app.server.registry().argon2_runs(), 1);
}

#[rstest]
#[tokio::test]
async fn a_wrong_secret_does_not_get_a_tag(#[values(Sqlite, Postgres)] database: Database) {
    let app = with_ring(App::start(database).await, "a", &[A]).await;
    let [one, two] = [app.issue("alice", "one").await.1, app.issue("alice", "two").await.1];
    let app = with_ring(app, "b", &[B]).await;
    assert_eq!(app.validate(&forge(&one, &two)).await, Err(Reason::Unknown));
    assert_eq!(app.count("tokens WHERE tag_key_id = 'a'").await, 2);
    all_validate(&app, &[one, two]).await;
}

#[tokio::test]
async fn without_a_ring_argon2_alone_proves() {
    let app = App::start(Postgres).await;
    let secret = app.issue("alice", "one").await.1;
    all_validate(&app, &[secret.clone(), secret]).await;
    assert_eq!(app.server.registry().argon2_runs(), 2, "when it was issued, and when it was first validated");
    assert_eq!(app.count("tokens WHERE tag IS NULL").await, 1);
}

#[tokio::test]
async fn a_ring_that_is_asked_for_must_be_there() {
    let app = App::start(Sqlite).await;
    let config = latchkey::config::Config::parse_from([
        "serve",
        "--grpc-addr",
        "127.0.0.1:0",
        "--data-dir",
        app.folder.path().to_str().unwrap(),
        "--key-ring",
        "/nowhere/ring.toml",
    ]);
    let fault = latchkey::server::Server::start(&config.unwrap(), latchkey::clock::Clock::system())
        .await
        .unwrap_err()
        .to_string();
    assert!(fault.contains("LATCHKEY_KEY_RING") && fault.contains("/nowhere/ring.toml"), "{fault}");
}
