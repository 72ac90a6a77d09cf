//! The programs in examples/clients, as they stand there, and independent clients of OAuth.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{App, Database::Sqlite, caller::SharedSecret, latchkey::Process, tools};

const INSTALL_PYTHON: &str = "install Python: apt-get install python3 python3-venv";

/// What both programs print, with the token's hint.
fn expected(hint: &str) -> String {
    format!(
        "created {hint}\nlisted example {hint}\nvalid for alice\ninvalid: REASON_REVOKED\n\
         error INVALID_ARGUMENT\n  field name - has 2 characters after trimming; at least 3 are needed\n\
         error NOT_FOUND\n  reason TOKEN_NOT_FOUND of latchkey.v1\n"
    )
}

/// Copies the folder of a program to a place where it can write, beside the protos.
fn copy(language: &str) -> (tempfile::TempDir, PathBuf) {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("examples/clients").join(language);
    fs::create_dir_all(&folder).unwrap();
    for file in fs::read_dir(checkout.join("examples/clients").join(language)).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            fs::copy(file.path(), folder.join(file.file_name())).unwrap();
        }
    }
    symlink(checkout.join("proto"), root.path().join("proto")).unwrap();
    (root, folder)
}

async fn run(mut command: Command) -> String {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{out}{err}");
    out
}

/// Checks the output of a program that has used `app`, which then has no token.
async fn check(app: &App, output: &str) {
    let hint = output.lines().next().and_then(|line| line.strip_prefix("created ")).unwrap();
    assert_eq!(output, expected(hint));
    assert!(app.list("alice").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_in_python_works() {
    let app = App::start(Sqlite).await;
    let (_root, folder) = copy("python");
    fs::create_dir(folder.join("gen")).unwrap();
    let python = || {
        let mut command = Command::new(tools::find("python3", INSTALL_PYTHON));
        command.current_dir(&folder);
        command
    };
    let text = fs::read_to_string(folder.join("tokens.py")).unwrap();
    let protoc = text.lines().find_map(|line| line.strip_prefix("    python -m grpc_tools.protoc ")).unwrap();
    let mut generate = python();
    generate.args(["-m", "grpc_tools.protoc"]).args(protoc.split(' '));
    run(generate).await;
    let mut program = python();
    program.arg("tokens.py").arg(app.grpc_addr.to_string());
    check(&app, &run(program).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_in_typescript_works() {
    let app = App::start(Sqlite).await;
    let (_root, folder) = copy("typescript");
    symlink(tools::node_modules(), folder.join("node_modules")).unwrap();
    let mut program = Command::new(tools::find("node", tools::INSTALL_NODE));
    program.current_dir(&folder).args(["--import", "tsx", "tokens.ts"]).arg(app.grpc_addr.to_string());
    check(&app, &run(program).await).await;
}

/// Runs a program of tests/oauth_clients against a service with a callers file.
async fn oauth_client(mut program: Command) {
    let folder = tempfile::tempdir().unwrap();
    let [gateway, manager] = [SharedSecret::new(), SharedSecret::new()];
    let callers = gateway.entry("gateway", "validator", "") + &manager.entry("product", "manager", "");
    fs::write(folder.path().join("callers.toml"), callers).unwrap();
    let http = format!("127.0.0.1:{}", tools::free_port());
    let issuer = format!("http://{http}");
    let settings = ["--callers", "callers.toml", "--http-addr", &http, "--issuer", &issuer];
    let process = Process::start(folder.path(), &settings);
    let channel = process.client().await.channel;
    let token = crate::support::caller::tokens_as(&channel, &manager.secret)
        .create_token(crate::support::client::create_request("alice", "one"))
        .await
        .unwrap()
        .into_inner()
        .secret;
    program.args([&issuer, "gateway", &gateway.secret, &token]);
    assert_eq!(run(program).await, "active for alice\na stranger gets 401\nrevoked\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authlib_finds_introspects_and_revokes() {
    let mut program = Command::new(tools::find("python3", INSTALL_PYTHON));
    program.arg("tests/oauth_clients/authlib_client.py");
    oauth_client(program).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oauth4webapi_finds_introspects_and_revokes() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy("tests/oauth_clients/oauth4webapi_client.mjs", folder.path().join("client.mjs")).unwrap();
    symlink(tools::node_modules(), folder.path().join("node_modules")).unwrap();
    let mut program = Command::new(tools::find("node", tools::INSTALL_NODE));
    program.arg(folder.path().join("client.mjs"));
    oauth_client(program).await;
}
