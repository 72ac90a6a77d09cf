//! What one peer may hold, so that nobody else is kept out.

use std::time::{Duration, Instant};

use ::latchkey::listener::raise_file_limit;
use h2::client::SendRequest;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::codegen::Bytes;
use tonic::codegen::http::Request;

use crate::support::{
    App, Client,
    Database::Sqlite,
    http,
    latchkey::{self, Process},
    raw_http2::RawHttp2,
    soon, until,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// An open connection to the gRPC listener that does nothing.
async fn idle(client: &Client) -> TcpStream {
    let mut tcp = TcpStream::connect(client.grpc_addr).await.unwrap();
    tcp.write_all(PREFACE).await.unwrap();
    tcp
}

/// Waits until the server closes the connection.
async fn is_closed(mut tcp: TcpStream) {
    let mut bytes = [0; 1024];
    let closed = async { while tcp.read(&mut bytes).await.is_ok_and(|length| length > 0) {} };
    soon("the end of the connection", closed).await;
}

/// Whether the server has answered the preface.
async fn is_served(tcp: &mut TcpStream) -> bool {
    soon("settings", tcp.read(&mut [0; 1024])).await.is_ok_and(|length| length > 0)
}

#[tokio::test]
async fn an_address_has_a_limit_and_room_again_when_a_connection_ends() {
    // One is that of the client.
    let app = App::start_with(Sqlite, &["--max-connections-per-peer", "3"]).await;
    let [mut one, mut two] = [idle(&app).await, idle(&app).await];
    assert!(is_served(&mut one).await && is_served(&mut two).await);
    is_closed(idle(&app).await).await;
    app.metric_becomes("latchkey_connections_refused_total{listener=\"grpc\"}", 1.0).await;
    assert_eq!(app.metric("latchkey_connections{listener=\"grpc\"}").await, 3.0);
    drop(one);
    until("room", || async {
        let mut three = idle(&app).await;
        is_served(&mut three).await.then_some(())
    })
    .await;
    app.issue("alice", "one").await;
}

#[tokio::test]
async fn a_connection_that_says_nothing_or_something_else_is_closed() {
    let app = App::start(Sqlite).await;
    let mut other = TcpStream::connect(app.grpc_addr).await.unwrap();
    other.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut slow = TcpStream::connect(app.grpc_addr).await.unwrap();
    slow.write_all(&PREFACE[..10]).await.unwrap();
    let silent = TcpStream::connect(app.grpc_addr).await.unwrap();
    let began = Instant::now();
    is_closed(other).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    is_closed(slow).await;
    is_closed(silent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_thousand_idle_connections_disturb_nobody() {
    const IDLE: usize = 3_000;
    assert!(raise_file_limit() > IDLE, "raise the limit of open files: ulimit -Hn 16384");
    let app = App::start_with(Sqlite, &["--max-connections-per-peer", "4000"]).await;
    let (_, secret) = app.issue("alice", "one").await;
    let mut connections = Vec::with_capacity(IDLE);
    for _ in 0..IDLE {
        connections.push(idle(&app).await);
    }
    app.metric_becomes("latchkey_connections{listener=\"grpc\"}", (IDLE + 1) as f64).await;
    for _ in 0..100 {
        app.validate(&secret).await.unwrap();
    }
    let another = Client::connect([app.grpc_addr, app.http_addr, app.admin_addr]).await;
    another.validate(&secret).await.unwrap();
    assert!(app.is_ready().await);
}

/// The processor time that a process has used, in seconds.
fn cpu(process: &Process) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // utime and stime, in ticks of 10 ms (proc(5)).
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_free_file_descriptors_the_service_rests_and_answers_probes() {
    const CONNECTIONS: usize = 150;
    let folder = tempfile::tempdir().unwrap();
    let mut command = latchkey::command_by("prlimit", &["--nofile=256:256"]);
    command.current_dir(folder.path());
    let process = Process::start_by(command, &[]);
    let client = process.client().await;
    let (_, secret) = client.issue("alice", "one").await;
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(idle(&client).await);
        connections.push(TcpStream::connect(client.http_addr).await.unwrap());
    }
    let (before, began) = (cpu(&process), Instant::now());
    while began.elapsed() < Duration::from_secs(3) {
        assert!(process.admin_is_alive().await);
        client.validate(&secret).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let share = (cpu(&process) - before) / began.elapsed().as_secs_f64();
    assert!(share < 0.5, "{share} of a core");
    drop(connections);
    let again = soon("a connection", process.client()).await;
    again.validate(&secret).await.unwrap();
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_without_a_message_lock_nobody_out_and_end() {
    let app = App::start_with(Sqlite, &["--request-timeout", "3s", "--max-concurrent-requests", "64"]).await;
    let (_, secret) = app.issue("alice", "one").await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let http2 = RawHttp2::connect(app.grpc_addr).await;
        for method in ["CreateToken", "ValidateToken"].into_iter().cycle().take(256) {
            let mut send = http2.send.clone().ready().await.unwrap();
            held.push(send.send_request(RawHttp2::request(method, &[]), false).unwrap());
        }
    }
    for n in 0..50 {
        app.validate(&secret).await.unwrap();
        app.create("bob", &format!("token {n}")).await.map(drop).unwrap_or_default();
    }
    for (answer, _body) in held {
        let headers = soon("the end of a call", answer).await.unwrap().headers().clone();
        // DEADLINE_EXCEEDED.
        assert_eq!(headers["grpc-status"], "4");
    }
}

/// A connection that never opens the window of a stream.
async fn with_no_window(app: &App) -> SendRequest<Bytes> {
    let tcp = TcpStream::connect(app.grpc_addr).await.unwrap();
    let (send, connection) = h2::client::Builder::new().initial_window_size(0).handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    send
}

/// A request of ListTokens for the largest page.
fn list_request(user: &str) -> Bytes {
    use prost::Message as _;
    let request = ::latchkey::proto::latchkey::ListTokensRequest {
        user_id: user.into(),
        page_size: 200,
        ..Default::default()
    };
    let message = request.encode_to_vec();
    [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_never_read_take_little_memory_and_end() {
    const LIMIT: u64 = 100 * 1024 * 1024;
    let app = App::start_with(Sqlite, &[]).await;
    let scopes: Vec<String> = (0..64).map(|n| format!("{n:0>64}")).collect();
    let rows = format!(
        "INSERT INTO tokens (id, user_id, name, secret_hash, scopes, created_at) \
         WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 200) \
         SELECT randomblob(16), 'alice', 'token ' || n, '', '{}', '2026-01-01 00:00:00+00:00' FROM s",
        scopes.join(" ")
    );
    app.sql("INSERT INTO users (user_id) VALUES ('alice')").await;
    app.sql(&rows).await;
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--database-url", &app.url]);
    let served = App { client: process.client().await, ..app };
    assert_eq!(served.page("alice", 200, "").await.unwrap().tokens.len(), 200);
    let before = process.memory("VmRSS");
    let mut held = Vec::new();
    for _ in 0..4 {
        let send = with_no_window(&served).await;
        for _ in 0..200 {
            let mut send = send.clone().ready().await.unwrap();
            let request = Request::post("http://test/latchkey.v1.TokenService/ListTokens")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(())
                .unwrap();
            let (answer, mut body) = send.send_request(request, false).unwrap();
            body.send_data(list_request("alice"), true).unwrap();
            held.push(tokio::spawn(answer));
        }
    }
    let mut answers = Vec::new();
    for answer in held {
        answers.push(soon("an answer", answer).await.unwrap());
    }
    let used = process.memory("VmRSS").saturating_sub(before);
    assert!(used < LIMIT, "{} MB", used >> 20);
    // Others are served meanwhile, and the connections are closed in the end.
    served.issue("bob", "one").await;
    for answer in answers.into_iter().flatten() {
        let mut body = answer.into_body();
        let ended = async { while body.data().await.is_some_and(|data| data.is_ok()) {} };
        tokio::time::timeout(Duration::from_secs(60), ended).await.expect("the connection is closed");
    }
}

#[tokio::test]
async fn health_and_reflection_take_small_messages_only() {
    let app = App::start(Sqlite).await;
    let http2 = RawHttp2::connect(app.grpc_addr).await;
    for (path, limit) in [
        ("/grpc.health.v1.Health/Check", "4096"),
        ("/grpc.health.v1.Health/Watch", "4096"),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "512"),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "512"),
    ] {
        let mut send = http2.send.clone().ready().await.unwrap();
        let request = Request::post(format!("http://test{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (answer, mut body) = send.send_request(request, false).unwrap();
        // A message of 4 MB that never arrives whole.
        let begun = [&[0][..], &(4_u32 << 20).to_be_bytes(), &[0; 8_000]].concat();
        body.send_data(begun.into(), false).unwrap();
        let answer = soon("a refusal", answer).await.unwrap();
        let mut headers = answer.headers().clone();
        if !headers.contains_key("grpc-status") {
            headers = soon("trailers", answer.into_body().trailers()).await.unwrap().unwrap();
        }
        // RESOURCE_EXHAUSTED.
        assert_eq!(headers["grpc-status"], "8", "{path}");
        assert!(headers["grpc-message"].to_str().unwrap().contains(limit), "{path}: {headers:?}");
    }
    let (status, ..) = http::send(app.admin_addr, "GET /livez", &[], b"").await;
    assert_eq!(status, 200);
}
