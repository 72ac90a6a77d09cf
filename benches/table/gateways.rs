//! What gateways ask: Envoy's checks beside an empty handler of the same messages, and requests over HTTP beside an empty axum
//! handler.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use latchkey::proto::envoy::service::auth::v3::{
    AttributeContext, CheckRequest,
    attribute_context::{HttpRequest, Request},
    authorization_client::AuthorizationClient,
    check_response::HttpResponse,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};
use tonic::transport::Channel;

use super::{
    HOT, ROUND, ROUNDS,
    database::Database,
    load::{Figure, LOAD},
    report::compare,
    server::Server,
};

/// What a gateway asks.
#[derive(Clone, Copy, Debug)]
enum Question {
    Check,
    Verify,
    Introspect,
}

pub async fn compare_all() {
    let mut database = Database::sqlite().await;
    database.fill(HOT, HOT).await;
    let latchkey = Server::latchkey(&database, &[]);
    let [handler, axum] = [Server::bare(&["handler"]), Server::bare(&["axum"])];
    for (question, name, baseline) in [
        (Question::Check, "ext_authz Check", &handler),
        (Question::Verify, "/verify", &axum),
        (Question::Introspect, "introspection", &axum),
    ] {
        let mut figures: [Vec<Figure>; 2] = Default::default();
        for turn in 0..=ROUNDS {
            for (server, figures) in [&latchkey, baseline].into_iter().zip(&mut figures) {
                let figure = round(server, question, &database.bearers).await;
                if turn > 0 {
                    figures.push(figure);
                }
            }
        }
        let [ours, empty] = &figures;
        compare(name, "empty handler", [ours, empty]);
    }
}

/// Sends requests as fast as they are answered.
async fn round(server: &Server, question: Question, bearers: &Arc<[String]>) -> Figure {
    let clients = server.channels(LOAD.connections).await;
    let (cpu, start, begun) = (server.cpu(), Instant::now(), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for caller in 0..LOAD.calls {
        let (bearers, begun, addr) = (Arc::clone(bearers), Arc::clone(&begun), server.http());
        let channel = clients[caller % clients.len()].clone();
        callers.spawn(async move {
            let mut sender = Sender::new(question, channel, addr).await;
            let mut calls = 0;
            while start.elapsed() < ROUND {
                let n = begun.fetch_add(1, Ordering::Relaxed);
                sender.send(&bearers[n % bearers.len()]).await;
                calls += 1;
            }
            calls
        });
    }
    let calls = callers.join_all().await.into_iter().sum::<usize>() as f64;
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), server.cpu() - cpu);
    Figure { calls_per_second: calls / seconds, server_micros_per_call: cpu.as_secs_f64() * 1e6 / calls }
}

/// Sends one request after the other.
enum Sender {
    Grpc(AuthorizationClient<Channel>),
    Http(Question, TcpStream),
}

impl Sender {
    async fn new(question: Question, channel: Channel, addr: SocketAddr) -> Self {
        match question {
            Question::Check => Self::Grpc(AuthorizationClient::new(channel)),
            _ => Self::Http(question, TcpStream::connect(addr).await.unwrap()),
        }
    }

    async fn send(&mut self, bearer: &str) {
        match self {
            Self::Grpc(client) => {
                let answer = client.check(check(bearer)).await.unwrap().into_inner();
                assert!(matches!(answer.http_response, Some(HttpResponse::OkResponse(_))));
            }
            Self::Http(question, stream) => {
                stream.write_all(request(*question, bearer).as_bytes()).await.unwrap();
                assert!(answer(stream).await.starts_with("HTTP/1.1 200"));
            }
        }
    }
}

/// A check as Envoy sends it for a usual request.
fn check(bearer: &str) -> CheckRequest {
    let headers = [
        (":authority", "api.example.com"),
        (":method", "GET"),
        (":path", "/v1/items?limit=100"),
        (":scheme", "https"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, br"),
        ("user-agent", "terraform-provider-example/1.4.2"),
        ("x-forwarded-for", "192.0.2.17"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "5f0f5a4e-3f0c-4e62-9d3b-1f9b1c0a7d11"),
    ];
    let mut headers: HashMap<_, _> =
        headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    headers.insert("authorization".to_owned(), format!("Bearer {bearer}"));
    let request = Some(Request { http: Some(HttpRequest { headers, header_map: None }) });
    CheckRequest { attributes: Some(AttributeContext { request, context_extensions: HashMap::new() }) }
}

fn request(question: Question, bearer: &str) -> String {
    match question {
        Question::Introspect => {
            let form = format!("token={bearer}");
            let length = form.len();
            format!(
                "POST /oauth2/introspect HTTP/1.1\r\nhost: latchkey\r\n\
                 content-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n\r\n{form}"
            )
        }
        _ => format!(
            "GET /verify HTTP/1.1\r\nhost: latchkey\r\naccept: application/json\r\nx-forwarded-for: 192.0.2.17\r\n\
             authorization: Bearer {bearer}\r\n\r\n"
        ),
    }
}

/// Returns an answer's head and body.
async fn answer(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "the connection ended");
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if body.len() >= length.parse().unwrap() {
            return text;
        }
    }
}
