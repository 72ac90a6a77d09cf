use rstest::rstest;
use serde_json::Value;
use tonic::Code;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    latchkey::Process,
    raw_http2::RawHttp2,
};

/// The lines of a log in JSON that are errors.
fn errors(log: &str) -> Vec<Value> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["level"] == "ERROR").collect()
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_internal_answer_has_one_line_in_the_log(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start(database).await;
    let (id, secret) = app.issue("alice", "one").await;
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--database-url", &app.url, "--log-format", "json"]);
    app.sql("ALTER TABLE tokens RENAME COLUMN created_at TO elsewhere").await;
    let mut client = crate::support::app::connect(&process.url()).await;
    let list = latchkey::proto::latchkey::ListTokensRequest { user_id: "alice".into(), ..Default::default() };
    let status = client.list_tokens(list).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Internal, "the service failed; its log says why"));
    let validate = latchkey::proto::latchkey::ValidateTokenRequest {
        secret: secret.clone().into(),
        ..Default::default()
    };
    let status = client.validate_token(validate).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);

    let log = process.stop().await;
    let errors = errors(&log);
    let methods: Vec<&str> = errors.iter().map(|line| line["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["ListTokens", "ValidateToken"], "{log}");
    for error in errors {
        let fault = error["error"].as_str().unwrap();
        assert!(fault.starts_with("the database refused") && fault.contains("created_at"), "{error}");
    }
    assert!(!log.contains(&secret) && !log.contains(&secret[27..70]) && !log.contains(&id), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_cannot_be_read_is_no_error_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--log-format", "json"]);
    let http2 = RawHttp2::connect(process.grpc_addr).await;
    for body in [&b"\x0a\x02\xff\xfe"[..], b"\xff\xff\xff", b"\x0a\x05ab"] {
        for method in ["CreateToken", "ListTokens", "DeleteToken", "ValidateToken"] {
            http2.call(method, &[], body).await;
        }
    }
    let log = process.stop().await;
    assert_eq!(errors(&log), Vec::<Value>::new(), "{log}");
}
