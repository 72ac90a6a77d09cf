//! What the service acknowledged is committed, whatever the disk did before.

use std::{path::Path, process::Command};

use latchkey::proto::latchkey::{
    CreateTokenRequest, DeleteTokenRequest, ValidateTokenRequest, invalid::Reason,
    token_service_client::TokenServiceClient, validate_token_response::Outcome,
};
use rstest::rstest;
use tonic::{Code, Status, transport::Channel};

use crate::support::{
    app::connect,
    disk::Disk,
    http,
    latchkey::{Process, command_by},
    postgres, until,
};

/// A running service with what is needed to ask it.
struct Service {
    process: Process,
    client: TokenServiceClient<Channel>,
}

impl Service {
    async fn start(folder: &Path, settings: &[&str]) -> Self {
        Self::of(Process::start(folder, settings)).await
    }

    async fn of(process: Process) -> Self {
        let client = connect(&process.url()).await;
        Self { process, client }
    }

    async fn create(&self, name: &str) -> Result<(String, String), Status> {
        self.create_with(name, &[]).await
    }

    async fn create_with(&self, name: &str, scopes: &[String]) -> Result<(String, String), Status> {
        self.create_for("alice", name, scopes).await
    }

    async fn create_for(
        &self,
        user: &str,
        name: &str,
        scopes: &[String],
    ) -> Result<(String, String), Status> {
        let request = CreateTokenRequest {
            user_id: user.into(),
            name: name.into(),
            scopes: scopes.to_vec(),
            ..Default::default()
        };
        let answer = self.client.clone().create_token(request).await?.into_inner();
        Ok((answer.token.unwrap().id, answer.secret))
    }

    async fn delete(&self, token_id: &str) -> Result<(), Status> {
        let request = DeleteTokenRequest { user_id: "alice".into(), token_id: token_id.into() };
        self.client.clone().delete_token(request).await.map(drop)
    }

    async fn delete_user(&self, user: &str) -> u16 {
        let event = format!(
            r#"{{"specversion": "1.0", "id": "e", "source": "/identity", "type": "identity.v1.UserDeleted",
                "data": {{"userId": "{user}"}}}}"#
        );
        let headers = [("content-type", "application/cloudevents+json")];
        http::send(self.process.http_addr, "POST /events", &headers, event.as_bytes()).await.0
    }

    async fn validate(&self, secret: &str) -> Result<(), Reason> {
        let request = ValidateTokenRequest { secret: secret.into(), required_scopes: Vec::new() };
        match self.client.clone().validate_token(request).await.unwrap().into_inner().outcome.unwrap() {
            Outcome::Valid(_) => Ok(()),
            Outcome::Invalid(invalid) => Err(invalid.reason()),
        }
    }
}

/// A call that changes something; which one fails first must not matter.
#[derive(Clone, Copy, Debug)]
enum Call {
    Create,
    Delete,
    UserDeleted,
}

/// How often a full disk refuses a call before there is space again.
const MOST_FAILURES: usize = 5;

/// Lets `call` fail `failures` times while `break_disk` is in force, mends it, and checks that the service writes again by
/// itself, that what it then acknowledges is true, and still is after a restart.
async fn what_is_acknowledged_is_true(
    folder: &Path,
    settings: &[&str],
    process: Process,
    (call, failures): (Call, usize),
    break_disk: impl FnOnce(&Process),
    mend_disk: impl FnOnce(&Process),
) {
    let service = Service::of(process).await;
    let (kept_id, kept) = service.create("kept").await.unwrap();
    let (doomed_id, doomed) = service.create("doomed").await.unwrap();
    if failures > 0 {
        break_disk(&service.process);
        for _ in 0..failures {
            fails(&service, call, &kept_id).await;
        }
        mend_disk(&service.process);
    }

    let (_, late) = until("a write", || async { service.create("late").await.ok() }).await;
    let (_, other) = until("a write", || async { service.create("other").await.ok() }).await;
    until("a deletion", || async { service.delete(&doomed_id).await.ok() }).await;
    until("the deletion of a user", || async { (service.delete_user("bob").await == 202).then_some(()) })
        .await;
    let is_true = async |service: &Service| {
        for secret in [&kept, &late, &other] {
            assert_eq!(service.validate(secret).await, Ok(()), "{call:?}, {failures} failures");
        }
        assert_eq!(service.validate(&doomed).await, Err(Reason::Revoked), "{call:?}, {failures} failures");
        let refused = service.create_for("bob", "new", &[]).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
    };
    is_true(&service).await;
    service.process.stop().await;
    let service = Service::start(folder, settings).await;
    is_true(&service).await;
    service.process.stop().await;
}

async fn fails(service: &Service, call: Call, token_id: &str) {
    match call {
        Call::Create => {
            let status = service.create("refused").await.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable, "{status}");
        }
        Call::Delete => {
            let status = service.delete(token_id).await.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable, "{status}");
        }
        Call::UserDeleted => assert_eq!(service.delete_user("alice").await, 503),
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_on_a_full_disk(#[values(Call::Create, Call::Delete, Call::UserDeleted)] call: Call) {
    for failures in 0..=MOST_FAILURES {
        let disk = Disk::mount("1m", None);
        // The folder is the database's alone: the key ring is written at the first start.
        let process = Process::start(disk.path(), &[]);
        let (fill, free) = (|_: &Process| disk.fill(), |_: &Process| disk.free());
        what_is_acknowledged_is_true(disk.path(), &[], process, (call, failures), fill, free).await;
    }
}

/// Files cannot grow any more: SQLite meets an I/O error (SQLITE_IOERR_WRITE) instead of a full disk.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_with_io_errors(#[values(Call::Create, Call::Delete, Call::UserDeleted)] call: Call) {
    for failures in [1, 2, MOST_FAILURES] {
        let folder = tempfile::tempdir().unwrap();
        // The signal that comes with the error would end the process.
        let mut command = command_by("sh", &["-c", r#"trap "" XFSZ; exec "$0" "$@""#]);
        command.current_dir(folder.path());
        let process = Process::start_by(command, &[]);
        let limit = |process: &Process, bytes: &str| {
            let pid = process.id().to_string();
            let limited = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}")]).status();
            assert!(limited.unwrap().success());
        };
        let (break_disk, mend_disk) =
            (|it: &Process| limit(it, "1024:"), |it: &Process| limit(it, "unlimited:"));
        what_is_acknowledged_is_true(folder.path(), &[], process, (call, failures), break_disk, mend_disk)
            .await;
    }
}

/// A disk that the kernel made read-only comes back only when it is mounted anew, and so with a restart of the service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_on_a_disk_that_becomes_read_only() {
    let disk = Disk::mount_ext4();
    let service = Service::start(disk.path(), &[]).await;
    let (kept_id, kept) = service.create("kept").await.unwrap();
    let (doomed_id, doomed) = service.create("doomed").await.unwrap();
    service.delete(&doomed_id).await.unwrap();
    disk.turn_read_only();
    for _ in 0..3 {
        for call in [Call::Create, Call::Delete, Call::UserDeleted] {
            fails(&service, call, &kept_id).await;
        }
        assert_eq!(service.validate(&kept).await, Ok(()), "reading needs no writable disk");
    }
    service.process.kill();
    disk.repair();
    let service = Service::start(disk.path(), &[]).await;
    assert_eq!(service.validate(&kept).await, Ok(()));
    assert_eq!(service.validate(&doomed).await, Err(Reason::Revoked));
    service.create("refused").await.unwrap();
    assert_eq!(service.delete_user("alice").await, 202);
    assert_eq!(service.validate(&kept).await, Err(Reason::UserDeleted));
    service.process.stop().await;
}

/// How many of the calls that need more space a full disk must refuse before it is given back.
const POSTGRES_FAILURES: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_on_a_full_disk() {
    let disk = Disk::mount("120m", postgres::user());
    let options = postgres::Options { parent: Some(disk.path()), ..Default::default() };
    let mut postgres = postgres::Postgres::start_with(&options);
    let url = postgres.create_database().await;
    let folder = tempfile::tempdir().unwrap();
    let settings = ["--database-url", &url, "--database-timeout", "2s"];
    let service = Service::start(folder.path(), &settings).await;
    let (mut good, mut revoked, mut deleted) = (Vec::new(), Vec::new(), Vec::new());
    // Rows that fill half a page: a table must grow for every second one.
    let scopes: Vec<String> = (0..64).map(|n| format!("{n:0>60}")).collect();
    let mut doomed = Vec::new();
    for n in 0..10 {
        doomed.push(service.create_with(&format!("doomed {n}"), &scopes).await.unwrap());
    }
    disk.fill();
    let (mut failures, mut n) = (0, 0);
    while failures < POSTGRES_FAILURES {
        n += 1;
        match service.create_with(&format!("token {n}"), &scopes).await {
            Ok((_, secret)) => good.push(secret),
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                failures += 1;
            }
        }
        if let Some((id, secret)) = doomed.pop() {
            match service.delete(&id).await {
                Ok(()) => revoked.push(secret),
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
        }
        let user = format!("user {n}");
        match service.delete_user(&user).await {
            202 => deleted.push(user),
            status => assert_eq!(status, 503),
        }
    }
    disk.free();
    let (_, late) = until("a write", || async { service.create("late").await.ok() }).await;
    good.push(late);

    let is_true = async |service: &Service| {
        for secret in &good {
            assert_eq!(service.validate(secret).await, Ok(()));
        }
        for secret in &revoked {
            assert_eq!(service.validate(secret).await, Err(Reason::Revoked));
        }
        for user in &deleted {
            assert_eq!(
                service.create_for(user, "new", &[]).await.unwrap_err().code(),
                Code::FailedPrecondition
            );
        }
    };
    is_true(&service).await;
    service.process.stop().await;
    postgres.stop();
    postgres.resume();
    let service = Service::start(folder.path(), &settings).await;
    is_true(&service).await;
    service.process.stop().await;
}
