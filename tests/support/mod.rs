//! What the tests share: services on databases of their own, a client, and servers that can be broken.

pub mod app;
pub mod bearer_token;
pub mod caller;
pub mod certificates;
pub mod client;
pub mod database;
pub mod disk;
pub mod dns;
pub mod gateway;
pub mod guarded_process;
pub mod health;
pub mod helm;
pub mod http;
pub mod issuer;
pub mod json_log;
pub mod latchkey;
pub mod metrics;
pub mod nats;
pub mod otlp;
pub mod postgres;
pub mod proxy;
pub mod raw_http2;
pub mod shell;
pub mod standby;
pub mod statements;
pub mod status;
pub mod tools;

use std::time::Duration;

pub use app::App;
pub use client::Client;
pub use database::Database;

/// Runs a test on SQLite and on PostgreSQL.
#[rstest_reuse::template]
#[rstest::rstest]
fn on_both_databases(#[values(Database::Sqlite, Database::Postgres)] database: Database) {}

/// The longest that a test waits for anything before it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at something that is expected to change.
const POLL: Duration = Duration::from_millis(5);

/// Awaits `future`, for at most [`PATIENCE`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Repeats `ask` until it returns an answer, for at most [`PATIENCE`].
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    soon(what, asking).await
}
