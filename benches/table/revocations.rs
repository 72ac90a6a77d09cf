//! What it costs to take access away: one token, with other replicas to wait for, and an account with many tokens.

use std::time::{Duration, Instant};

use latchkey::proto::latchkey::{CreateTokenRequest, DeleteTokenRequest};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbBackend, Statement};

use super::{
    database::Database,
    load::is_valid,
    report::{self, print_row, print_spread, sorted},
    server::Server,
    support::{http, postgres::Postgres},
};

/// Revocations timed on a second replica, and deletions timed with each number of replicas.
const REVOCATIONS: usize = 500;
const DELETIONS: usize = 300;
const REPLICAS: [usize; 4] = [1, 2, 8, 16];
/// The time in which the statements of idle replicas are counted.
const IDLE: Duration = Duration::from_secs(20);
/// Token rows of the accounts that are deleted, and the sizes of the tables that they are among.
const TOKENS: [usize; 3] = [1, 1_000, 300_000];
const TABLES: [usize; 2] = [10_000, 1_000_000];
/// Accounts of each kind.
const ACCOUNTS: usize = 9;

/// Times DeleteToken beside the bare transaction that it makes.
pub async fn deletions(postgres: &Postgres) {
    let database = Database::postgres(postgres).await;
    let mut micros = Vec::new();
    let connection = database.connect().await;
    let server = Server::latchkey(&database, &[]);
    let mut client = server.clients(1).await.remove(0);
    for n in 0..DELETIONS {
        let (id, _) = create(&mut client, &format!("bare {n}")).await;
        let began = Instant::now();
        for sql in [
            "BEGIN",
            &format!("UPDATE tokens SET revoked_at = now(), revoke_reason = 'deleted' WHERE id = '{id}'"),
            &format!(
                "INSERT INTO token_events (at, kind, token_id, user_id, actor) \
                 VALUES (now(), 'token_revoked', '{id}', 'bare {n}', 'bare')"
            ),
            "COMMIT",
        ] {
            connection.execute_unprepared(sql).await.unwrap();
        }
        micros.push(began.elapsed().as_secs_f64() * 1e3);
    }
    print_latency("bare transaction of a deletion (ms)", micros);
    drop(server);
    connection.execute_unprepared("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await.unwrap();
    for replicas in REPLICAS {
        let database = Database::postgres(postgres).await;
        let servers: Vec<_> = (0..replicas).map(|_| Server::latchkey(&database, &[])).collect();
        let before = statements(&connection, &database).await;
        tokio::time::sleep(IDLE).await;
        let idle = statements(&connection, &database).await - before;
        let mut client = servers[0].clients(1).await.remove(0);
        let mut millis = Vec::new();
        let before = statements(&connection, &database).await;
        let began = Instant::now();
        for n in 0..DELETIONS {
            let user_id = format!("leaver {n}");
            let (token_id, _) = create(&mut client, &user_id).await;
            let began = Instant::now();
            let request = DeleteTokenRequest { user_id, token_id, ..Default::default() };
            client.delete_token(request).await.unwrap();
            millis.push(began.elapsed().as_secs_f64() * 1e3);
        }
        print_latency(&format!("DeleteToken, PostgreSQL, {replicas} replicas (ms)"), millis);
        let idle = idle / IDLE.as_secs_f64();
        let busy = statements(&connection, &database).await - before - idle * began.elapsed().as_secs_f64();
        print_row("  statements a second while idle, of each", idle / replicas as f64);
        print_row("  statements of a creation and a deletion", busy / DELETIONS as f64);
    }
}

/// How many statements the services on `database` have made so far.
async fn statements(observer: &DatabaseConnection, database: &Database) -> f64 {
    let name = database.url.rsplit('/').next().unwrap();
    let sql = format!(
        "SELECT coalesce(sum(calls), 0)::float8 FROM pg_stat_statements \
         JOIN pg_database ON oid = dbid WHERE datname = '{name}'"
    );
    let row = observer.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await.unwrap();
    row.unwrap().try_get_by_index(0).unwrap()
}

/// Times UserDeleted for accounts with few and many tokens, in small and large tables.
pub async fn accounts(postgres: &Postgres) {
    for kind in ["SQLite", "PostgreSQL"] {
        let mut medians = Vec::new();
        for table in TABLES {
            let mut database = match kind {
                "SQLite" => Database::sqlite().await,
                _ => Database::postgres(postgres).await,
            };
            database.fill(table, 1).await;
            let server = Server::latchkey(&database, &[]);
            for tokens in TOKENS {
                let millis = delete_accounts(&database, &server, tokens).await;
                print_spread(&format!("UserDeleted, {kind}, {tokens} of {table} tokens (ms)"), &millis);
                medians.push(report::median(&millis));
            }
        }
        print_row("  last to first", medians[medians.len() - 1] / medians[0]);
    }
}

async fn delete_accounts(database: &Database, server: &Server, tokens: usize) -> Vec<f64> {
    // The rows of the larger accounts are many: fewer of those.
    let accounts = if tokens > 10_000 { 5 } else { ACCOUNTS };
    let mut millis = Vec::new();
    for n in 0..=accounts {
        let (user, other) = (format!("user with {tokens} tokens, {n}"), format!("before {tokens}, {n}"));
        database.add_tokens_of(&other, 1).await;
        database.add_tokens_of(&user, tokens).await;
        // The service's connections read again what others have written to the database; this one pays for it.
        delete_user(server, &other).await;
        let began = Instant::now();
        delete_user(server, &user).await;
        // The first warms up.
        if n > 0 {
            millis.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    millis
}

async fn delete_user(server: &Server, user: &str) {
    let event = format!(r#"{{"userId": "{user}"}}"#);
    let headers = [
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-type", "identity.v1.UserDeleted"),
        ("ce-source", "/bench"),
        ("ce-id", "1"),
    ];
    let addr = server.http_addr.unwrap();
    let (status, _, body) = http::send(addr, "POST /events", &headers, event.as_bytes()).await;
    assert_eq!(status, 202, "{body}");
}

/// Times a second replica: until it refuses a token, from the moment at which the deletion is sent.
pub async fn seen(kind: &str, database: &Database) {
    let replicas = [Server::latchkey(database, &[]), Server::latchkey(database, &[])];
    let mut one = replicas[0].clients(1).await.remove(0);
    let mut two = replicas[1].clients(1).await.remove(0);
    let mut millis = Vec::new();
    for n in 0..REVOCATIONS {
        let user_id = format!("leaver {n}");
        let (token_id, bearer) = create(&mut one, &user_id).await;
        assert!(is_valid(&mut two, &bearer).await);
        let began = Instant::now();
        let request = DeleteTokenRequest { user_id, token_id, ..Default::default() };
        one.delete_token(request).await.unwrap();
        assert!(!is_valid(&mut two, &bearer).await, "the deletion has returned");
        millis.push(began.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    print_latency(&format!("deletion until a second replica has refused, {kind} (ms)"), millis);
}

type Client = latchkey::proto::latchkey::token_service_client::TokenServiceClient<tonic::transport::Channel>;

/// Creates a token, and returns its id and the bearer token.
async fn create(client: &mut Client, user: &str) -> (String, String) {
    let request = CreateTokenRequest { user_id: user.into(), name: "token".into(), ..Default::default() };
    let created = client.create_token(request).await.unwrap().into_inner();
    (created.token.unwrap().id, created.secret)
}

fn print_latency(name: &str, millis: Vec<f64>) {
    let millis = sorted(millis);
    print_row(&format!("{name}, median"), millis[millis.len() / 2]);
    print_row("  99th percentile", millis[millis.len() * 99 / 100]);
}
