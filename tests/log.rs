use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    process::Stdio,
    thread,
};

use latchkey::proto::latchkey::ValidateTokenRequest;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use crate::{
    metrics,
    support::{
        app,
        health::is_serving_at,
        http,
        latchkey::{self as binary, Process},
        nats::Nats,
        postgres::Postgres,
        soon, tools, until,
    },
};

const DROPPED: &str = "latchkey_log_lines_dropped_total";

async fn metric(process: &Process, series: &str) -> f64 {
    let (_, _, text) = http::send(process.http_addr, "GET /metrics", &[], b"").await;
    metrics::value(&text, series)
}

/// Makes so many calls that the log of them at the level of trace is longer than the pipe and the queue hold.
async fn call_thousands_of_times(process: &Process) {
    let callers = (0..8).map(|_| async {
        let mut client = app::connect(&process.url()).await;
        for _ in 0..500 {
            let request = ValidateTokenRequest { secret: "nonsense".into(), required_scopes: vec![] };
            client.validate_token(request).await.unwrap();
        }
    });
    soon("the answers", futures_util::future::join_all(callers)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_that_nobody_reads_blocks_neither_calls_nor_the_shutdown() {
    let folder = tempfile::tempdir().unwrap();
    let (unread, stderr) = io::pipe().unwrap();
    let mut command = binary::command();
    command.current_dir(folder.path());
    let process = Process::start_logging_to(stderr, command, &["--log", "trace"]);
    call_thousands_of_times(&process).await;
    assert!(metric(&process, DROPPED).await > 0.0);
    process.stop().await;
    drop(unread);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_dropped_is_said_when_the_pipe_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let (reader, stderr) = io::pipe().unwrap();
    let mut command = binary::command();
    command.current_dir(folder.path());
    let process = Process::start_logging_to(stderr, command, &["--log", "trace", "--log-format", "json"]);
    call_thousands_of_times(&process).await;
    let read =
        thread::spawn(move || BufReader::new(reader).lines().map_while(Result::ok).collect::<Vec<_>>());
    // Its line is in the log before the shutdown begins.
    let dropped = metric(&process, DROPPED).await;
    assert!(dropped > 0.0);
    process.stop().await;
    let lines: Vec<serde_json::Value> =
        read.join().unwrap().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = lines.iter().filter_map(|line| line["dropped"].as_u64()).sum::<u64>();
    assert!(said as f64 >= dropped, "{said}");
}

#[tokio::test]
async fn closed_or_full_outputs_stop_nothing() {
    let (unread, mut full) = io::pipe().unwrap();
    full.write_all(&[b'x'; 64 * 1024]).unwrap();
    let closed = || io::pipe().unwrap().1;
    for (stdout, stderr) in [(Stdio::from(full), closed()), (Stdio::from(closed()), closed())] {
        let folder = tempfile::tempdir().unwrap();
        let addresses = [tools::free_port(), tools::free_port()].map(|port| format!("127.0.0.1:{port}"));
        let mut command = binary::command();
        command.args(app::CHEAP_ARGON2).args(["--grpc-addr", &addresses[0], "--http-addr", &addresses[1]]);
        let child = command.current_dir(folder.path()).stdout(stdout).stderr(stderr).spawn().unwrap();
        let mut child = binary::Killed(child);
        let http = addresses[1].parse().unwrap();
        until("listening", || async { tokio::net::TcpStream::connect(http).await.ok() }).await;
        until("ready", || async { (http::send(http, "GET /readyz", &[], b"").await.0 == 200).then_some(()) })
            .await;
        child.signal("TERM");
        assert!(child.ended().await.success());
    }
    drop(unread);
}

/// The lines of a log in JSON. Panics if one has a key twice.
fn lines(output: &str) -> Vec<serde_json::Map<String, serde_json::Value>> {
    struct Unique(serde_json::Map<String, serde_json::Value>);

    impl<'de> Deserialize<'de> for Unique {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_map(Keys)
        }
    }

    struct Keys;

    impl<'de> Visitor<'de> for Keys {
        type Value = Unique;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
            let mut object = serde_json::Map::new();
            while let Some((key, value)) = map.next_entry()? {
                assert!(!object.contains_key(&key), "{key} stands twice");
                let key: String = key;
                object.insert(key, value);
            }
            Ok(Unique(object))
        }
    }

    let lines = output.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str::<Unique>(line).unwrap().0).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_stands_twice_in_a_line() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let folder = tempfile::tempdir().unwrap();
    let settings = ["--nats-url", &nats.url(), "--log", "trace", "--log-format", "json"];
    let process = Process::start(folder.path(), &settings);
    identity.publish(&[], "nonsense").await;
    let series = "latchkey_events_dead_lettered_total";
    until("a dead letter", || async { (metric(&process, series).await == 1.0).then_some(()) }).await;
    let lines = lines(&process.stop().await);
    let of_letter = lines.iter().find(|line| line["message"].as_str().unwrap().contains("dead letters"));
    let of_letter = of_letter.unwrap_or_else(|| panic!("{lines:?}"));
    for key in ["timestamp", "level", "target", "message", "reason"] {
        assert!(of_letter.contains_key(key), "{key}: {of_letter:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_normal_start_says_nothing_that_is_not_the_services() {
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
            until("attached", || async {
                is_serving_at(&process.url(), "latchkey.v1.UserEvents").await.then_some(())
            })
            .await;
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
