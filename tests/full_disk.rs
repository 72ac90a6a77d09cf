use std::{path::Path, process::Command};

use latchkey::proto::latchkey::{CreateTokenRequest, invalid::Reason};
use rstest::rstest;
use tonic::{Code, Status};

use crate::support::{
    Client,
    client::create_request,
    disk::Disk,
    latchkey::{Process, command_by},
    postgres, until,
};

/// A call that writes. It must not matter which one fails first.
#[derive(Clone, Copy, Debug)]
enum Call {
    Create,
    Delete,
    UserDeleted,
}

/// How many calls fail on a full disk before there is space again.
const MOST_FAILURES: usize = 5;

/// Breaks the disk, lets `call` fail `failures` times, and repairs the disk. Checks that the service then writes without
/// a restart, and that what it acknowledges is committed.
async fn acknowledged_changes_are_committed(
    folder: &Path,
    settings: &[&str],
    process: Process,
    (call, failures): (Call, usize),
    break_disk: impl FnOnce(&Process),
    repair_disk: impl FnOnce(&Process),
) {
    let client = process.client().await;
    let (kept_id, kept) = client.issue("alice", "kept").await;
    let (doomed_id, doomed) = client.issue("alice", "doomed").await;
    if failures > 0 {
        break_disk(&process);
        for _ in 0..failures {
            fails(&client, call, &kept_id).await;
        }
        repair_disk(&process);
    }

    let (_, late) = until("a write", || async { client.try_issue("alice", "late").await.ok() }).await;
    let (_, other) = until("a write", || async { client.try_issue("alice", "other").await.ok() }).await;
    until("a deletion", || async { client.delete("alice", &doomed_id).await.ok() }).await;
    until("the deletion of a user", || async { (client.try_delete_user("bob").await == 202).then_some(()) })
        .await;
    let check = async |client: &Client| {
        for secret in [&kept, &late, &other] {
            assert!(client.validate(secret).await.is_ok(), "{call:?}, {failures} failures");
        }
        assert_eq!(client.validate(&doomed).await, Err(Reason::Revoked), "{call:?}, {failures} failures");
        let refused = client.create("bob", "new").await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
    };
    check(&client).await;
    process.stop().await;
    let process = Process::start(folder, settings);
    check(&process.client().await).await;
    process.stop().await;
}

async fn fails(client: &Client, call: Call, token_id: &str) {
    match call {
        Call::Create => {
            let status = client.create("alice", "refused").await.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable, "{status}");
        }
        Call::Delete => {
            let status = client.delete("alice", token_id).await.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable, "{status}");
        }
        Call::UserDeleted => assert_eq!(client.try_delete_user("alice").await, 503),
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_on_sqlite(
    #[values(Call::Create, Call::Delete, Call::UserDeleted)] call: Call,
) {
    for failures in 0..=MOST_FAILURES {
        let disk = Disk::mount("1m", None);
        // The start writes the key ring; after it only the database needs space.
        let process = Process::start(disk.path(), &[]);
        let (fill, free) = (|_: &Process| disk.fill(), |_: &Process| disk.free());
        acknowledged_changes_are_committed(disk.path(), &[], process, (call, failures), fill, free).await;
    }
}

/// When files cannot grow, SQLite gets an I/O error (SQLITE_IOERR_WRITE) instead of a full disk.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn io_errors_lose_nothing_on_sqlite(
    #[values(Call::Create, Call::Delete, Call::UserDeleted)] call: Call,
) {
    for failures in [1, 2, MOST_FAILURES] {
        let folder = tempfile::tempdir().unwrap();
        // The signal that comes with the error would otherwise end the process.
        let mut command = command_by("sh", &["-c", r#"trap "" XFSZ; exec "$0" "$@""#]);
        command.current_dir(folder.path());
        let process = Process::start_by(command, &[]);
        let limit = |process: &Process, bytes: &str| {
            let pid = process.id().to_string();
            let limited = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}")]).status();
            assert!(limited.unwrap().success());
        };
        let (break_disk, repair_disk) =
            (|it: &Process| limit(it, "1024:"), |it: &Process| limit(it, "unlimited:"));
        acknowledged_changes_are_committed(
            folder.path(),
            &[],
            process,
            (call, failures),
            break_disk,
            repair_disk,
        )
        .await;
    }
}

/// A disk that the kernel made read-only has to be mounted again, and so the service has to be restarted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_becomes_read_only_loses_nothing_on_sqlite() {
    let disk = Disk::mount_ext4();
    let process = Process::start(disk.path(), &[]);
    let client = process.client().await;
    let (kept_id, kept) = client.issue("alice", "kept").await;
    let (doomed_id, doomed) = client.issue("alice", "doomed").await;
    client.delete("alice", &doomed_id).await.unwrap();
    disk.turn_read_only();
    for _ in 0..3 {
        for call in [Call::Create, Call::Delete, Call::UserDeleted] {
            fails(&client, call, &kept_id).await;
        }
        assert!(client.validate(&kept).await.is_ok(), "reading needs no writable disk");
    }
    process.kill();
    disk.repair();
    let process = Process::start(disk.path(), &[]);
    let client = process.client().await;
    client.validate(&kept).await.unwrap();
    assert_eq!(client.validate(&doomed).await, Err(Reason::Revoked));
    client.issue("alice", "refused").await;
    client.delete_user("alice").await;
    assert_eq!(client.validate(&kept).await, Err(Reason::UserDeleted));
    process.stop().await;
}

/// How many creations must fail before the space is freed.
const POSTGRES_FAILURES: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_on_postgres() {
    let disk = Disk::mount("120m", postgres::user());
    let options = postgres::Options { parent: Some(disk.path()), ..Default::default() };
    let mut postgres = postgres::Postgres::start_with(&options);
    let url = postgres.create_database().await;
    let folder = tempfile::tempdir().unwrap();
    let settings = ["--database-url", &url, "--database-timeout", "2s"];
    let process = Process::start(folder.path(), &settings);
    let client = process.client().await;
    let (mut good, mut revoked, mut deleted) = (Vec::new(), Vec::new(), Vec::new());
    let mut doomed = Vec::new();
    for n in 0..10 {
        doomed.push(issue_large(&client, &format!("doomed {n}")).await.unwrap());
    }
    disk.fill();
    let (mut failures, mut n) = (0, 0);
    while failures < POSTGRES_FAILURES {
        n += 1;
        match issue_large(&client, &format!("token {n}")).await {
            Ok((_, secret)) => good.push(secret),
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                failures += 1;
            }
        }
        if let Some((id, secret)) = doomed.pop() {
            match client.delete("alice", &id).await {
                Ok(()) => revoked.push(secret),
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
        }
        let user = format!("user {n}");
        match client.try_delete_user(&user).await {
            202 => deleted.push(user),
            status => assert_eq!(status, 503),
        }
    }
    disk.free();
    let (_, late) = until("a write", || async { client.try_issue("alice", "late").await.ok() }).await;
    good.push(late);

    let check = async |client: &Client| {
        for secret in &good {
            client.validate(secret).await.unwrap();
        }
        for secret in &revoked {
            assert_eq!(client.validate(secret).await, Err(Reason::Revoked));
        }
        for user in &deleted {
            assert_eq!(client.create(user, "new").await.unwrap_err().code(), Code::FailedPrecondition);
        }
    };
    check(&client).await;
    process.stop().await;
    postgres.stop();
    postgres.resume();
    let process = Process::start(folder.path(), &settings);
    check(&process.client().await).await;
    process.stop().await;
}

/// Issues a token whose row fills half a page, so that the table must grow for every second one.
async fn issue_large(client: &Client, name: &str) -> Result<(String, String), Status> {
    let scopes = (0..64).map(|n| format!("{n:0>60}")).collect();
    let answer = client.create_with(CreateTokenRequest { scopes, ..create_request("alice", name) }).await?;
    Ok((answer.token.unwrap().id, answer.secret))
}
