use std::sync::Arc;

use h2::Reason;
use prost::Message as _;
use rstest_reuse::apply;
use tonic::Code;

use crate::support::{
    App,
    Database::{self, Sqlite},
    client::create_request,
    on_both_databases,
    raw_http2::RawHttp2,
    soon,
    status::{details, has_retry_delay},
    until,
};

const INVALID_ARGUMENT: &str = "3";
const DEADLINE_EXCEEDED: &str = "4";
const RESOURCE_EXHAUSTED: &str = "8";

const KIB: usize = 1024;

fn create(user: &str, name: &str) -> Vec<u8> {
    create_request(user, name).encode_to_vec()
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_call_ends_at_the_callers_deadline_and_changes_nothing(database: Database) {
    let app = App::start(database).await;
    let http2 = RawHttp2::connect(app.grpc_addr).await;
    let lock = app.lock_user("alice").await;
    let answer = http2.call("CreateToken", &[("grpc-timeout", "200m")], &create("alice", "one")).await;
    assert_eq!(answer["grpc-status"], DEADLINE_EXCEEDED, "{answer:?}");
    lock.release().await;
    // If the call had left a transaction that waits for the lock, it would have come before this one.
    app.issue("alice", "two").await;
    assert_eq!(app.names("alice").await, ["two"]);
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_call_ends_at_the_services_own_limit(database: Database) {
    let app = App::start_with(database, &["--request-timeout", "200ms"]).await;
    let lock = app.lock_user("alice").await;
    let late = app.create("alice", "one").await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
    lock.release().await;
}

#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_beyond_the_limit_are_refused_at_once(database: Database) {
    let app = Arc::new(App::start_with(database, &["--max-concurrent-requests", "1"]).await);
    let lock = app.lock_user("alice").await;
    let in_flight = tokio::spawn({
        let app = Arc::clone(&app);
        async move {
            loop {
                // The probe below may have had the only permit.
                match app.create("alice", "one").await {
                    Err(status) if status.code() == Code::ResourceExhausted => {}
                    answer => return answer,
                }
            }
        }
    });
    let refused = until("a refusal", || async { app.page("alice", 0, "").await.err() }).await;
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(has_retry_delay(&refused), "{refused}");
    assert!(app.is_serving("").await, "an overloaded service is healthy");
    lock.release().await;
    soon("the call in flight", in_flight).await.unwrap().unwrap();
    app.validate("x").await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashes_beyond_the_queue_are_refused() {
    // One run at a time, which takes about a second, and no queue: of two at once, one is refused.
    let heavy = ["--argon2-memory-kib", "262144", "--argon2-concurrency", "1", "--argon2-queue", "0"];
    let app = Arc::new(App::start_with(Sqlite, &heavy).await);
    let calls = ["one", "two"].map(|name| {
        let app = Arc::clone(&app);
        tokio::spawn(async move { app.create("alice", name).await })
    });
    let mut refused = Vec::new();
    for call in calls {
        refused.extend(call.await.unwrap().err());
    }
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].code(), Code::ResourceExhausted);
    assert!(details(&refused[0]).retry_info().is_some());
}

#[tokio::test]
async fn a_message_over_64_kib_is_refused() {
    let app = App::start(Sqlite).await;
    let http2 = RawHttp2::connect(app.grpc_addr).await;
    let answer = http2.call("CreateToken", &[], &create("alice", &"n".repeat(64 * KIB))).await;
    assert_eq!(answer["grpc-status"], RESOURCE_EXHAUSTED, "{answer:?}");
    let answer = http2.call("CreateToken", &[], &create("alice", &"n".repeat(63 * KIB))).await;
    assert_eq!(answer["grpc-status"], INVALID_ARGUMENT, "{answer:?}");
}

#[tokio::test]
async fn a_connection_has_a_bounded_number_of_streams() {
    let app = App::start_with(Sqlite, &["--max-streams", "7"]).await;
    assert_eq!(RawHttp2::connect(app.grpc_addr).await.max_streams, 7);
}

/// CVE-2023-44487: streams are opened and reset at once.
#[tokio::test]
async fn a_flood_of_resets_ends_the_connection() {
    let app = App::start(Sqlite).await;
    let http2 = RawHttp2::connect(app.grpc_addr).await;
    let flood = async {
        let mut send = http2.send.clone();
        loop {
            send = send.ready().await?;
            let (_, mut stream) = send.send_request(RawHttp2::request("ValidateToken", &[]), false)?;
            stream.send_reset(Reason::CANCEL);
            tokio::task::yield_now().await;
        }
    };
    let ended: Result<(), h2::Error> = soon("the end of the flood", flood).await;
    assert!(ended.is_err());
    let closed = soon("the end of the connection", http2.closed).await.unwrap().unwrap_err();
    // A client that is still sending may see the closed connection before it reads the reason.
    assert!(closed.reason() == Some(Reason::ENHANCE_YOUR_CALM) || closed.is_io(), "{closed}");
    app.issue("alice", "still serving").await;
}
