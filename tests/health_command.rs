use std::{net::TcpListener, process::Output};

use crate::support::{App, Database::Sqlite, health::watch, latchkey, postgres::Postgres, soon, tools};

fn ask(addr: &str) -> Output {
    latchkey::run(["health", "--grpc-addr", addr], "")
}

/// Checks the exit status, and that one line was said, which it gives.
fn told(output: &Output, status: i32) -> String {
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}{complaint}");
    assert!(said.ends_with('\n') && said.lines().count() == 1 && complaint.is_empty(), "{said}{complaint}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_serves_is_healthy_wherever_its_address_is_set() {
    let app = App::start(Sqlite).await;
    let addr = app.server.grpc_addr().to_string();
    assert_eq!(told(&ask(&addr), 0), format!("{addr} is serving\n"));
    assert_eq!(told(&latchkey::run(["health", "--addr", &addr], ""), 0), format!("{addr} is serving\n"));

    let mut command = latchkey::command();
    let everywhere = format!("0.0.0.0:{}", app.server.grpc_addr().port());
    told(&command.arg("health").env("LATCHKEY_GRPC_ADDR", everywhere).output().unwrap(), 0);

    let file = app.file("latchkey.toml", &format!("grpc_addr = {addr:?}\nmax_tokens_per_user = 7\n"));
    let mut command = latchkey::command();
    told(&command.arg("health").env("LATCHKEY_CONFIG", file).output().unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_database_is_away_is_not() {
    let mut postgres = Postgres::start();
    let url = postgres.create_database().await;
    let app = App::start_on(url, tempfile::tempdir().unwrap(), &["--database-timeout", "500ms"]).await;
    let addr = app.server.grpc_addr().to_string();
    let mut health = watch(&app, "").await;
    assert!(soon("health", health.next()).await);
    told(&ask(&addr), 0);
    postgres.stop();
    assert!(!soon("NOT_SERVING", health.next()).await);
    assert_eq!(told(&ask(&addr), 1), format!("{addr} is not serving: NOT_SERVING\n"));
    postgres.resume();
    assert!(soon("SERVING", health.next()).await);
    told(&ask(&addr), 0);
}

#[test]
fn nor_is_one_that_is_not_there_or_says_nothing() {
    let nobody = format!("127.0.0.1:{}", tools::free_port());
    let said = told(&ask(&nobody), 1);
    assert!(said.starts_with(&nobody) && said.contains("refused"), "{said}");

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let said = told(&ask(&silent.local_addr().unwrap().to_string()), 1);
    assert!(said.contains("no answer within 2s"), "{said}");
}

#[test]
fn what_is_no_address_is_refused() {
    for arguments in [["--grpc-addr", "localhost"], ["--grpc-address", "127.0.0.1:50051"]] {
        let output = latchkey::run([&["health"], &arguments[..]].concat(), "");
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("--grpc-addr"), "{said}");
    }
}
