use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use latchkey::{
    credentials::KeyRing,
    proto::latchkey::invalid::Reason,
    token::{BearerToken, Prefix},
};
use rstest_reuse::apply;
use secrecy::ExposeSecret as _;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::support::{App, Client, Database, on_both_databases, soon};

/// A quarter of these, 32, are for made-up ids. Half of the connections for lookups are.
const LIMITS: [&str; 6] = [
    "--max-cold-lookups",
    "128",
    "--database-connections",
    "4",
    // The view below cannot be written to.
    "--last-used-interval",
    "1h",
];
/// More than all the permits together.
const CALLERS: usize = 160;
/// How long a caller pauses that was refused.
const PAUSE: Duration = Duration::from_millis(50);
/// How many lookups of the flood may end while a real token is looked up. They run beside it, two at a time. If it had to
/// wait for all of them that wait for a connection, it would be 30.
const OVERTAKEN_BY: usize = 15;

/// A well-formed token with an id that nobody issued.
fn made_up() -> String {
    let prefix: Prefix = "pat".parse().unwrap();
    BearerToken::generate().unwrap().reveal(&prefix).expose_secret().to_owned()
}

/// Makes every lookup slow: on PostgreSQL it takes 100 ms.
async fn slow_down(app: &App) {
    app.sql("ALTER TABLE tokens RENAME TO fast_tokens").await;
    match Database::of(&app.url) {
        // A CROSS JOIN is not reordered, so the counting comes first, also for an id that is not there.
        Database::Sqlite => {
            app.sql(
                "CREATE VIEW tokens AS SELECT fast_tokens.* FROM \
                 (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 60000) \
                 SELECT max(n) AS n FROM c) AS slow CROSS JOIN fast_tokens WHERE slow.n > 0",
            )
            .await;
        }
        Database::Postgres => {
            app.sql(
                "CREATE FUNCTION slow_tokens() RETURNS SETOF fast_tokens LANGUAGE sql \
                 AS 'SELECT pg_sleep(0.1); SELECT * FROM fast_tokens'",
            )
            .await;
            app.sql("CREATE VIEW tokens AS SELECT * FROM slow_tokens()").await;
        }
    }
}

/// Validates made-up tokens until `stop`, and returns how many calls were refused. Counts those that were looked up.
async fn flood(client: Client, stop: CancellationToken, looked_up: Arc<AtomicUsize>) -> usize {
    let mut refused = 0;
    while !stop.is_cancelled() {
        match client.try_validate(&made_up(), &[]).await {
            Ok(answer) => {
                assert_eq!(answer, Err(Reason::Unknown));
                looked_up.fetch_add(1, Ordering::Relaxed);
            }
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                refused += 1;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    refused
}

#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_tokens_are_looked_up_before_a_flood_of_made_up_ones(database: Database) {
    let folder = tempfile::tempdir().unwrap();
    let ring = folder.path().join("keyring.toml");
    KeyRing::open_or_create(&ring).unwrap();
    let settings = [&LIMITS[..], &["--key-ring", ring.to_str().unwrap()]].concat();
    let app = Arc::new(App::start_with(database, &settings).await);
    let mut secrets = Vec::new();
    for n in 0..10 {
        secrets.push(app.issue("alice", &format!("token {n}")).await.1);
    }
    slow_down(&app).await;
    let stop = CancellationToken::new();
    let looked_up = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| tokio::spawn(flood(app.client.clone(), stop.clone(), Arc::clone(&looked_up))))
        .collect();
    // The first refusal shows that the flood has filled its share.
    let full = async { while app.try_validate(&made_up(), &[]).await.is_ok() {} };
    soon("the limit of made-up tokens", full).await;

    for secret in &secrets {
        let before = looked_up.load(Ordering::Relaxed);
        app.try_validate(secret, &[]).await.unwrap().unwrap();
        let meanwhile = looked_up.load(Ordering::Relaxed) - before;
        assert!(meanwhile <= OVERTAKEN_BY, "{meanwhile}");
    }
    stop.cancel();
    let mut refused = 0;
    for caller in callers {
        refused += soon("the end of the flood", caller).await.unwrap();
    }
    assert!(refused > 0);
}

#[tokio::test]
async fn a_token_of_a_repeated_creation_is_still_vouched_for() {
    let app = App::start(Database::Sqlite).await;
    let ring = KeyRing::open(&app.folder.path().join("data/keyring.toml")).unwrap();
    let mut request = crate::support::client::create_request("alice", "one");
    request.request_id = "0193d3c8-9f6e-7c1a-8e5b-000000000001".into();
    for _ in 0..2 {
        let secret = app.create_with(request.clone()).await.unwrap().secret;
        let bearer = BearerToken::parse(&"pat".parse().unwrap(), secret.as_bytes()).unwrap();
        assert!(ring.vouches_for(bearer.id()));
    }
}
