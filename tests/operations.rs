use std::{
    path::{Path, PathBuf},
    process::Command,
};

use latchkey::proto::latchkey::{
    CreateTokenRequest, DeleteTokenRequest, Token, ValidateTokenRequest, invalid::Reason,
    token_service_client::TokenServiceClient, validate_token_response::Outcome,
};
use rstest::rstest;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    app, health,
    latchkey::Process,
    nats::Nats,
    postgres, tools, until,
};

const PAGE: &str = include_str!("../docs/operations.md");

/// The lines of the shell block below the heading.
fn block(heading: &str) -> String {
    let (_, rest) = PAGE.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let (_, rest) = rest.split_once("```sh\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// Runs lines as a person pastes them, in this folder, with these variables.
fn paste(lines: &str, folder: &Path, variables: &[(&str, &str)]) -> String {
    let programs = ["sqlite3", "pg_dump", "psql", "jq"].map(|program| {
        let file = tools::find(program, "install sqlite3, postgresql and jq with your package manager");
        file.parent().unwrap().to_owned()
    });
    let ours = Path::new(env!("CARGO_BIN_EXE_latchkey")).parent().unwrap().to_owned();
    let system = ["/usr/bin", "/bin"].map(PathBuf::from);
    let path = std::env::join_paths(programs.into_iter().chain([ours]).chain(system)).unwrap();
    let mut shell = Command::new("sh");
    shell
        .args(["-ec", lines])
        .current_dir(folder)
        .env_clear()
        .env("PATH", path)
        .envs(variables.iter().copied());
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{lines}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What an operator has: a database, a broker with the identity service's stream, and a folder.
struct Site {
    database: Database,
    url: String,
    nats: Nats,
    folder: TempDir,
}

impl Site {
    async fn new(database: Database) -> Self {
        let nats = Nats::start();
        nats.with_identity_stream().await;
        let folder = tempfile::tempdir().unwrap();
        let url = match database {
            Sqlite => "sqlite://data/latchkey.db".to_owned(),
            Postgres => postgres::Postgres::shared().create_database().await,
        };
        if database == Postgres {
            paste(&block("## The key ring is lost"), folder.path(), &[]);
        }
        Self { database, url, nats, folder }
    }

    /// Starts a replica that is attached to the broker.
    async fn serve(&self, settings: &[&str]) -> Replica {
        let broker = self.nats.url();
        let mut all = vec!["--database-url", &self.url, "--nats-url", &broker];
        if self.database == Postgres {
            all.extend(["--key-ring", "keyring.toml"]);
        }
        all.extend(settings);
        let process = Process::start(self.folder.path(), &all);
        until("attached", || async {
            health::is_serving_at(&process.url(), "latchkey.v1.UserEvents").await.then_some(())
        })
        .await;
        Replica { client: app::connect(&process.url()).await, process }
    }

    fn back_up(&self) {
        let heading = if self.database == Sqlite { "### SQLite" } else { "### PostgreSQL" };
        paste(&block(heading), self.folder.path(), &[("LATCHKEY_DATABASE_URL", &self.url)]);
    }

    fn restore(&mut self) {
        if self.database == Sqlite {
            paste(&block("### SQLite: put the backup in place"), self.folder.path(), &[]);
            return;
        }
        // A name that no other test uses.
        let restored = format!("{}_restored", self.url.rsplit('/').next().unwrap());
        let lines = block("### PostgreSQL: put the backup in place").replace("latchkey_restored", &restored);
        let url = format!("{}_restored", self.url);
        let variables = [("LATCHKEY_DATABASE_URL", &*self.url), ("RESTORED_DATABASE_URL", &*url)];
        paste(&lines, self.folder.path(), &variables);
        self.url = url;
    }

    /// Reads in the database that was restored from a backup since.
    fn read_what_was_deleted(&self) {
        let (heading, broken) = match self.database {
            Sqlite => ("### SQLite: read what was deleted", ""),
            Postgres => {
                ("### PostgreSQL: read what was deleted", self.url.strip_suffix("_restored").unwrap())
            }
        };
        paste(&block(heading), self.folder.path(), &[("BROKEN_DATABASE_URL", broken)]);
    }
}

/// `latchkey serve` with a client.
struct Replica {
    process: Process,
    client: TokenServiceClient<Channel>,
}

impl Replica {
    async fn issue(&self, user: &str, name: &str) -> (String, String) {
        let wanted =
            CreateTokenRequest { user_id: user.into(), name: name.into(), ..CreateTokenRequest::default() };
        let answer = self.client.clone().create_token(wanted).await.unwrap().into_inner();
        (answer.token.unwrap().id, answer.secret)
    }

    async fn delete(&self, user: &str, id: &str) {
        let request = DeleteTokenRequest { user_id: user.into(), token_id: id.into() };
        self.client.clone().delete_token(request).await.unwrap();
    }

    async fn validate(&self, secret: &str) -> Result<Token, Reason> {
        let request = ValidateTokenRequest { secret: secret.into(), required_scopes: vec![] };
        let answer = self.client.clone().validate_token(request).await.unwrap().into_inner();
        match answer.outcome.unwrap() {
            Outcome::Valid(token) => Ok(token),
            Outcome::Invalid(invalid) => Err(invalid.reason()),
        }
    }

    async fn refuses(&self, secret: &str, reason: Reason) {
        let told = until("a refusal", || async { self.validate(secret).await.err() }).await;
        assert_eq!(told, reason);
    }

    async fn stop(self) -> String {
        drop(self.client);
        self.process.stop().await
    }
}

/// The two ways to hear again what the stream still has.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Replay {
    OtherDurable,
    ConsumerRemoved,
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restore_what_was_revoked_since_is_revoked_again(
    #[values(Sqlite, Postgres)] database: Database,
    #[values(Replay::OtherDurable, Replay::ConsumerRemoved)] replay: Replay,
) {
    let mut site = Site::new(database).await;
    let identity = crate::support::nats::Identity(site.nats.jetstream().await);
    let replica = site.serve(&[]).await;
    let kept = replica.issue("alice", "kept").await.1;
    let (dropped_id, dropped) = replica.issue("alice", "dropped").await;
    let (odd_id, odd) = replica.issue("o'hara $(x)", "dropped too").await;
    let (early_id, early) = replica.issue("alice", "dropped before").await;
    let gone = replica.issue("bob", "gone").await.1;
    let gone_before = replica.issue("carol", "gone before").await.1;
    identity.delete_user("carol").await;
    replica.refuses(&gone_before, Reason::UserDeleted).await;
    replica.delete("alice", &early_id).await;
    site.back_up();

    replica.delete("alice", &dropped_id).await;
    replica.delete("o'hara $(x)", &odd_id).await;
    identity.delete_user("bob").await;
    replica.refuses(&gone, Reason::UserDeleted).await;
    let made_since = replica.issue("alice", "made since").await.1;
    std::fs::write(site.folder.path().join("latchkey.log"), replica.stop().await).unwrap();
    site.restore();

    // What comes back, and that the old consumer brings nothing.
    let replica = site.serve(&[]).await;
    for secret in [&kept, &dropped, &odd, &gone] {
        replica.validate(secret).await.unwrap();
    }
    assert_eq!(replica.validate(&gone_before).await, Err(Reason::UserDeleted));
    assert_eq!(replica.validate(&early).await, Err(Reason::Revoked));
    assert_eq!(replica.validate(&made_since).await, Err(Reason::Unknown));

    let replica = match replay {
        Replay::OtherDurable => {
            replica.stop().await;
            site.serve(&["--nats-durable", "latchkey-restored"]).await
        }
        Replay::ConsumerRemoved => {
            identity.0.delete_consumer_from_stream("latchkey", "IDENTITY").await.unwrap();
            // Nobody kept the logs.
            std::fs::remove_file(site.folder.path().join("latchkey.log")).unwrap();
            site.read_what_was_deleted();
            replica
        }
    };
    replica.refuses(&gone, Reason::UserDeleted).await;
    let server = replica.process.url();
    paste(&block("### Delete the tokens again"), site.folder.path(), &[("LATCHKEY_SERVER", &server)]);
    assert_eq!(replica.validate(&dropped).await, Err(Reason::Revoked));
    assert_eq!(replica.validate(&odd).await, Err(Reason::Revoked));
    replica.validate(&kept).await.unwrap();
    replica.stop().await;
}

#[tokio::test]
async fn a_key_ring_that_is_lost_costs_argon2_once_a_token() {
    let app = App::start(Sqlite).await;
    let secret = app.issue("alice", "one").await.1;
    let ring = app.folder.path().join("data/keyring.toml");
    std::fs::remove_file(&ring).unwrap();
    let app = app.restart(&[]).await;
    assert!(ring.exists(), "a new one was made");
    app.validate(&secret).await.unwrap();
    assert_eq!(app.server.registry().argon2_runs(), 1);

    let app = App::start(Postgres).await;
    let lines = block("## The key ring is lost");
    let ring = app.folder.path().join("keyring.toml");
    let with_ring = ["--key-ring", ring.to_str().unwrap()];
    paste(&lines, app.folder.path(), &[]);
    let app = app.restart(&with_ring).await;
    let secret = app.issue("alice", "one").await.1;
    std::fs::remove_file(&ring).unwrap();
    paste(&lines, app.folder.path(), &[]);
    let app = app.restart(&with_ring).await;
    app.validate(&secret).await.unwrap();
    assert_eq!(app.server.registry().argon2_runs(), 1);
    let app = app.restart(&with_ring).await;
    app.validate(&secret).await.unwrap();
    assert_eq!(app.server.registry().argon2_runs(), 0);
}

#[tokio::test]
async fn a_replica_that_is_killed_takes_nothing_with_it() {
    let site = Site::new(Postgres).await;
    let identity = crate::support::nats::Identity(site.nats.jetstream().await);
    let (lost, left) = (site.serve(&[]).await, site.serve(&[]).await);
    let (id, one) = lost.issue("alice", "one").await;
    let two = lost.issue("bob", "two").await.1;
    lost.process.kill();
    left.validate(&one).await.unwrap();
    left.validate(&two).await.unwrap();
    left.delete("alice", &id).await;
    identity.delete_user("bob").await;
    left.refuses(&two, Reason::UserDeleted).await;
    let new = site.serve(&[]).await;
    assert_eq!(new.validate(&one).await, Err(Reason::Revoked));
    assert_eq!(new.validate(&two).await, Err(Reason::UserDeleted));
    new.stop().await;
    left.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_broker_that_lost_its_streams_is_told_again(#[values(Sqlite, Postgres)] database: Database) {
    let mut site = Site::new(database).await;
    let replica = site.serve(&[]).await;
    let heard = replica.issue("alice", "heard").await.1;
    let unheard = replica.issue("bob", "unheard").await.1;
    crate::support::nats::Identity(site.nats.jetstream().await).delete_user("alice").await;
    replica.refuses(&heard, Reason::UserDeleted).await;

    site.nats.stop();
    std::fs::remove_dir_all(site.nats.folder.path().join("jetstream")).unwrap();
    replica.validate(&unheard).await.unwrap();
    site.nats.resume();
    let identity = site.nats.with_identity_stream().await;
    for user in ["alice", "bob"] {
        identity.delete_user(user).await;
    }
    replica.refuses(&unheard, Reason::UserDeleted).await;
    identity.all_answered().await;
    replica.stop().await;
}
