use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    process::Stdio,
    thread,
};

use crate::support::{
    app::CHEAP_ARGON2,
    http,
    json_log::{Line, lines},
    latchkey::{self as binary, Process},
    nats::Nats,
    postgres::Postgres,
    soon, tools, until,
};

/// What a pipe of Linux holds.
const PIPE_BYTES: usize = 64 * 1024;

const DROPPED: &str = "latchkey_log_lines_dropped_total";

/// Makes so many calls that their log at level TRACE is more than the pipe and the queue hold. Each call has
/// dozens of lines.
async fn call_thousands_of_times(process: &Process) {
    const CALLERS: usize = 8;
    const CALLS_OF_EACH: usize = 200;
    let callers = (0..CALLERS).map(|_| async {
        let client = process.client().await;
        for _ in 0..CALLS_OF_EACH {
            client.validate("nonsense").await.unwrap_err();
        }
    });
    soon("the answers", futures_util::future::join_all(callers)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_that_is_not_read_blocks_neither_calls_nor_the_shutdown() {
    let folder = tempfile::tempdir().unwrap();
    let (unread, stderr) = io::pipe().unwrap();
    let mut command = binary::command();
    command.current_dir(folder.path());
    let process = Process::start_logging_to(stderr, command, &["--log", "trace"]);
    call_thousands_of_times(&process).await;
    assert!(process.client().await.metric(DROPPED).await > 0.0);
    process.stop().await;
    drop(unread);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_says_how_many_lines_were_dropped_once_the_pipe_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let (reader, stderr) = io::pipe().unwrap();
    let mut command = binary::command();
    command.current_dir(folder.path());
    let process = Process::start_logging_to(stderr, command, &["--log", "trace", "--log-format", "json"]);
    call_thousands_of_times(&process).await;
    let read =
        thread::spawn(move || BufReader::new(reader).lines().map_while(Result::ok).collect::<Vec<_>>());
    let dropped = process.client().await.metric(DROPPED).await;
    assert!(dropped > 0.0);
    process.stop().await;
    let lines: Vec<serde_json::Value> =
        read.join().unwrap().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = lines.iter().filter_map(|line| line["dropped"].as_u64()).sum::<u64>();
    assert!(said as f64 >= dropped, "{said}");
}

#[tokio::test]
async fn closed_or_full_outputs_do_not_stop_the_service() {
    let (unread, mut full) = io::pipe().unwrap();
    full.write_all(&[b'x'; PIPE_BYTES]).unwrap();
    let closed = || io::pipe().unwrap().1;
    for (stdout, stderr) in [(Stdio::from(full), closed()), (Stdio::from(closed()), closed())] {
        let folder = tempfile::tempdir().unwrap();
        let addresses: [String; 3] = std::array::from_fn(|_| format!("127.0.0.1:{}", tools::free_port()));
        let mut command = binary::command();
        command.args(CHEAP_ARGON2).args(["--grpc-addr", &addresses[0]]);
        command.args(["--http-addr", &addresses[1], "--admin-addr", &addresses[2]]);
        let child = command.current_dir(folder.path()).stdout(stdout).stderr(stderr).spawn().unwrap();
        let mut child = binary::Killed(child);
        let http = addresses[2].parse().unwrap();
        until("listening", || async { tokio::net::TcpStream::connect(http).await.ok() }).await;
        until("ready", || async { (http::send(http, "GET /readyz", &[], b"").await.0 == 200).then_some(()) })
            .await;
        child.signal("TERM");
        assert!(child.ended().await.success());
    }
    drop(unread);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_line_has_a_key_twice() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let folder = tempfile::tempdir().unwrap();
    let settings = ["--nats-url", &nats.url(), "--log", "trace", "--log-format", "json"];
    let process = Process::start(folder.path(), &settings);
    identity.publish(&[], "nonsense").await;
    let series = "latchkey_events_dead_lettered_total";
    process.client().await.metric_becomes(series, 1.0).await;
    let lines = lines(&process.stop().await);
    // Events of libraries may have no message.
    let message = |line: &Line| line.get("message").map(|message| message.to_string()).unwrap_or_default();
    let of_letter = lines.iter().find(|line| message(line).contains("dead letters"));
    let of_letter = of_letter.unwrap_or_else(|| panic!("{lines:?}"));
    for key in ["timestamp", "level", "target", "message", "reason"] {
        assert!(of_letter.contains_key(key), "{key}: {of_letter:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_normal_start_logs_a_few_lines_all_of_the_service() {
    let nats = Nats::start();
    nats.with_identity_stream().await;
    let database = Postgres::shared().create_database().await;
    let folder = tempfile::tempdir().unwrap();
    let ring = binary::run(["keys", "create", "--key-ring", folder.path().join("k").to_str().unwrap()], "");
    assert!(ring.status.success());
    let on_postgres = ["--database-url", &database, "--key-ring", "k", "--nats-url", &nats.url()];
    for settings in [&[][..], &[], &on_postgres] {
        let settings = [settings, &["--log-format", "json"]].concat();
        let process = Process::start(folder.path(), &settings);
        if settings.contains(&"--nats-url") {
            process.client().await.attached().await;
        }
        let lines = lines(&process.stop().await);
        assert!(lines.iter().any(|line| line["message"] == "listening"), "{lines:?}");
        for line in &lines {
            assert!(line["target"].as_str().unwrap().starts_with("latchkey"), "{line:?}");
        }
        // Listening, connected, attached, the signal, disconnected, stopped.
        assert!(lines.len() <= 6, "{lines:#?}");
    }
}
