use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use crate::support::{
    guarded_process::GuardedProcess,
    latchkey::Process,
    shell::{paste, paste_in},
    tools, until,
};

const README: &str = include_str!("../README.md");

/// Returns the shell blocks of the section with this heading.
fn blocks(heading: &str) -> Vec<String> {
    let (_, rest) = README.split_once(&format!("\n{heading}\n")).unwrap();
    let section = rest.split("\n## ").next().unwrap();
    let blocks = section.split("```sh\n").skip(1).map(|rest| rest.split_once("```").unwrap().0.to_owned());
    blocks.collect()
}

/// Pastes the lines of "A first token" as they stand, except for the service's address.
fn paste_first_token(process: &Process) -> String {
    let lines = blocks("## A first token").concat();
    let lines = lines.replace("127.0.0.1:50051", &process.grpc_addr.to_string());
    let folder = tempfile::tempdir().unwrap();
    paste_in(folder.path(), &lines, &[("LATCHKEY_SERVER", &process.url())]).stdout
}

/// Pastes the line of "When an account is deleted" that deletes one by HTTP, except for the service's address.
fn paste_deletion(process: &Process) -> String {
    let line = &blocks("## When an account is deleted")[0];
    paste(&line.replace("127.0.0.1:8080", &process.http_addr.to_string()))
}

fn shows_a_first_token(output: &str) -> bool {
    // By the command line and by grpcurl.
    output.contains("valid\n\n") && output.contains("\"valid\"") && output.contains("\"secret\": \"pat_")
}

#[tokio::test]
async fn the_first_token_is_created_by_the_lines_as_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]);
    let output = paste_first_token(&process);
    assert!(shows_a_first_token(&output), "{output}");
    process.stop().await;
}

/// Also after the lines about deletion, which must not delete the user of the first token.
#[tokio::test]
async fn the_first_lines_work_again_when_they_are_pasted_again() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]);
    for _ in 0..2 {
        let output = paste_first_token(&process);
        assert!(shows_a_first_token(&output), "{output}");
    }
    paste_deletion(&process);
    let output = paste_first_token(&process);
    assert!(shows_a_first_token(&output), "{output}");
    process.stop().await;
}

#[test]
fn the_first_screen_says_who_may_do_what_without_configuration() {
    let first_screen: String = README.lines().take(25).collect();
    assert!(first_screen.contains("Without configuration, everyone who reaches it may do everything"));
}

#[tokio::test]
async fn an_account_is_deleted_by_the_line_as_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]);
    paste_deletion(&process);
    let output = process.stop().await;
    assert!(output.contains("user deleted") && output.contains("e-1"), "{output}");
}

/// The lines for the broker and for the service, as they stand except for the port and the build. `nats pub` is not
/// run: the test's own client publishes what its line says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_broker_and_the_lines_for_nats_are_enough() {
    let [_, broker, service, publish] = blocks("## When an account is deleted").try_into().unwrap();
    let server = tools::find("nats-server", "install NATS: apt-get install nats-server");
    let (port, store) = (tools::free_port().to_string(), tempfile::tempdir().unwrap());
    let arguments = broker.trim().strip_prefix("nats-server ").unwrap().split(' ');
    let own = ["--port", &port, "--store_dir", store.path().to_str().unwrap()];
    let _broker = GuardedProcess::start(&server, arguments.chain(own), None, "KILL", None, "Server is ready");

    let line = service.replace("4222", &port);
    let variables: Vec<_> = line.split(' ').map_while(|word| word.split_once('=')).collect();
    assert_eq!(variables.len(), 2, "{line}");
    let process = Process::start_with(store.path(), &[], &variables);

    let line = publish.replace(" \\\n", " ");
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

/// The Markdown files of the repository, but for those of the chart and the build.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [root.to_owned(), root.join("docs"), root.join("docs/decisions")];
    let files =
        folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()).map(|file| file.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "md")).collect()
}

/// Returns the page without its blocks of code.
fn prose(page: &Path) -> String {
    fs::read_to_string(page).unwrap().split("```").step_by(2).collect()
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &Path) -> HashSet<String> {
    let heading =
        |line: &str| line.starts_with('#').then(|| line.trim_start_matches('#').trim().to_lowercase());
    let anchor = |heading: String| {
        let kept = heading.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
        kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
    };
    prose(page).lines().filter_map(heading).map(anchor).collect()
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_exist() {
    for page in pages() {
        let text = prose(&page);
        let targets = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
        for target in targets.filter(|target| !target.starts_with("http")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(file.exists(), "{}: {target}", page.display());
            assert!(anchor.is_empty() || anchors(&file).contains(anchor), "{}: {target}", page.display());
        }
    }
}

#[test]
fn every_file_that_the_architecture_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let folders = ["src/", "tests/", "proto/", "proto-released/", "migrations/", "helm/", "benches/"];
    let names = text.split('`').skip(1).step_by(2);
    let paths: Vec<&str> =
        names.filter(|name| folders.iter().any(|folder| name.starts_with(folder))).collect();
    assert!(paths.len() > 50, "{paths:?}");
    for path in paths {
        assert!(root.join(path).exists(), "{path}");
    }
}
