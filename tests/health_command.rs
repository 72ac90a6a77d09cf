use std::{net::TcpListener, process::Output};

use crate::support::{
    App,
    Database::Sqlite,
    latchkey::{self, FAILURE},
    postgres::Postgres,
    tools,
};

const HEALTHY: i32 = 0;
const UNHEALTHY: i32 = 1;

fn ask(addr: &str) -> Output {
    latchkey::run(["health", "--grpc-addr", addr], "")
}

/// Checks the exit status, and returns the one line that was printed.
fn printed(output: &Output, status: i32) -> String {
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{stdout}{stderr}");
    assert!(stdout.ends_with('\n') && stdout.lines().count() == 1 && stderr.is_empty(), "{stdout}{stderr}");
    stdout
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_serving_service_is_healthy_wherever_its_address_is_set() {
    let app = App::start(Sqlite).await;
    let addr = app.grpc_addr.to_string();
    assert_eq!(printed(&ask(&addr), HEALTHY), format!("{addr} is serving\n"));
    assert_eq!(
        printed(&latchkey::run(["health", "--addr", &addr], ""), HEALTHY),
        format!("{addr} is serving\n")
    );

    let mut command = latchkey::command();
    let everywhere = format!("0.0.0.0:{}", app.grpc_addr.port());
    printed(&command.arg("health").env("LATCHKEY_GRPC_ADDR", everywhere).output().unwrap(), HEALTHY);

    let file = app.file("latchkey.toml", &format!("grpc_addr = {addr:?}\nmax_tokens_per_user = 7\n"));
    let mut command = latchkey::command();
    printed(&command.arg("health").env("LATCHKEY_CONFIG", file).output().unwrap(), HEALTHY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_without_its_database_is_not_healthy() {
    let mut postgres = Postgres::start();
    let url = postgres.create_database().await;
    let app = App::start_on(url, tempfile::tempdir().unwrap(), &["--database-timeout", "500ms"]).await;
    let addr = app.grpc_addr.to_string();
    let mut health = app.watch_health("").await;
    assert!(health.next().await);
    printed(&ask(&addr), HEALTHY);
    postgres.stop();
    assert!(!health.next().await);
    assert_eq!(printed(&ask(&addr), UNHEALTHY), format!("{addr} is not serving: NOT_SERVING\n"));
    postgres.resume();
    assert!(health.next().await);
    printed(&ask(&addr), HEALTHY);
}

#[test]
fn a_service_that_is_not_there_or_does_not_answer_is_not_healthy() {
    let not_listening = format!("127.0.0.1:{}", tools::free_port());
    let said = printed(&ask(&not_listening), UNHEALTHY);
    assert!(said.starts_with(&not_listening) && said.contains("refused"), "{said}");

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let said = printed(&ask(&silent.local_addr().unwrap().to_string()), UNHEALTHY);
    assert!(said.contains("no answer within 2s"), "{said}");
}

#[test]
fn a_text_that_is_not_an_address_is_refused() {
    for arguments in [["--grpc-addr", "localhost"], ["--grpc-address", "127.0.0.1:50051"]] {
        let output = latchkey::run([&["health"], &arguments[..]].concat(), "");
        assert_eq!(output.status.code(), Some(FAILURE));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("--grpc-addr"), "{said}");
    }
}
