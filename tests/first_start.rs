use std::{os::unix::fs::PermissionsExt as _, path::Path};

use crate::support::{latchkey as binary, latchkey::Process, shell::paste};

fn mode(file: &Path) -> u32 {
    std::fs::metadata(file).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn the_first_start_creates_what_it_needs_and_the_second_start_uses_it() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]);
    assert!(process.greeting[0].contains("listens for gRPC on 127.0.0.1:"), "{:?}", process.greeting);
    let data = folder.path().join("data");
    assert_eq!(mode(&data), 0o700);
    for file in std::fs::read_dir(&data).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
    let ring = std::fs::read(data.join("keyring.toml")).unwrap();

    let line = process.greeting[1].strip_prefix("try: ").unwrap();
    let answer: serde_json::Value = serde_json::from_str(&paste(line)).unwrap();
    let secret = answer["secret"].as_str().unwrap().to_owned();
    assert_eq!(answer["token"]["userId"], "alice");
    process.stop().await;

    let process = Process::start(folder.path(), &[]);
    assert_eq!(std::fs::read(data.join("keyring.toml")).unwrap(), ring);
    process.client().await.validate(&secret).await.unwrap();
    process.stop().await;
}

#[test]
fn an_address_that_is_public_or_in_use_stops_the_start_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let start = |address: &str| {
        binary::refuses(folder.path(), &["--http-addr", "127.0.0.1:0", "--grpc-addr", address])
    };
    let exposed = start("0.0.0.0:0");
    assert!(exposed.contains("0.0.0.0:0") && exposed.contains("--insecure"), "{exposed}");
    assert!(!folder.path().join("data").exists(), "nothing was created");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = start(&address);
    assert!(said.contains("LATCHKEY_GRPC_ADDR") && said.contains(&address), "{said}");
}

#[test]
fn help_explains_each_command_and_setting() {
    let output = binary::run(["--help"], "");
    let help = String::from_utf8(output.stdout).unwrap();
    for command in ["serve", "migrate", "token", "health", "keys"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command}");
    }
    let settings = <latchkey::config::Config as clap::Args>::augment_args(clap::Command::new("x"));
    for setting in settings.get_arguments() {
        let flag = format!("--{}", setting.get_long().unwrap());
        assert!(help.contains(&flag), "{flag}");
        assert!(help.contains(setting.get_env().unwrap().to_str().unwrap()), "{flag}");
        let text = setting.get_help().unwrap().to_string();
        assert!(text.split(' ').count() > 1, "{flag}: {text}");
    }
}
