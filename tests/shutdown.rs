use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use rstest::rstest;
use rstest_reuse::apply;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};
use tonic::{Code, Status};

use crate::support::{
    App,
    Database::{self, Sqlite},
    app::{FREE_PORTS, Lock},
    latchkey::{self, Process},
    on_both_databases, soon, until,
};

/// Starts a service in a process and a call that waits for a lock, and returns them with the lock.
async fn call_in_flight(app: &App, settings: &[&str]) -> (Process, JoinHandle<Result<(), Status>>, Lock) {
    let folder = tempfile::tempdir().unwrap();
    let settings = [&["--database-url", &app.url, "--max-concurrent-requests", "1"], settings].concat();
    let process = Process::start(folder.path(), &settings);
    let lock = app.lock_user("alice").await;
    let client = process.client().await;
    let call = tokio::spawn(async move {
        loop {
            // The probe below may have had the only permit.
            match client.create("alice", "in flight").await {
                Err(status) if status.code() == Code::ResourceExhausted => {}
                answer => return answer.map(drop),
            }
        }
    });
    // The call is in flight when a second one gets no permit.
    let client = process.client().await;
    until("the call to be in flight", || async {
        let second = client.page("alice", 0, "").await;
        second.err().filter(|status| status.code() == Code::ResourceExhausted)
    })
    .await;
    (process, call, lock)
}

#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_in_flight_are_finished_and_no_new_one_is_accepted(database: Database) {
    let app = App::start(database).await;
    let (process, call, lock) = call_in_flight(&app, &[]).await;
    process.signal("TERM");
    until("the end of listening", || async { TcpStream::connect(process.grpc_addr).await.err() }).await;
    assert!(!call.is_finished());
    lock.release().await;
    soon("the call in flight", call).await.unwrap().unwrap();
    let (status, output) = process.ended().await;
    assert!(status.success(), "{status}: {output}");
    assert!(!output.contains("cut off"), "{output}");
    assert_eq!(app.names("alice").await, ["in flight"]);
}

#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_do_not_end_are_cut_off(database: Database) {
    let app = App::start(database).await;
    let settings = ["--shutdown-grace", "300ms", "--request-timeout", "5m", "--database-timeout", "4s"];
    let (process, call, lock) = call_in_flight(&app, &settings).await;
    let signalled = Instant::now();
    process.signal("TERM");
    let (status, output) = process.ended().await;
    assert!(status.success(), "{status}: {output}");
    // The grace, three timeouts of the database, and a margin.
    assert!(signalled.elapsed() < Duration::from_secs(15), "{:?}", signalled.elapsed());
    assert!(soon("the call", call).await.unwrap().is_err());
    lock.release().await;
    assert!(app.names("alice").await.is_empty());
}

/// Load balancers never end such streams.
#[tokio::test]
async fn an_open_health_watch_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--shutdown-grace", "10m"]);
    let client = process.client().await;
    let mut watch = client.watch_health("").await;
    assert!(watch.next().await);
    process.stop().await;
    assert!(!watch.next().await);
    watch.ended().await.unwrap();
}

#[tokio::test]
async fn sigint_ends_the_service_too() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]);
    process.signal("INT");
    assert!(process.ended().await.0.success());
}

/// The head of a request may take ten seconds, and the grace is twenty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incomplete_request_does_not_delay_the_shutdown() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]);
    let mut tcp = TcpStream::connect(process.http_addr).await.unwrap();
    tcp.write_all(b"GET /livez HTTP/1.1\r\nhost: a").await.unwrap();
    let mut other = TcpStream::connect(process.http_addr).await.unwrap();
    other.write_all(b"GET /livez HTTP/1.1\r\nhost: a").await.unwrap();
    let mut rest = Vec::new();
    soon("the end of the connection", tcp.read_to_end(&mut rest)).await.unwrap();
    // The other connection began at the same time, so it has ended too.
    let output = process.stop().await;
    assert!(!output.contains("calls were cut off"), "{output}");
}

#[rstest]
#[case("TERM", 128 + 15)]
#[case("INT", 128 + 2)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_the_service_at_once(#[case] signal: &str, #[case] status: i32) {
    let app = App::start(Sqlite).await;
    let settings = ["--shutdown-grace", "10m", "--request-timeout", "5m", "--database-timeout", "1m"];
    let (process, call, lock) = call_in_flight(&app, &settings).await;
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
async fn sighup_is_logged_and_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]);
    process.signal("HUP");
    let output = process.stop().await;
    assert!(output.contains("SIGHUP ignored"), "{output}");
}

/// The database accepts connections and never answers: the start would wait for a minute.
#[tokio::test]
async fn a_signal_ends_a_start() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://u:p@{}/d", silent.local_addr().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut command = latchkey::command();
    command.args(FREE_PORTS).args(["--database-timeout", "1m", "--database-url", &url]);
    command.current_dir(folder.path());
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut child = latchkey::Killed(child);
    let connection = tokio::task::spawn_blocking(move || silent.accept().unwrap());
    let _held = soon("the connection to the database", connection).await.unwrap();
    child.signal("TERM");
    let status = child.ended().await;
    assert!(status.success(), "{status}");
}
