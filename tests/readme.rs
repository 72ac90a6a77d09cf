use crate::{
    first_start::paste,
    support::{guarded_process::GuardedProcess, latchkey::Process, tools, until},
};

const README: &str = include_str!("../README.md");

/// The lines of the shell block after the first line that contains `heading`.
fn block(heading: &str) -> String {
    let (_, rest) = README.split_once(heading).unwrap();
    let (_, rest) = rest.split_once("```sh\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

#[tokio::test]
async fn the_first_token_is_made_by_the_lines_as_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]);
    let lines = block("## A first token").replace("127.0.0.1:50051", &process.grpc_addr.to_string());
    let output = paste(&lines);
    assert!(output.contains("\"valid\"") && output.contains("\"secret\": \"pat_"), "{output}");
    process.stop().await;
}

/// Also after the lines about deletion, which must not delete the user of the first token.
#[tokio::test]
async fn the_first_lines_work_again_when_they_are_pasted_again() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]);
    let first = block("## A first token").replace("127.0.0.1:50051", &process.grpc_addr.to_string());
    let deletion =
        block("## When an account is deleted").replace("127.0.0.1:8080", &process.http_addr.to_string());
    for lines in [&first, &first, &deletion, &first] {
        let output = paste(lines);
        assert!(lines == &deletion || output.contains("\"valid\""), "{output}");
    }
    process.stop().await;
}

#[test]
fn the_first_screen_says_that_callers_are_not_authenticated() {
    let first_screen: String = README.lines().take(25).collect();
    assert!(first_screen.contains("Callers are not authenticated yet"));
}

#[tokio::test]
async fn an_account_is_deleted_by_the_line_as_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]);
    let line =
        block("## When an account is deleted").replace("127.0.0.1:8080", &process.http_addr.to_string());
    paste(&line);
    let output = process.stop().await;
    assert!(output.contains("user deleted") && output.contains("e-1"), "{output}");
}

/// The lines for the broker and for the service, as they stand but for the port and the build. `nats pub` is not run: what
/// its line says is published by the test's own client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_broker_and_the_lines_for_nats_are_enough() {
    let server = tools::find("nats-server", "install NATS: apt-get install nats-server");
    let (port, store) = (tools::free_port().to_string(), tempfile::tempdir().unwrap());
    let line = block("start a broker, and the service");
    let arguments = line.trim().strip_prefix("nats-server ").unwrap().split(' ');
    let own = ["--port", &port, "--store_dir", store.path().to_str().unwrap()];
    let _broker = GuardedProcess::start(&server, arguments.chain(own), None, "KILL", "Server is ready");

    let line = block("```sh\nnats-server -js\n```").replace("4222", &port);
    let variables: Vec<_> = line.split(' ').map_while(|word| word.split_once('=')).collect();
    assert_eq!(variables.len(), 2, "{line}");
    let process = Process::start_with(store.path(), &[], &variables);

    let line = block("publish with the [`nats` command line]").replace(" \\\n", " ");
    let (subject, rest) = line.strip_prefix("nats pub ").unwrap().split_once(" '").unwrap();
    let (body, headers) = rest.split_once("' ").unwrap();
    let mut map = async_nats::HeaderMap::new();
    for header in headers.split("-H ").map(str::trim).filter(|header| !header.is_empty()) {
        let (name, value) = header.split_once(':').unwrap();
        map.insert(name, value);
    }
    let client = async_nats::connect(format!("127.0.0.1:{port}")).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    until("the stream", || async { jetstream.get_stream("IDENTITY").await.ok() }).await;
    let sent = jetstream.publish_with_headers(subject.to_owned(), map, body.to_owned().into()).await.unwrap();
    sent.await.unwrap();
    until("the acknowledgement", || async {
        let info = jetstream.get_stream("IDENTITY").await.ok()?.consumer_info("latchkey").await.ok()?;
        (info.ack_floor.stream_sequence == 1).then_some(())
    })
    .await;
    let output = process.stop().await;
    assert!(
        output.contains("user deleted") && output.contains("carol") && output.contains("e-2"),
        "{output}"
    );
}

#[test]
fn every_setting_stands_in_the_table_with_its_default() {
    let settings = <latchkey::config::Config as clap::Args>::augment_args(clap::Command::new("x"));
    for setting in settings.get_arguments() {
        let variable = setting.get_env().unwrap().to_str().unwrap();
        let row = README
            .lines()
            .find(|line| line.starts_with(&format!("| `{variable}` |")))
            .unwrap_or_else(|| panic!("{variable} has no row"));
        for default in setting.get_default_values() {
            let default = format!("`{}`", default.to_str().unwrap());
            assert!(row.contains(&default) || default == "`false`", "{row}: not {default}");
        }
    }
}
