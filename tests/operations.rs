use std::ops::Deref;

use latchkey::proto::latchkey::invalid::Reason;
use rstest_reuse::apply;
use tempfile::TempDir;

use crate::support::{
    App, Client,
    Database::{self, Postgres, Sqlite},
    latchkey::Process,
    nats::{Identity, Nats},
    on_both_databases, postgres,
    shell::paste_in,
};

const PAGE: &str = include_str!("../docs/operations.md");

/// The lines of the first shell block below the heading.
fn block(heading: &str) -> String {
    let (_, rest) = PAGE.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let (_, rest) = rest.split_once("```sh\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// What an operator has: a database, a broker with the stream of the identity service, and a folder.
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
            paste_in(folder.path(), &block("## The key ring is lost"), &[]);
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
        let client = process.client().await;
        client.attached().await;
        Replica { process, client }
    }

    fn back_up(&self) {
        let heading = if self.database == Sqlite { "### SQLite" } else { "### PostgreSQL" };
        paste_in(self.folder.path(), &block(heading), &[("LATCHKEY_DATABASE_URL", &self.url)]);
    }

    fn restore(&mut self) {
        if self.database == Sqlite {
            paste_in(self.folder.path(), &block("### SQLite: put the backup in place"), &[]);
            return;
        }
        // The name must differ from those of other tests.
        let restored = format!("{}_restored", self.url.rsplit('/').next().unwrap());
        let lines = block("### PostgreSQL: put the backup in place").replace("latchkey_restored", &restored);
        let url = format!("{}_restored", self.url);
        let variables = [("LATCHKEY_DATABASE_URL", &*self.url), ("RESTORED_DATABASE_URL", &*url)];
        paste_in(self.folder.path(), &lines, &variables);
        self.url = url;
    }

    /// Finds in the broken database what was deleted after the backup.
    fn read_what_was_deleted(&self) {
        let (heading, broken) = match self.database {
            Sqlite => ("### SQLite: read what was deleted", ""),
            Postgres => {
                ("### PostgreSQL: read what was deleted", self.url.strip_suffix("_restored").unwrap())
            }
        };
        paste_in(self.folder.path(), &block(heading), &[("BROKEN_DATABASE_URL", broken)]);
    }
}

/// `latchkey serve` with a client, which is also what it dereferences to.
struct Replica {
    process: Process,
    client: Client,
}

impl Deref for Replica {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Replica {
    async fn stop(self) -> String {
        drop(self.client);
        self.process.stop().await
    }
}

/// The two ways to have the messages in the stream delivered again.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Replay {
    OtherDurable,
    ConsumerRemoved,
}

#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restore_tokens_and_accounts_are_deleted_again(
    database: Database,
    #[values(Replay::OtherDurable, Replay::ConsumerRemoved)] replay: Replay,
) {
    let mut site = Site::new(database).await;
    let identity = Identity(site.nats.jetstream().await);
    let replica = site.serve(&[]).await;
    let kept = replica.issue("alice", "kept").await.1;
    let (dropped_id, dropped) = replica.issue("alice", "dropped").await;
    let (odd_id, odd) = replica.issue("o'hara $(x)", "dropped too").await;
    let (early_id, early) = replica.issue("alice", "dropped before").await;
    let gone = replica.issue("bob", "gone").await.1;
    let gone_before = replica.issue("carol", "gone before").await.1;
    identity.delete_user("carol").await;
    replica.refuses(&gone_before, Reason::UserDeleted).await;
    replica.delete("alice", &early_id).await.unwrap();
    site.back_up();

    replica.delete("alice", &dropped_id).await.unwrap();
    replica.delete("o'hara $(x)", &odd_id).await.unwrap();
    identity.delete_user("bob").await;
    replica.refuses(&gone, Reason::UserDeleted).await;
    let created_since = replica.issue("alice", "created since").await.1;
    std::fs::write(site.folder.path().join("latchkey.log"), replica.stop().await).unwrap();
    site.restore();

    // The tokens are back, and the old consumer delivers nothing again. With PostgreSQL the service notices.
    let replica = site.serve(&[]).await;
    for secret in [&kept, &dropped, &odd] {
        replica.validate(secret).await.unwrap();
    }
    match database {
        Sqlite => drop(replica.validate(&gone).await.unwrap()),
        Postgres => replica.refuses(&gone, Reason::UserDeleted).await,
    }
    assert_eq!(replica.validate(&gone_before).await, Err(Reason::UserDeleted));
    assert_eq!(replica.validate(&early).await, Err(Reason::Revoked));
    assert_eq!(replica.validate(&created_since).await, Err(Reason::Unknown));

    let replica = match replay {
        Replay::OtherDurable => {
            replica.stop().await;
            site.serve(&["--nats-durable", "latchkey-restored"]).await
        }
        Replay::ConsumerRemoved => {
            identity.0.delete_consumer_from_stream("latchkey", "IDENTITY").await.unwrap();
            // Without the log, the deletions are read from the broken database.
            std::fs::remove_file(site.folder.path().join("latchkey.log")).unwrap();
            site.read_what_was_deleted();
            replica
        }
    };
    replica.refuses(&gone, Reason::UserDeleted).await;
    let server = replica.process.url();
    paste_in(site.folder.path(), &block("### Delete the tokens again"), &[("LATCHKEY_SERVER", &server)]);
    assert_eq!(replica.validate(&dropped).await, Err(Reason::Revoked));
    assert_eq!(replica.validate(&odd).await, Err(Reason::Revoked));
    replica.validate(&kept).await.unwrap();
    replica.stop().await;
}

#[tokio::test]
async fn a_lost_key_ring_costs_one_run_of_argon2_per_token() {
    let app = App::start(Sqlite).await;
    let secret = app.issue("alice", "one").await.1;
    let ring = app.folder.path().join("data/keyring.toml");
    std::fs::remove_file(&ring).unwrap();
    let app = app.restart(&[]).await;
    assert!(ring.exists(), "the start created a new one");
    app.validate(&secret).await.unwrap();
    assert_eq!(app.argon2_runs(), 1);

    let app = App::start(Postgres).await;
    let create_ring = block("## The key ring is lost");
    let ring = app.folder.path().join("keyring.toml");
    let with_ring = ["--key-ring", ring.to_str().unwrap()];
    paste_in(app.folder.path(), &create_ring, &[]);
    let app = app.restart(&with_ring).await;
    let secret = app.issue("alice", "one").await.1;
    std::fs::remove_file(&ring).unwrap();
    paste_in(app.folder.path(), &create_ring, &[]);
    let app = app.restart(&with_ring).await;
    app.validate(&secret).await.unwrap();
    assert_eq!(app.argon2_runs(), 1);
    let app = app.restart(&with_ring).await;
    app.validate(&secret).await.unwrap();
    assert_eq!(app.argon2_runs(), 0);
}

#[tokio::test]
async fn a_killed_replica_loses_nothing() {
    let site = Site::new(Postgres).await;
    let identity = Identity(site.nats.jetstream().await);
    let (lost, left) = (site.serve(&[]).await, site.serve(&[]).await);
    let (id, one) = lost.issue("alice", "one").await;
    let two = lost.issue("bob", "two").await.1;
    lost.process.kill();
    left.validate(&one).await.unwrap();
    left.validate(&two).await.unwrap();
    left.delete("alice", &id).await.unwrap();
    identity.delete_user("bob").await;
    left.refuses(&two, Reason::UserDeleted).await;
    let new = site.serve(&[]).await;
    assert_eq!(new.validate(&one).await, Err(Reason::Revoked));
    assert_eq!(new.validate(&two).await, Err(Reason::UserDeleted));
    new.stop().await;
    left.stop().await;
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_broker_that_lost_its_streams_can_get_the_messages_again(database: Database) {
    let mut site = Site::new(database).await;
    let replica = site.serve(&[]).await;
    let deleted = replica.issue("alice", "one").await.1;
    let deleted_later = replica.issue("bob", "one").await.1;
    Identity(site.nats.jetstream().await).delete_user("alice").await;
    replica.refuses(&deleted, Reason::UserDeleted).await;

    site.nats.stop();
    std::fs::remove_dir_all(site.nats.folder.path().join("jetstream")).unwrap();
    replica.validate(&deleted_later).await.unwrap();
    site.nats.resume();
    let identity = site.nats.with_identity_stream().await;
    for user in ["alice", "bob"] {
        identity.delete_user(user).await;
    }
    replica.refuses(&deleted_later, Reason::UserDeleted).await;
    identity.all_answered().await;
    replica.stop().await;
}
