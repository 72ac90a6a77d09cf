use std::time::{Duration, Instant};

use ::latchkey::proto::latchkey::CreateTokenRequest;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use tokio::net::TcpListener;
use tonic::{Request, transport::Identity};

use crate::support::{
    App, Client,
    Database::Postgres,
    client::create_request,
    http, latchkey,
    latchkey::Process,
    nats::{Nats, SUBJECT},
    otlp::{Collector, PARENT, SENT_SOON, TRACE, attribute, traceparent},
    until,
};

const CREATE_TOKEN: &str = "latchkey.v1.TokenService/CreateToken";
const HANDLE_EVENT: &str = "process identity.v1.user_deleted";

/// A CreateToken request in the trace of a caller.
fn create(traceparent: &str) -> Request<CreateTokenRequest> {
    let mut request = Request::new(create_request("alice", "one"));
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    request
}

/// Starts a service that sends its spans to the collector.
async fn start(
    collector: &Collector,
    settings: &[&str],
    variables: &[(&str, &str)],
) -> (Process, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let variables = [&collector.variables(), variables].concat();
    (Process::start_with(folder.path(), settings, &variables), folder)
}

fn is_child_of_the_caller(span: &Span) {
    assert_eq!(span.trace_id, TRACE.to_be_bytes());
    assert_eq!(span.parent_span_id, PARENT.to_be_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creation_is_a_tree_from_the_call_to_the_commit() {
    let collector = Collector::start().await;
    let app = App::start(Postgres).await;
    let (process, _folder) = start(&collector, &["--database-url", &app.url], &[]).await;
    let client = process.client().await;
    client.create_with(create(&traceparent(TRACE, true))).await.unwrap();

    let rpc = collector.span(TRACE, CREATE_TOKEN).await;
    is_child_of_the_caller(&rpc);
    assert_eq!(rpc.kind(), SpanKind::Server);
    for (name, value) in
        [("rpc.system.name", "grpc"), ("rpc.method", CREATE_TOKEN), ("rpc.response.status_code", "OK")]
    {
        assert_eq!(attribute(&rpc.attributes, name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(attribute(&rpc.attributes, "error.type"), None);
    let below = until("the commit", || async {
        Some(collector.below(&rpc)).filter(|below| below.iter().any(|name| name == "sea_orm.commit"))
    })
    .await;
    assert_eq!(
        below,
        [
            // The rules are checked, so that argon2 does not run for a token that is refused anyway.
            "sea_orm.query_one",
            "argon2id",
            "sea_orm.begin",
            // The account's row is inserted or locked.
            "sea_orm.query_one",
            // The rules are checked again, under the lock.
            "sea_orm.query_one",
            // The token and its event are inserted.
            "sea_orm.execute",
            "sea_orm.query_one",
            "sea_orm.commit",
        ]
    );
    let query = collector.span(TRACE, "sea_orm.query_one").await;
    assert_eq!(query.kind(), SpanKind::Client);
    assert_eq!(attribute(&query.attributes, "db.system").as_deref(), Some("postgresql"));
    let resource = collector.received()[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(attribute(&resource.attributes, "service.name").as_deref(), Some("latchkey"));
    assert_eq!(
        attribute(&resource.attributes, "service.version").as_deref(),
        Some(env!("CARGO_PKG_VERSION"))
    );

    let rows = app.query("SELECT trace_id FROM token_events").await;
    assert_eq!(rows[0].try_get::<String>("", "trace_id").unwrap(), format!("{TRACE:032x}"));

    // A caller's error is not an error of the service.
    let other = TRACE + 1;
    client.create_with(create(&traceparent(other, true))).await.unwrap_err();
    let rpc = collector.span(other, CREATE_TOKEN).await;
    assert_eq!(attribute(&rpc.attributes, "rpc.response.status_code").as_deref(), Some("ALREADY_EXISTS"));
    assert_ne!(rpc.status.unwrap_or_default().code(), StatusCode::Error);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_user_is_a_tree_from_the_publication_to_the_commit() {
    let collector = Collector::start().await;
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = App::start(Postgres).await;
    app.issue("alice", "one").await;
    let settings = ["--database-url", &app.url, "--nats-url", &nats.url()];
    let (_process, _folder) = start(&collector, &settings, &[]).await;
    let published = traceparent(TRACE, true);
    identity
        .publish(
            &[("content-type", "application/json"), ("Traceparent", &published)],
            r#"{"userId": "alice"}"#,
        )
        .await;

    let handled = collector.span(TRACE, HANDLE_EVENT).await;
    is_child_of_the_caller(&handled);
    assert_eq!(handled.kind(), SpanKind::Consumer);
    for (name, value) in [
        ("messaging.system", "nats"),
        ("messaging.destination.name", SUBJECT),
        ("messaging.message.id", "IDENTITY:1"),
        ("latchkey.answer", "acknowledged"),
    ] {
        assert_eq!(attribute(&handled.attributes, name).as_deref(), Some(value), "{name}");
    }
    let below = collector.below(&handled);
    assert_eq!(below.first().map(String::as_str), Some("sea_orm.begin"), "{below:?}");
    assert_eq!(below.last().map(String::as_str), Some("sea_orm.commit"), "{below:?}");
    let commit = collector.span(TRACE, "sea_orm.commit").await;
    assert!(commit.end_time_unix_nano <= handled.end_time_unix_nano);
    identity.all_answered().await;

    // A dead letter carries the trace context.
    let other = TRACE + 1;
    identity.publish(&[("traceparent", &traceparent(other, true))], "no protobuf").await;
    let handled = collector.span(other, HANDLE_EVENT).await;
    assert_eq!(attribute(&handled.attributes, "latchkey.answer").as_deref(), Some("dead-lettered"));
    let (headers, _) = identity.dead_letters().await.remove(0);
    let span: String = handled.span_id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(headers.get("traceparent").unwrap().as_str(), format!("00-{other:032x}-{span}-01"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_over_http_continues_the_senders_trace() {
    let collector = Collector::start().await;
    let (process, _folder) = start(&collector, &[], &[]).await;
    let event = br#"{"specversion": "1.0", "id": "e-1", "source": "/identity", "type": "identity.v1.UserDeleted", "data": {"userId": "bob"}}"#;
    let traceparent = traceparent(TRACE, true);
    let headers = [("content-type", "application/cloudevents+json"), ("traceparent", traceparent.as_str())];
    // Names that callers invent are in no trace.
    for (made_up, expected) in [("POST /made/up", 404), ("MADEUP /events", 405)] {
        let (status, ..) = http::send(process.http_addr, made_up, &headers, event).await;
        assert_eq!(status, expected);
    }
    let (status, _, said) = http::send(process.http_addr, "POST /events", &headers, event).await;
    assert_eq!(status, 202, "{said}");
    let span = collector.span(TRACE, "POST /events").await;
    let names: Vec<String> = collector.spans().into_iter().map(|span| span.name.to_lowercase()).collect();
    assert!(names.contains(&"_other /events".to_owned()), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("made")), "{names:?}");
    is_child_of_the_caller(&span);
    assert_eq!(attribute(&span.attributes, "http.response.status_code").as_deref(), Some("202"));
    assert_eq!(collector.below(&span).last().map(String::as_str), Some("sea_orm.commit"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_callers_sampling_decision_is_followed_and_without_one_the_sampler_decides() {
    let collector = Collector::start().await;
    let never = [("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0")];
    let (process, _folder) = start(&collector, &[], &never).await;
    let client = process.client().await;
    client.create_with(create(&traceparent(TRACE, false))).await.unwrap();
    // These have no parent, so the ratio of 0 decides.
    client.create_with(CreateTokenRequest::default()).await.unwrap_err();
    client.create_with(create("nonsense")).await.unwrap_err();
    client.create_with(create(&traceparent(TRACE + 1, true))).await.unwrap_err();
    process.stop().await;
    let spans = collector.spans();
    assert!(!spans.is_empty());
    assert!(spans.iter().all(|span| span.trace_id == (TRACE + 1).to_be_bytes()), "{spans:?}");
}

const MORE_THAN_THE_QUEUE_HOLDS: usize = 3_000;

/// Validates a token within a time that is far more than it takes, and less than a wait for the collector.
async fn validate_at_once(client: &Client, secret: &str) {
    let answer = tokio::time::timeout(Duration::from_secs(1), client.try_validate(secret, &[])).await;
    answer.unwrap().unwrap().unwrap();
}

/// One collector is not there, and one accepts connections and never answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_collector_neither_slows_nor_stops_the_service() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoints = ["http://127.0.0.1:1".to_owned(), format!("http://{}", silent.local_addr().unwrap())];
    for endpoint in endpoints {
        let folder = tempfile::tempdir().unwrap();
        let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), SENT_SOON];
        let process = Process::start_with(folder.path(), &[], &variables);
        let client = process.client().await;
        let secret = client.create_with(create(&traceparent(TRACE, true))).await.unwrap().secret;
        for _ in 0..MORE_THAN_THE_QUEUE_HOLDS {
            validate_at_once(&client, &secret).await;
        }
        let stopping = Instant::now();
        process.stop().await;
        assert!(stopping.elapsed() < Duration::from_secs(5), "{:?}", stopping.elapsed());
    }
}

/// The certificate of the collector is signed by an authority that only the variable names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authority_of_the_collectors_certificate_is_a_setting() {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (key.cert.pem(), key.signing_key.serialize_pem());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, &certificate).unwrap();
    let collector = Collector::start_with(Identity::from_pem(&certificate, key)).await;
    let trusted = [("OTEL_EXPORTER_OTLP_CERTIFICATE", file.to_str().unwrap())];
    let (process, _folder) = start(&collector, &[], &trusted).await;
    process.client().await.create_with(create(&traceparent(TRACE, true))).await.unwrap();
    collector.span(TRACE, CREATE_TOKEN).await;
}

#[test]
fn unsupported_trace_settings_stop_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");
    let ratio = ("OTEL_TRACES_SAMPLER", "traceidratio");
    for (variables, said) in [
        (
            vec![endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")],
            "OTEL_EXPORTER_OTLP_PROTOCOL: \"http/protobuf\" is not supported; only \"grpc\" is",
        ),
        (
            vec![endpoint, ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip")],
            "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION: \"gzip\" is not supported; only \"none\" is",
        ),
        (
            vec![endpoint, ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such.pem")],
            "OTEL_EXPORTER_OTLP_CERTIFICATE: \"/no/such.pem\" cannot be read",
        ),
        (
            vec![endpoint, ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/no/such.key")],
            "OTEL_EXPORTER_OTLP_CLIENT_KEY: client certificates are not supported",
        ),
        (
            vec![endpoint, ("OTEL_TRACES_SAMPLER", "sometimes")],
            "OTEL_TRACES_SAMPLER: \"sometimes\" is not one of always_on",
        ),
        (
            vec![endpoint, ratio, ("OTEL_TRACES_SAMPLER_ARG", "banana")],
            "OTEL_TRACES_SAMPLER_ARG: \"banana\" is not a ratio from 0 to 1",
        ),
        (
            vec![endpoint, ratio, ("OTEL_TRACES_SAMPLER_ARG", "1.5")],
            "OTEL_TRACES_SAMPLER_ARG: \"1.5\" is not a ratio from 0 to 1",
        ),
        (
            vec![
                endpoint,
                ("OTEL_EXPORTER_OTLP_CERTIFICATE", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")),
            ],
            "/Cargo.toml\" contains no PEM certificate",
        ),
        (
            vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317")],
            "OTEL_EXPORTER_OTLP_ENDPOINT must be http://HOST:PORT",
        ),
        (
            vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "no url at all")],
            "OTEL_EXPORTER_OTLP_ENDPOINT must be http://HOST:PORT",
        ),
    ] {
        let refused = latchkey::refuses_with(folder.path(), &["serve"], &variables);
        assert!(refused.contains(said), "{refused}");
    }
}
