//! What the tests stand on: a service of their own, on a database of their own.

pub mod app;
pub mod disk;
pub mod dns;
pub mod forge;
pub mod guarded_process;
pub mod health;
pub mod helm;
pub mod http;
pub mod latchkey;
pub mod nats;
pub mod otlp;
pub mod postgres;
pub mod proxy;
pub mod raw_http2;
pub mod standby;
pub mod tools;

pub use app::{App, Database, details};

/// How long anything awaited in a test may take before the test fails.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Awaits `future`, but not for ever.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Asks again and again until there is an answer, but not for ever.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    soon(what, asking).await
}
