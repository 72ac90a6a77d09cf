use rstest_reuse::apply;
use tonic::Code;

use crate::support::{
    App, Database,
    bearer_token::secret_of,
    json_log::{self, Line},
    latchkey::Process,
    on_both_databases,
    raw_http2::RawHttp2,
};

#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_internal_error_has_one_line_in_the_log(database: Database) {
    let app = App::start(database).await;
    let (id, secret) = app.issue("alice", "one").await;
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--database-url", &app.url, "--log-format", "json"]);
    app.sql("ALTER TABLE tokens RENAME COLUMN created_at TO elsewhere").await;
    let client = process.client().await;
    let status = client.page("alice", 0, "").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Internal, "the service failed; its log says why"));
    let status = client.try_validate(&secret, &[]).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);

    let log = process.stop().await;
    let errors = json_log::errors(&log);
    let methods: Vec<&str> = errors.iter().map(|line| line["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["ListTokens", "ValidateToken"], "{log}");
    for line in errors {
        let error = line["error"].as_str().unwrap();
        assert!(error.starts_with("the database refused") && error.contains("created_at"), "{line:?}");
    }
    assert!(!log.contains(&secret) && !log.contains(secret_of(&secret)) && !log.contains(&id), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_cannot_be_read_is_not_logged_as_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--log-format", "json"]);
    let http2 = RawHttp2::connect(process.grpc_addr).await;
    for body in [&b"\x0a\x02\xff\xfe"[..], b"\xff\xff\xff", b"\x0a\x05ab"] {
        for method in ["CreateToken", "ListTokens", "DeleteToken", "ValidateToken"] {
            http2.call(method, &[], body).await;
        }
    }
    let log = process.stop().await;
    assert_eq!(json_log::errors(&log), Vec::<Line>::new(), "{log}");
}
