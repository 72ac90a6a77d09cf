use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use rstest::rstest;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Code;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    app,
    latchkey::{self, Process},
    soon, until,
};

/// A service as a process of its own, a call to it that waits for the lock, and the lock.
async fn call_under_way(
    app: &App,
    settings: &[&str],
) -> (Process, tokio::task::JoinHandle<Result<(), tonic::Status>>, app::Lock) {
    let folder = tempfile::tempdir().unwrap();
    let settings = [&["--database-url", &app.url, "--max-concurrent-requests", "1"], settings].concat();
    let process = Process::start(folder.path(), &settings);
    let lock = app.lock_user("alice").await;
    let mut client = app::connect(&process.url()).await;
    let request = ::latchkey::proto::latchkey::CreateTokenRequest {
        user_id: "alice".into(),
        name: "under way".into(),
        ..Default::default()
    };
    let call = tokio::spawn(async move {
        loop {
            // The probe below may have taken the only place.
            match client.create_token(request.clone()).await {
                Err(status) if status.code() == Code::ResourceExhausted => {}
                answer => return answer.map(drop),
            }
        }
    });
    // It is under way when there is no room for a second one.
    let client = app::connect(&process.url()).await;
    until("the call to be under way", || async {
        let second =
            client.clone().validate_token(::latchkey::proto::latchkey::ValidateTokenRequest::default()).await;
        second.err().filter(|status| status.code() == Code::ResourceExhausted)
    })
    .await;
    (process, call, lock)
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_under_way_are_finished_and_none_is_taken(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start(database).await;
    let (process, call, lock) = call_under_way(&app, &[]).await;
    process.signal("TERM");
    until("the end of listening", || async { tokio::net::TcpStream::connect(process.grpc_addr).await.err() })
        .await;
    assert!(!call.is_finished());
    lock.release().await;
    soon("the call under way", call).await.unwrap().unwrap();
    let (status, output) = process.ended().await;
    assert!(status.success(), "{status}: {output}");
    assert!(!output.contains("cut off"), "{output}");
    assert_eq!(app.names("alice").await, ["under way"]);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_do_not_end_are_cut_off(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start(database).await;
    let settings = ["--shutdown-grace", "300ms", "--request-timeout", "5m", "--database-timeout", "4s"];
    let (process, call, lock) = call_under_way(&app, &settings).await;
    let told = Instant::now();
    process.signal("TERM");
    let (status, output) = process.ended().await;
    assert!(status.success(), "{status}: {output}");
    assert!(told.elapsed() < Duration::from_secs(15), "{:?}", told.elapsed());
    assert!(soon("the call", call).await.unwrap().is_err());
    lock.release().await;
    assert!(app.names("alice").await.is_empty());
}

/// Load balancers keep such streams open for ever.
#[tokio::test]
async fn an_open_health_watch_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--shutdown-grace", "10m"]);
    let channel = tonic::transport::Channel::from_shared(process.url()).unwrap().connect().await.unwrap();
    let request = tonic_health::pb::HealthCheckRequest::default();
    let mut client = tonic_health::pb::health_client::HealthClient::new(channel);
    let mut watch = client.watch(request).await.unwrap().into_inner();
    let serving = watch.message().await.unwrap().unwrap().status();
    process.stop().await;
    let last = watch.message().await.unwrap().unwrap().status();
    assert_ne!(last, serving);
    assert_eq!(watch.message().await.unwrap(), None);
}

#[tokio::test]
async fn sigint_ends_it_too() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]);
    process.signal("INT");
    assert!(process.ended().await.0.success());
}

/// Its head is bounded by ten seconds, the grace by twenty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_never_arrives_whole_does_not_hold_it_up() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]);
    let mut tcp = TcpStream::connect(process.http_addr).await.unwrap();
    tcp.write_all(b"GET /livez HTTP/1.1\r\nhost: a").await.unwrap();
    let mut other = TcpStream::connect(process.http_addr).await.unwrap();
    other.write_all(b"GET /livez HTTP/1.1\r\nhost: a").await.unwrap();
    let mut rest = Vec::new();
    soon("the end of the connection", tcp.read_to_end(&mut rest)).await.unwrap();
    // Begun at the same time, it ends then too: nothing is left to wait for.
    let output = process.stop().await;
    assert!(!output.contains("calls were cut off"), "{output}");
}

#[rstest]
#[case("TERM", 143)]
#[case("INT", 130)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once(#[case] signal: &str, #[case] status: i32) {
    let app = App::start(Sqlite).await;
    let settings = ["--shutdown-grace", "10m", "--request-timeout", "5m", "--database-timeout", "1m"];
    let (process, call, lock) = call_under_way(&app, &settings).await;
    process.signal("TERM");
    until("the end of listening", || async { TcpStream::connect(process.grpc_addr).await.err() }).await;
    process.signal(signal);
    let (ended, output) = process.ended().await;
    assert_eq!(ended.code(), Some(status), "{ended}: {output}");
    assert!(output.contains(&format!("SIG{signal} received: stopped at once")), "{output}");
    assert!(soon("the call", call).await.unwrap().is_err());
    lock.release().await;
}

#[tokio::test]
async fn sighup_is_logged_and_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]);
    process.signal("HUP");
    let output = process.stop().await;
    assert!(output.contains("SIGHUP ignored"), "{output}");
}

/// Of a database that accepts connections and never answers, the start would wait for a minute.
#[tokio::test]
async fn a_signal_during_the_start_ends_it() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://u:p@{}/d", silent.local_addr().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut command = latchkey::command();
    command.args(["--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--database-timeout", "1m"]);
    command.args(["--database-url", &url]).current_dir(folder.path());
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut child = latchkey::Killed(child);
    let connection = tokio::task::spawn_blocking(move || silent.accept().unwrap());
    let _held = soon("the connection to the database", connection).await.unwrap();
    child.signal("TERM");
    let status = child.ended().await;
    assert!(status.success(), "{status}");
}
