use std::net::TcpListener;

use crate::support::{latchkey as binary, latchkey::Process};

#[test]
fn a_mistyped_variable_is_refused_by_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let commands: [&[&str]; 6] =
        [&[], &["serve"], &["migrate"], &["token", "list", "--user", "u"], &["health"], &["keys", "create"]];
    for command in commands {
        let said = binary::refuses_with(folder.path(), command, &[("LATCHKEY_GRPC_ADRR", "127.0.0.1:1")]);
        assert!(
            said.contains("LATCHKEY_GRPC_ADRR: is no setting; did you mean LATCHKEY_GRPC_ADDR?"),
            "{said}"
        );
        let said = binary::refuses_with(folder.path(), command, &[("LATCHKEY_WEATHER", "hunter2")]);
        assert!(said.contains("LATCHKEY_WEATHER: is no setting; `latchkey --help`"), "{said}");
        assert!(!said.contains("hunter2"), "it could be a password: {said}");
    }
    assert!(!folder.path().join("data").exists(), "nothing was created");
}

#[test]
fn help_and_version_work_in_any_environment() {
    for flag in ["--help", "--version"] {
        let output = binary::command().arg(flag).env("LATCHKEY_WEATHER", "fine").output().unwrap();
        assert!(output.status.success(), "{flag}");
    }
}

/// The settings of other commands, and what Kubernetes sets for Services named latchkey and latchkey-postgres.
#[tokio::test]
async fn variables_of_other_commands_and_service_links_do_not_stop_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let variables = [
        ("LATCHKEY_SERVER", "http://127.0.0.1:50051"),
        ("LATCHKEY_SERVICE_HOST", "10.0.0.7"),
        ("LATCHKEY_SERVICE_PORT", "50051"),
        ("LATCHKEY_SERVICE_PORT_GRPC", "50051"),
        ("LATCHKEY_PORT", "tcp://10.0.0.7:50051"),
        ("LATCHKEY_PORT_50051_TCP", "tcp://10.0.0.7:50051"),
        ("LATCHKEY_PORT_50051_TCP_PROTO", "tcp"),
        ("LATCHKEY_PORT_50051_TCP_PORT", "50051"),
        ("LATCHKEY_PORT_50051_TCP_ADDR", "10.0.0.7"),
        ("LATCHKEY_POSTGRES_SERVICE_HOST", "10.0.0.8"),
        ("LATCHKEY_POSTGRES_PORT_5432_TCP", "tcp://10.0.0.8:5432"),
    ];
    Process::start_with(folder.path(), &[], &variables).stop().await;
}

/// The output for an address that everyone can reach and that is in use. Only an insecure service tries to bind it.
fn output_with(variable: (&str, &str)) -> String {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("0.0.0.0:{}", taken.local_addr().unwrap().port());
    let arguments = ["--http-addr", "127.0.0.1:0", "--grpc-addr", &address];
    binary::refuses_with(tempfile::tempdir().unwrap().path(), &arguments, &[variable])
}

#[test]
fn switches_are_understood_in_every_usual_form() {
    for on in ["1", "true", "TRUE", "yes", "on"] {
        let said = output_with(("LATCHKEY_INSECURE", on));
        assert!(said.contains("cannot listen on 0.0.0.0"), "{on}: {said}");
    }
    for off in ["0", "false", "No", "off"] {
        let said = output_with(("LATCHKEY_INSECURE", off));
        assert!(said.contains("is not loopback"), "{off}: {said}");
    }
    for variable in ["LATCHKEY_INSECURE", "LATCHKEY_NATS_TLS", "LATCHKEY_NATS_CREATE_STREAM"] {
        for (value, shown) in [("maybe", "'maybe'"), ("2", "'2'"), ("", "''")] {
            let said = output_with((variable, value));
            for part in [variable, shown, "1, true, yes or on; or 0, false, no or off"] {
                assert!(said.contains(part), "{part}: {said}");
            }
        }
    }
}
