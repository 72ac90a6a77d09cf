use std::time::Duration;

use latchkey::store::{PoolLimits, ReplicaReader, Store};
use rstest::rstest;
use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbBackend, Statement};

use crate::support::{App, database::connect, postgres::Postgres, until};

/// What docs/operations.md says.
const CONNECTIONS: i64 = 6;
const STATEMENTS_PER_SECOND: f64 = 12.0;

/// The time in which statements are counted.
const SPAN: Duration = Duration::from_secs(20);

async fn number(database: &DatabaseConnection, sql: &str) -> i64 {
    let row = database.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await.unwrap();
    row.unwrap().try_get_by_index(0).unwrap()
}

/// What an idle replica costs the database does not depend on how many others there are.
#[rstest]
#[case(1)]
#[case(6)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_replica_makes_12_statements_a_second_and_has_6_connections_at_most(#[case] replicas: i64) {
    let postgres = Postgres::start();
    let url = postgres.create_database().await;
    let observer = connect(postgres.url("postgres")).await;
    observer.execute_unprepared("CREATE EXTENSION pg_stat_statements").await.unwrap();
    let mut apps = vec![App::start_on(url.clone(), tempfile::tempdir().unwrap(), &[]).await];
    for _ in 1..replicas {
        apps.push(App::start_on(url.clone(), tempfile::tempdir().unwrap(), &[]).await);
    }
    // In use before, and idle from now on.
    let (id, secret) = apps[0].issue("alice", "one").await;
    for app in &apps {
        app.validate(&secret).await.unwrap();
    }
    apps[0].delete("alice", &id).await.unwrap();
    let of_the_service = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'latchkey'";
    until("the end of connections that nobody uses", || async {
        (number(&observer, of_the_service).await <= CONNECTIONS * replicas).then_some(())
    })
    .await;
    let calls = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements \
                 JOIN pg_database ON oid = dbid WHERE datname <> 'postgres'";
    let before = number(&observer, calls).await;
    tokio::time::sleep(SPAN).await;
    let statements = number(&observer, calls).await - before;
    let per_second = statements as f64 / SPAN.as_secs_f64() / replicas as f64;
    println!("{replicas} replicas: {per_second:.1} statements a second each");
    assert!(per_second <= STATEMENTS_PER_SECOND, "{per_second} statements a second");
}

/// While a transaction somewhere in the cluster keeps a snapshot, every version of a row that replicas write stays in its
/// table. A revocation that waits for replicas reads the newest version only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_that_a_long_transaction_keeps_are_not_read() {
    const VERSIONS: i64 = 30_000;
    let postgres = Postgres::start();
    let url = postgres.create_database().await;
    let observer = connect(postgres.url("postgres")).await;
    observer.execute_unprepared("CREATE EXTENSION pg_stat_statements").await.unwrap();
    let limits = PoolLimits { connections: 2, timeout: Duration::from_secs(5) };
    let store = Store::open(&url.parse().unwrap(), limits).await.unwrap();
    store.prepare().await.unwrap();
    let mut reader = ReplicaReader::new(store);
    let read = async |reader: &mut ReplicaReader| {
        reader.read(None, Duration::from_secs(5)).await.unwrap().replicas[0].renewals
    };
    let database = connect(url).await;
    for sql in [
        "INSERT INTO replicas SELECT gen_random_uuid(), id, 1000 FROM epoch",
        "INSERT INTO replica_states SELECT id, 0, '1:1:', now() FROM replicas",
    ] {
        database.execute_unprepared(sql).await.unwrap();
    }
    // While the table is small, so that the plan is of then.
    for _ in 0..10 {
        assert_eq!(read(&mut reader).await, 0);
    }
    for sql in ["BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT pg_current_xact_id()"] {
        observer.execute_unprepared(sql).await.unwrap();
    }
    let renew = format!(
        "DO $$ DECLARE replica uuid := (SELECT id FROM replicas); BEGIN SET LOCAL enable_seqscan = off; \
         FOR n IN 1..{VERSIONS} LOOP \
         UPDATE replica_states SET renewals = n WHERE id = replica AND renewals = n - 1; END LOOP; END $$"
    );
    database.execute_unprepared(&renew).await.unwrap();
    let blocks = "SELECT sum(shared_blks_hit + shared_blks_read)::bigint FROM pg_stat_statements \
                  WHERE query LIKE '%LATERAL (SELECT * FROM replica_states%' AND query NOT LIKE '%pg_stat%'";
    let before = number(&observer, blocks).await;
    assert_eq!(read(&mut reader).await, VERSIONS);
    let read = number(&observer, blocks).await - before;
    assert!(read < 50, "{read} blocks for one row");
}
