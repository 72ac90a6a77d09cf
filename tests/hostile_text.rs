use latchkey::proto::latchkey::{
    CreateTokenRequest, DeleteTokenRequest, ListTokensRequest, ValidateTokenRequest,
};
use prost::Message as _;
use tonic::codegen::http::Request;

use crate::support::{
    http,
    latchkey::Process,
    nats::{Identity, Nats},
    raw_http2::{RawHttp2, frame},
    soon,
};

/// The longest line of the log and the longest answer, in bytes.
const MAX_SHOWN: usize = 4 * 1024;
const KIB: usize = 1024;

/// Text that forges lines of a log, moves the cursor of a terminal, hides itself, or is long.
fn texts() -> Vec<String> {
    let short =
        "x\r\n{\"level\":\"ERROR\",\"message\":\"forged\"}\n\u{1b}[2J\u{1b}[31m\u{7f}\u{9b}\u{202e}\0";
    vec![
        short.to_owned(),
        short.repeat(KIB),
        "x".repeat(60 * KIB),
        "\u{1b}[31m".repeat(12 * KIB),
        "\u{202e}é\u{85}".repeat(8 * KIB),
        "\"\\".repeat(30 * KIB),
    ]
}

/// The same as the value of a header, where most control characters are not allowed.
fn header_values() -> Vec<String> {
    vec!["x".repeat(12 * KIB), "\u{a0}\t".repeat(4 * KIB), "%0A%1B[31m".repeat(KIB), "\"\\".repeat(6 * KIB)]
}

fn check_shown(what: &str, shown: &str) {
    assert!(shown.len() <= MAX_SHOWN, "{what}: {} bytes: {}", shown.len(), &shown[..200]);
    let control = shown.chars().find(|character| character.is_control());
    assert_eq!(control, None, "{what}: {shown:?}");
}

/// Calls every method with `text` in every field.
async fn call_every_method(http2: &RawHttp2, text: &str) {
    let text = || text.to_owned();
    let texts = vec![text(); if text().len() < KIB { 100 } else { 1 }];
    let requests = [
        ("CreateToken", CreateTokenRequest { user_id: text(), ..Default::default() }.encode_to_vec()),
        ("CreateToken", CreateTokenRequest { name: text(), ..Default::default() }.encode_to_vec()),
        ("CreateToken", CreateTokenRequest { request_id: text(), ..Default::default() }.encode_to_vec()),
        (
            "CreateToken",
            CreateTokenRequest { scopes: texts[..texts.len().min(64)].to_vec(), ..Default::default() }
                .encode_to_vec(),
        ),
        ("ListTokens", ListTokensRequest { user_id: text(), ..Default::default() }.encode_to_vec()),
        (
            "ListTokens",
            ListTokensRequest { user_id: "alice".into(), page_token: text(), ..Default::default() }
                .encode_to_vec(),
        ),
        ("DeleteToken", DeleteTokenRequest { user_id: text(), ..Default::default() }.encode_to_vec()),
        (
            "DeleteToken",
            DeleteTokenRequest { user_id: "alice".into(), token_id: text(), ..Default::default() }
                .encode_to_vec(),
        ),
        (
            "ValidateToken",
            ValidateTokenRequest { secret: text().into(), ..Default::default() }.encode_to_vec(),
        ),
        (
            "ValidateToken",
            ValidateTokenRequest { secret: "x".into(), required_scopes: texts }.encode_to_vec(),
        ),
        ("ValidateToken", text().into_bytes()),
    ];
    for (method, message) in requests {
        let (head, body) = http2.send(RawHttp2::request(method, &[]), &frame(0, &message)).await;
        for (name, value) in &head {
            check_shown(&format!("{method} {name}"), value);
        }
        assert!(body.len() <= MAX_SHOWN, "{method}: {body:?}");
    }
}

/// Asks reflection and health for `text`. Their requests have the text in one field each.
async fn ask_other_services(http2: &RawHttp2, text: &str) {
    for (path, number) in [
        ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", 3),
        ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", 4),
        ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", 4),
        ("grpc.health.v1.Health/Check", 1),
    ] {
        let mut message = vec![number << 3 | 2];
        prost::encoding::encode_varint(text.len() as u64, &mut message);
        message.extend_from_slice(text.as_bytes());
        let request = Request::post(format!("http://test/{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let (head, body) = http2.send(request.body(()).unwrap(), &frame(0, &message)).await;
        for (name, value) in &head {
            check_shown(&format!("{path} {name}"), value);
        }
        // Reflection repeats a short request in its answer.
        assert!(body.len() <= MAX_SHOWN, "{path}: {} bytes", body.len());
    }
}

/// Calls with `value` in every header that is read, and in the path.
async fn call_with_headers(http2: &RawHttp2, value: &str) {
    for name in ["grpc-encoding", "grpc-timeout", "traceparent", "tracestate", "user-agent", "content-type"] {
        let request = Request::post("http://test/latchkey.v1.TokenService/ListTokens").header(name, value);
        let request = if name == "content-type" {
            request
        } else {
            request.header("content-type", "application/grpc").header("te", "trailers")
        };
        let (head, body) = http2.send(request.body(()).unwrap(), &frame(0, b"")).await;
        for (of, shown) in &head {
            check_shown(&format!("{name}: {of}"), shown);
        }
        assert!(body.len() <= MAX_SHOWN);
    }
    let path = "x".repeat(value.len());
    let request = Request::post(format!("http://test/latchkey.v1.TokenService/{path}"));
    let request = request.header("content-type", "application/grpc").body(()).unwrap();
    for (of, shown) in &http2.send(request, &frame(0, b"")).await.0 {
        check_shown(&format!("path: {of}"), shown);
    }
}

/// The bodies of events with `text` in every place.
fn bodies(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let json = |value: serde_json::Value| value.to_string().into_bytes();
    let event = |name: &str| {
        let mut event = serde_json::json!({
            "specversion": "1.0", "type": "identity.v1.UserDeleted", "id": "1", "source": "/identity",
            "data": { "userId": "alice" },
        });
        event[name] = text.into();
        ("application/cloudevents+json", json(event))
    };
    let mut bodies: Vec<_> =
        ["specversion", "type", "id", "source", "data", "datacontenttype", "data_base64"].map(event).to_vec();
    bodies.push(("application/cloudevents+json", json(text.into())));
    bodies.push(("application/cloudevents+json", text.into()));
    bodies.push(("application/json", json(text.into())));
    bodies.push(("application/json", json(serde_json::json!({ "userId": text }))));
    bodies.push(("application/json", json(serde_json::json!({ "userId": "bob", "deleteTime": text }))));
    bodies.push(("application/json", json(serde_json::json!({ "userId": { text: 1 } }))));
    bodies.push(("application/protobuf", text.into()));
    bodies.push(("application/protobuf", crate::support::nats::protobuf(text)));
    bodies
}

const ATTRIBUTES: [(&str, &str); 4] = [
    ("ce-specversion", "1.0"),
    ("ce-type", "identity.v1.UserDeleted"),
    ("ce-id", "1"),
    ("ce-source", "/identity"),
];

/// The headers of an event with `value` in one after the other.
fn headers(value: &str) -> Vec<Vec<(&str, &str)>> {
    let all =
        [&ATTRIBUTES[..], &[("content-type", "application/json"), ("traceparent", "x"), ("tracestate", "x")]]
            .concat();
    (0..all.len())
        .map(|n| {
            let mut headers = all.clone();
            headers[n].1 = value;
            headers
        })
        .collect()
}

async fn post_events(process: &Process) {
    let post = async |headers: &[(&str, &str)], body: &[u8]| {
        let sent = http::try_send(process.http_addr, "POST /events", headers, body).await;
        // A head that is too large is refused before the request is read to its end.
        if let Some((_, head, body)) = sent {
            head.lines().for_each(|line| check_shown("POST /events", line));
            check_shown("POST /events", &body);
        }
    };
    for text in texts() {
        for (content_type, body) in bodies(&text) {
            let headers = [&ATTRIBUTES[..], &[("content-type", content_type)]].concat();
            post(&headers, &body).await;
        }
    }
    for value in header_values() {
        for headers in headers(&value) {
            post(&headers, b"{\"userId\": \"bob\"}").await;
        }
        let (_, head, body) =
            http::send(process.http_addr, &format!("GET /{}", "x".repeat(value.len())), &[], b"").await;
        head.lines().for_each(|line| check_shown("GET", line));
        check_shown("GET", &body);
    }
}

async fn publish_events(identity: &Identity) {
    for text in texts() {
        for (content_type, body) in bodies(&text) {
            identity.publish(&[("Content-Type", content_type)], body).await;
        }
    }
    for value in header_values() {
        for headers in headers(&value) {
            identity.publish(&headers, "{\"userId\": \"bob\"}").await;
        }
    }
    // The subject is the publisher's choice too.
    let subject = format!("identity.\u{1b}[31m{}", "x".repeat(3 * KIB));
    let sent = identity.0.publish(subject, "x".into()).await.unwrap();
    soon("publish", sent.into_future()).await.unwrap();
    identity.all_answered().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_of_callers_is_neither_logged_nor_answered_at_length_or_with_control_characters() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let folder = tempfile::tempdir().unwrap();
    for format in ["json", "text"] {
        let url = nats.url();
        let settings = ["--nats-url", &url, "--nats-subject", "identity.>", "--log-format", format];
        let process = Process::start(folder.path(), &settings);
        process.client().await.attached().await;
        let http2 = RawHttp2::connect(process.grpc_addr).await;
        for text in texts() {
            call_every_method(&http2, &text).await;
            ask_other_services(&http2, &text).await;
        }
        for value in header_values() {
            call_with_headers(&http2, &value).await;
        }
        post_events(&process).await;
        publish_events(&identity).await;
        let output = process.stop().await;
        assert!(output.lines().count() > 100, "events that cannot be read are logged");
        for line in output.lines() {
            check_shown("log", line);
            assert!(!line.starts_with("{\"level\""), "forged: {line}");
        }
    }
}
