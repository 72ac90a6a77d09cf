use latchkey::proto::latchkey::{ValidateTokenResponse, invalid::Reason, validate_token_response::Outcome};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use rstest::rstest;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::{
    App,
    Database::Sqlite,
    latchkey::Process,
    metrics::find,
    otlp::{Collector, TRACE, attribute, traceparent},
    raw_http2::{RawHttp2, frame},
    until,
};

const NOT_UTF8: &[u8] = b"Bearer \xff\xfe";

/// A protobuf field of a length-delimited type.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    prost::encoding::encode_varint(value.len() as u64, &mut bytes);
    [&bytes, value].concat()
}

async fn connect() -> (App, RawHttp2) {
    let app = App::start(Sqlite).await;
    let http2 = RawHttp2::connect(app.grpc_addr).await;
    (app, http2)
}

/// The status in the headers of an answer.
fn status(headers: &std::collections::HashMap<String, String>) -> tonic::Status {
    let mut map = tonic::codegen::http::HeaderMap::new();
    for name in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
        if let Some(value) = headers.get(name) {
            map.insert(name, value.parse().unwrap());
        }
    }
    tonic::Status::from_header_map(&map).unwrap()
}

/// The number of calls of `method` that ended with `code`.
async fn counted(app: &App, method: &str, code: &str) -> f64 {
    let series = format!("latchkey_rpc_duration_seconds_count{{code=\"{code}\",method=\"{method}\"}}");
    find(&app.metrics().await, &series).unwrap_or(0.0)
}

const METHODS: [&str; 4] = ["CreateToken", "ListTokens", "DeleteToken", "ValidateToken"];
/// The limit of a message.
const LIMIT: usize = 64 * 1024;

#[rstest]
#[case::not_utf8(NOT_UTF8)]
#[case::lone_continuation(b"\x80")]
#[case::latin_1(b"pat_caf\xe9")]
#[case::surrogate(b"\xed\xa0\x80")]
#[case::nul(b"\0")]
#[case::too_long(&[b'x'; LIMIT - 100])]
#[case::too_long_and_not_utf8(&[0xff; LIMIT - 100])]
#[tokio::test]
async fn a_secret_that_is_not_text_is_malformed(#[case] secret: &[u8]) {
    let (app, http2) = connect().await;
    let answer: ValidateTokenResponse = http2.call_for("ValidateToken", &field(1, secret)).await;
    let Some(Outcome::Invalid(invalid)) = answer.outcome else { panic!("{answer:?}") };
    assert_eq!(invalid.reason(), Reason::Malformed);
    assert_eq!(counted(&app, "ValidateToken", "OK").await, 1.0);
}

#[rstest]
#[case("CreateToken", field(1, NOT_UTF8), "user_id")]
#[case("CreateToken", field(2, NOT_UTF8), "name")]
#[case("CreateToken", field(3, NOT_UTF8), "scopes")]
#[case("CreateToken", field(4, b"\x0d\x01\x01\x01\x01"), "expire_time.seconds")]
#[case("CreateToken", field(5, NOT_UTF8), "request_id")]
#[case("ListTokens", field(1, NOT_UTF8), "user_id")]
#[case("ListTokens", field(3, NOT_UTF8), "page_token")]
#[case("DeleteToken", field(2, NOT_UTF8), "token_id")]
#[case("ValidateToken", field(2, NOT_UTF8), "required_scopes")]
#[tokio::test]
async fn a_field_that_cannot_be_decoded_is_named(
    #[case] method: &str,
    #[case] message: Vec<u8>,
    #[case] field: &str,
) {
    let (app, http2) = connect().await;
    let status = status(&http2.call(method, &[], &message).await);
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let said = format!("{field} cannot be decoded: ");
    assert!(status.message().starts_with(&said), "{status}");
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, field);
    assert_eq!(counted(&app, method, "INVALID_ARGUMENT").await, 1.0);
}

#[rstest]
#[case::not_protobuf(frame(0, b"\xff\xff\xff"), "invalid varint")]
#[case::field_cut_short(frame(0, b"\x0a\x05ab"), "buffer underflow")]
#[case::without_a_message(Vec::new(), "Missing request message")]
#[case::header_cut_short(vec![0, 0, 0], "Unexpected EOF")]
#[case::message_cut_short(frame(0, &field(1, b"alice"))[..8].to_vec(), "Unexpected EOF")]
#[case::compressed_without_encoding(frame(1, b""), "no grpc-encoding")]
#[case::unknown_flag(frame(2, b""), "invalid compression flag: 2")]
#[case::second_message_not_readable(
    [frame(0, &field(1, b"alice")), frame(0, b"\xff\xff\xff")].concat(),
    "invalid varint"
)]
#[tokio::test]
async fn a_request_that_cannot_be_read_is_the_callers_error(#[case] body: Vec<u8>, #[case] reason: &str) {
    let (app, http2) = connect().await;
    for method in METHODS {
        let (headers, _) = http2.send(RawHttp2::request(method, &[]), &body).await;
        let status = status(&headers);
        assert_eq!(status.code(), Code::InvalidArgument, "{method}: {status}");
        let said = status.message();
        assert!(said.contains("cannot be decoded: ") && said.contains(reason), "{method}: {status}");
        assert_eq!(counted(&app, method, "INVALID_ARGUMENT").await, 1.0);
    }
    app.issue("alice", "still serving").await;
}

#[tokio::test]
async fn an_unsupported_compression_is_named() {
    let (_app, http2) = connect().await;
    for encoding in ["gzip", "deflate", "zstd", "br"] {
        for compressed in [0, 1] {
            let request = RawHttp2::request("CreateToken", &[("grpc-encoding", encoding)]);
            let (headers, _) = http2.send(request, &frame(compressed, b"\x1f\x8b\x08")).await;
            let status = status(&headers);
            // As gRPC's specification of compression demands.
            assert_eq!(status.code(), Code::Unimplemented, "{status}");
            assert!(status.message().contains(encoding), "{status}");
            assert_eq!(headers["grpc-accept-encoding"], "identity");
        }
    }
    let request = RawHttp2::request("ValidateToken", &[("grpc-encoding", "identity")]);
    assert_eq!(http2.send(request, &frame(0, b"")).await.0["grpc-status"], "0");
}

#[rstest]
#[case(LIMIT + 1)]
#[case(100 * LIMIT)]
#[tokio::test]
async fn a_message_over_the_limit_is_refused_with_the_limit(#[case] bytes: usize) {
    let (app, http2) = connect().await;
    for method in METHODS {
        // The length in the header of the frame is enough to refuse it.
        let body = [&[0][..], &u32::try_from(bytes).unwrap().to_be_bytes()].concat();
        let (headers, _) = http2.send(RawHttp2::request(method, &[]), &body).await;
        let status = status(&headers);
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().contains("at most 65536 bytes"), "{status}");
        let info = status.get_details_error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.metadata["limit_bytes"].as_str()),
            ("MESSAGE_TOO_LARGE", "65536")
        );
        assert_eq!(counted(&app, method, "RESOURCE_EXHAUSTED").await, 1.0);
    }
}

/// Stream resets other than CANCEL reach tonic as errors with codes such as INTERNAL and UNAVAILABLE.
#[rstest]
#[tokio::test]
async fn a_reset_stream_is_not_an_error_of_the_service(
    #[values("CANCEL", "PROTOCOL_ERROR", "REFUSED_STREAM", "INTERNAL_ERROR")] reason: &str,
) {
    let (app, http2) = connect().await;
    let reset = match reason {
        "CANCEL" => h2::Reason::CANCEL,
        "PROTOCOL_ERROR" => h2::Reason::PROTOCOL_ERROR,
        "REFUSED_STREAM" => h2::Reason::REFUSED_STREAM,
        _ => h2::Reason::INTERNAL_ERROR,
    };
    let mut send = http2.send.clone().ready().await.unwrap();
    let (answer, mut stream) = send.send_request(RawHttp2::request("CreateToken", &[]), false).unwrap();
    stream.send_data(frame(0, &field(1, b"alice"))[..8].to_vec().into(), false).unwrap();
    // Gives the call time to begin. The answer is the same if it does not.
    http2.call("ValidateToken", &[], b"").await;
    stream.send_reset(reset);
    drop(answer);
    let code = until("the end of the call", || async {
        for code in ["CANCELLED", "INVALID_ARGUMENT", "INTERNAL", "UNKNOWN", "UNAVAILABLE"] {
            if counted(&app, "CreateToken", code).await > 0.0 {
                return Some(code);
            }
        }
        None
    })
    .await;
    assert!(["CANCELLED", "INVALID_ARGUMENT"].contains(&code), "{code}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_span_has_the_code_of_the_answer() {
    let collector = Collector::start().await;
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start_with(folder.path(), &[], &collector.variables());
    let http2 = RawHttp2::connect(process.grpc_addr).await;
    let traceparent = traceparent(TRACE, true);
    http2.call("CreateToken", &[("traceparent", &traceparent)], &field(1, NOT_UTF8)).await;
    let span = collector.span(TRACE, "latchkey.v1.TokenService/CreateToken").await;
    let code = attribute(&span.attributes, "rpc.response.status_code");
    assert_eq!(code.as_deref(), Some("INVALID_ARGUMENT"));
    assert_eq!(span.status.map_or(0, |status| status.code), StatusCode::Unset as i32);
}

#[tokio::test]
async fn a_bad_request_to_the_health_service_is_the_callers_error() {
    let (app, http2) = connect().await;
    let request = || {
        tonic::codegen::http::Request::post("http://test/grpc.health.v1.Health/Check")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap()
    };
    let not_utf8 = status(&http2.send(request(), &frame(0, &field(1, NOT_UTF8))).await.0);
    assert_eq!(not_utf8.code(), Code::InvalidArgument, "{not_utf8}");
    assert!(not_utf8.message().starts_with("service cannot be decoded: "), "{not_utf8}");
    let large = status(&http2.send(request(), &frame(0, &field(1, &[b'x'; 100_000]))).await.0);
    assert_eq!(large.code(), Code::ResourceExhausted, "{large}");
    assert!(app.is_serving("").await);
}
