use latchkey::{clock::Clock, config::Config, proto::latchkey::invalid::Reason, server::Server};
use rstest_reuse::apply;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    app::FREE_PORTS,
    bearer_token::forge,
    on_both_databases,
};

const A: &str = "a = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"";
const B: &str = "b = \"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\"";

/// Restarts the service with a ring of these keys.
async fn with_ring(app: App, primary: &str, keys: &[&str]) -> App {
    let file = app.file("ring.toml", &format!("primary = \"{primary}\"\n[keys]\n{}\n", keys.join("\n")));
    app.restart(&["--key-ring", file.to_str().unwrap()]).await
}

async fn all_validate(app: &App, secrets: &[String]) {
    for secret in secrets {
        app.validate(secret).await.unwrap();
    }
}

#[apply(on_both_databases)]
#[tokio::test]
async fn argon2_runs_once_for_a_token_whose_key_is_missing_and_never_otherwise(database: Database) {
    let app = with_ring(App::start(database).await, "a", &[A]).await;
    let mut secrets = Vec::new();
    for n in 0..3 {
        secrets.push(app.issue("alice", &format!("token {n}")).await.1);
    }
    assert_eq!(app.argon2_runs(), 3, "one for each token that is issued");

    let app = with_ring(app, "a", &[A]).await;
    all_validate(&app, &secrets).await;
    assert_eq!(app.validate(&forge(&secrets[0], &secrets[1])).await, Err(Reason::Unknown));
    assert_eq!(app.argon2_runs(), 0, "the key is in the ring");

    let app = with_ring(app, "b", &[B]).await;
    all_validate(&app, &secrets).await;
    assert_eq!(app.argon2_runs(), 3, "the key is missing: one for each token");
    all_validate(&app, &secrets).await;
    assert_eq!(app.argon2_runs(), 3, "the new tags are used");

    let app = with_ring(app, "b", &[B]).await;
    all_validate(&app, &secrets).await;
    assert_eq!(app.argon2_runs(), 0, "also after a restart");
}

#[apply(on_both_databases)]
#[tokio::test]
async fn after_a_rotation_old_and_new_tokens_validate(database: Database) {
    let app = with_ring(App::start(database).await, "a", &[A]).await;
    let old = app.issue("alice", "old").await.1;
    let idle = app.issue("alice", "idle").await.1;
    let app = with_ring(app, "b", &[A, B]).await;
    let new = app.issue("alice", "new").await.1;
    assert_eq!(app.argon2_runs(), 1);
    all_validate(&app, &[old.clone(), new.clone()]).await;
    assert_eq!(app.argon2_runs(), 1);
    assert_eq!(
        app.count("tokens WHERE tag_key_id = 'b'").await,
        2,
        "tokens that were used have a tag with the new key"
    );

    let app = with_ring(app, "b", &[B]).await;
    all_validate(&app, &[old, new]).await;
    assert_eq!(app.argon2_runs(), 0);
    all_validate(&app, &[idle]).await;
    assert_eq!(app.argon2_runs(), 1);
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_wrong_secret_does_not_change_the_tag(database: Database) {
    let app = with_ring(App::start(database).await, "a", &[A]).await;
    let [one, two] = [app.issue("alice", "one").await.1, app.issue("alice", "two").await.1];
    let app = with_ring(app, "b", &[B]).await;
    assert_eq!(app.validate(&forge(&one, &two)).await, Err(Reason::Unknown));
    assert_eq!(app.count("tokens WHERE tag_key_id = 'a'").await, 2);
    all_validate(&app, &[one, two]).await;
}

#[tokio::test]
async fn without_a_ring_argon2_verifies_every_token() {
    let app = App::start(Postgres).await;
    let secret = app.issue("alice", "one").await.1;
    all_validate(&app, &[secret.clone(), secret]).await;
    assert_eq!(app.argon2_runs(), 2, "for the creation, and for the first validation");
    assert_eq!(app.count("tokens WHERE tag IS NULL").await, 1);
}

#[tokio::test]
async fn a_configured_ring_must_exist() {
    let app = App::start(Sqlite).await;
    let folder = app.folder.path().to_str().unwrap();
    let settings = ["serve", "--data-dir", folder, "--key-ring", "/nowhere/ring.toml"];
    let config = Config::parse_from([&settings[..], &FREE_PORTS].concat()).unwrap();
    let error = Server::start(&config, Clock::system()).await.unwrap_err().to_string();
    assert!(error.contains("LATCHKEY_KEY_RING") && error.contains("/nowhere/ring.toml"), "{error}");
}
