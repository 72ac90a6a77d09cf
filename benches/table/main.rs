//! Prints one table that compares Latchkey with an empty tonic handler, and with the same handler around one SELECT.
//! Each server is a separate process. Rounds alternate between servers, so that other load on the machine affects all
//! equally.
//!
//! Arguments select rows: `cargo bench --bench table -- hot cold`.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bare;
mod database;
mod gateways;
mod load;
mod report;
mod revocations;
mod server;
#[path = "../../tests/support/mod.rs"]
#[allow(dead_code, unused_imports, unused_macros)]
mod support;

use std::{sync::Arc, time::Duration};

use latchkey::proto::latchkey::CreateTokenRequest;
use support::{otlp::Collector, postgres::Postgres};

use self::{
    database::Database,
    load::{Call, Figure, Load, Until, latencies, round, round_of},
    report::{compare, print_row, print_spread, sorted},
    server::Server,
};

/// Measured rounds of each kind, after one to warm up, and the duration of a round of hot calls.
const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_secs(2);
/// Calls in flight and connections of the row "loads", whose rounds are shorter.
const IN_FLIGHT: [usize; 4] = [8, 32, 64, 256];
const CONNECTIONS: [usize; 3] = [1, 4, 16];
const SHORT_ROUND: Duration = Duration::from_millis(1_200);
/// Tokens that are validated again and again from memory.
const HOT: usize = 1_000;
/// Live tokens in the database at a cold start, and how many of them a round validates.
const COLD_TABLE: usize = 100_000;
const COLD: usize = 20_000;
/// Table sizes between which no latency may grow.
const GROWTH: [usize; 3] = [10_000, 100_000, 1_000_000];
/// Tokens created one at a time, and then many at a time, to measure memory.
const CREATIONS: usize = 1_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match arguments.first().map(String::as_str) {
        Some("handler") => runtime.block_on(bare::serve(None, None)),
        Some("handler-tls") => runtime.block_on(bare::serve(None, Some(arguments[1].as_ref()))),
        Some("axum") => runtime.block_on(bare::serve_http()),
        Some("select") => runtime.block_on(bare::serve(Some(&arguments[1]), None)),
        _ => runtime.block_on(table(&arguments)),
    }
}

async fn table(rows: &[String]) {
    let selected = |row: &str| rows.is_empty() || rows.iter().any(|selected| selected == row);
    if selected("start") {
        start().await;
    }
    if selected("hot") {
        hot().await;
    }
    if selected("tls") {
        tls().await;
    }
    if selected("gateways") {
        gateways::compare_all().await;
    }
    if selected("loads") {
        loads().await;
    }
    if selected("floods") {
        floods().await;
    }
    if selected("memory") {
        memory().await;
    }
    if selected("creations") {
        creations().await;
    }
    let postgres = Postgres::start();
    for kind in ["SQLite", "PostgreSQL"] {
        let create = async || match kind {
            "SQLite" => Database::sqlite().await,
            _ => Database::postgres(&postgres).await,
        };
        if selected("cold") {
            cold(kind, create().await).await;
        }
        if selected("growth") {
            growth(kind, [create().await, create().await, create().await]).await;
        }
        if selected("revocations") {
            revocations::seen(kind, &create().await).await;
        }
    }
    if selected("deletions") {
        revocations::deletions(&postgres).await;
    }
    if selected("accounts") {
        revocations::accounts(&postgres).await;
    }
}

async fn start() {
    let database = Database::sqlite().await;
    let mut started = Vec::new();
    for _ in 0..ROUNDS {
        started.push(Server::latchkey(&database, &[]).started_in.as_secs_f64() * 1e3);
    }
    print_spread("start to serving, migrations done (ms)", &started);
    let server = Server::latchkey(&database, &[]);
    print_row("resident memory, idle (MB)", server.resident() as f64 / 1e6);
}

async fn hot() {
    let mut database = Database::sqlite().await;
    database.fill(HOT, HOT).await;
    let collector = Collector::start().await;
    let [endpoint, _] = collector.variables();
    let traced = [
        (endpoint.0, endpoint.1),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.01"),
    ];
    let servers = [
        Server::latchkey(&database, &[]),
        Server::bare(&["handler"]),
        Server::latchkey_with(&database, &[], &traced),
    ];
    let call = Call::Validate(Arc::clone(&database.bearers));
    let mut figures: [Vec<Figure>; 3] = Default::default();
    for turn in 0..=ROUNDS {
        for (server, figures) in servers.iter().zip(&mut figures) {
            let figure = round(server, &call, Until::Time(ROUND)).await;
            if turn > 0 {
                figures.push(figure);
            }
        }
    }
    let [ours, empty, traced] = figures;
    let names = ["hot ValidateToken", "hot ValidateToken, traced at 1 %", "empty handler"];
    compare(names[0], names[2], [&ours, &empty]);
    compare(names[1], names[2], [&traced, &empty]);
    assert!(!collector.received().is_empty(), "no spans were exported");
}

/// Compares hot calls by mutual TLS, of a caller that is recognised by its certificate, with an empty handler behind the same
/// TLS.
async fn tls() {
    let mut database = Database::sqlite().await;
    database.fill(HOT, HOT).await;
    let folder = tempfile::tempdir().unwrap();
    server::write_certificates(folder.path());
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let [certificate, key, ca, callers] = ["tls.crt", "tls.key", "ca.crt", "callers.toml"].map(file);
    let settings = [
        ["--tls-cert", &certificate],
        ["--tls-key", &key],
        ["--tls-client-ca", &ca],
        ["--tls-client-auth", "required"],
        ["--callers", &callers],
    ]
    .concat();
    let bare = ["handler-tls", folder.path().to_str().unwrap()];
    let servers = [Server::latchkey(&database, &settings), Server::bare(&bare)];
    let servers = servers.map(|server| server.with_tls(folder.path()));
    let call = Call::Validate(Arc::clone(&database.bearers));
    let mut figures: [Vec<Figure>; 2] = Default::default();
    for turn in 0..=ROUNDS {
        for (server, figures) in servers.iter().zip(&mut figures) {
            let figure = round(server, &call, Until::Time(ROUND)).await;
            if turn > 0 {
                figures.push(figure);
            }
        }
    }
    let [ours, empty] = figures;
    compare("hot ValidateToken, mutual TLS", "empty handler, mutual TLS", [&ours, &empty]);
}

/// Compares the CPU time of hot calls with an empty handler's under different loads.
async fn loads() {
    let mut database = Database::sqlite().await;
    database.fill(HOT, HOT).await;
    let servers = [Server::latchkey(&database, &[]), Server::bare(&["handler"])];
    let call = Call::Validate(Arc::clone(&database.bearers));
    for connections in CONNECTIONS {
        for calls in IN_FLIGHT {
            let mut figures: [Vec<f64>; 2] = Default::default();
            for turn in 0..=ROUNDS {
                for (server, figures) in servers.iter().zip(&mut figures) {
                    let load = Load { calls, connections };
                    let figure = round_of(server, &call, Until::Time(SHORT_ROUND), load).await;
                    if turn > 0 {
                        figures.push(figure.server_micros_per_call);
                    }
                }
            }
            let name = format!("hot, {calls} in flight on {connections} connections");
            print_spread(&format!("{name} (server CPU µs/call)"), &figures[0]);
            print_spread("  empty handler", &figures[1]);
            let ratio = |of: fn(&[f64]) -> f64| of(&figures[0]) / of(&figures[1]);
            print_row("  ratio", ratio(report::median));
            // Other work on the machine only ever adds to a round, so this one is steadier.
            print_row("  ratio of the minima", ratio(report::minimum));
        }
    }
}

/// Validates each token once, right after a start.
async fn cold(kind: &str, mut database: Database) {
    database.fill(COLD_TABLE, COLD).await;
    let call = Call::Validate(Arc::clone(&database.bearers));
    let mut figures: [Vec<Figure>; 2] = Default::default();
    let mut argon2_runs = 0.0;
    for turn in 0..=ROUNDS {
        let servers = [Server::latchkey(&database, &[]), Server::bare(&["select", &database.url])];
        for (server, figures) in servers.iter().zip(&mut figures) {
            let figure = round(server, &call, Until::Calls(COLD)).await;
            if turn > 0 {
                figures.push(figure);
            }
        }
        argon2_runs += servers[0].metric("latchkey_argon2_runs_total").await;
    }
    let [ours, bare] = figures;
    compare(
        &format!("cold ValidateToken, {kind}"),
        &format!("bare SELECT behind the handler, {kind}"),
        [&ours, &bare],
    );
    print_row("  runs of argon2", argon2_runs);
}

type MakeCall = fn(&Database) -> Call;

/// Sends the same calls to services with tables of different sizes.
async fn growth(kind: &str, mut databases: [Database; 3]) {
    for (database, size) in databases.iter_mut().zip(GROWTH) {
        database.fill(size, GROWTH[0]).await;
    }
    let hot: MakeCall = |database| Call::Validate(database.bearers[..HOT].into());
    let cold: MakeCall = |database| Call::Validate(Arc::clone(&database.bearers));
    let list: MakeCall = |database| Call::List { users: database.users };
    let create: MakeCall = |_| Call::Create;
    let kinds: [(&str, MakeCall, usize); 4] = [
        ("hot ValidateToken", hot, 50_000),
        ("cold ValidateToken", cold, GROWTH[0]),
        ("first page of ListTokens", list, 5_000),
        ("CreateToken", create, 1_000),
    ];
    for (name, call, calls) in kinds {
        let settings: &[&str] = if name.starts_with("cold") { &["--cache-entries", "1"] } else { &[] };
        let servers = databases.each_ref().map(|database| Server::latchkey(database, settings));
        let mut figures: [Vec<f64>; 3] = Default::default();
        for turn in 0..=ROUNDS {
            for ((server, database), figures) in servers.iter().zip(&databases).zip(&mut figures) {
                let figure = round(server, &call(database), Until::Calls(calls)).await;
                if turn > 0 {
                    figures.push(1e6 / figure.calls_per_second);
                }
            }
        }
        for (figures, size) in figures.iter().zip(GROWTH) {
            print_spread(&format!("{name}, {kind}, {size} tokens (µs/call)"), figures);
        }
        let [first, .., last] = figures.map(|figures| report::median(&figures));
        print_row("  last to first", last / first);
    }
}

/// Measures hot calls during a flood of invalid tokens.
async fn floods() {
    let mut database = Database::sqlite().await;
    database.fill(COLD_TABLE, COLD).await;
    let server = Server::latchkey(&database, &[]);
    let hot: Arc<[String]> = database.bearers[..HOT].into();
    let unknown = Call::Flood(database::unknown_ids(COLD));
    let wrong = Call::Flood(database::wrong_secrets(&database.bearers));
    round(&server, &Call::Validate(Arc::clone(&hot)), Until::Calls(HOT)).await;
    let kinds = [("quiet", None), ("unknown ids", Some(unknown)), ("wrong secrets", Some(wrong))];
    let mut medians: [Vec<f64>; 3] = Default::default();
    let mut tails: [Vec<f64>; 3] = Default::default();
    let mut answered: [Vec<f64>; 3] = Default::default();
    for turn in 0..=ROUNDS {
        for (n, (_, flood)) in kinds.iter().enumerate() {
            let (micros, flooded) = latencies(&server, &hot, flood.as_ref(), ROUND).await;
            if turn > 0 {
                let micros = sorted(micros);
                medians[n].push(micros[micros.len() / 2]);
                tails[n].push(micros[micros.len() * 99 / 100]);
                answered[n].push(flooded);
            }
        }
    }
    for (n, (name, _)) in kinds.iter().enumerate() {
        print_spread(&format!("hot ValidateToken, {name}: median (µs)"), &medians[n]);
        print_spread("  99th percentile (µs)", &tails[n]);
        if n > 0 {
            print_spread("  answers to the flood (calls/s)", &answered[n]);
            print_row(
                "  ratio of the medians to quiet",
                report::median(&medians[n]) / report::median(&medians[0]),
            );
        }
    }
}

/// Measures the memory of a cached token: compares a service that caches all tokens with one that caches a single
/// token.
async fn memory() {
    let mut database = Database::sqlite().await;
    database.fill(COLD, COLD).await;
    let call = Call::Validate(Arc::clone(&database.bearers));
    let mut resident = [0; 2];
    for (entries, resident) in ["1", "100000"].into_iter().zip(&mut resident) {
        let server = Server::latchkey(&database, &["--cache-entries", entries]);
        for _ in 0..2 {
            round(&server, &call, Until::Calls(COLD)).await;
        }
        *resident = server.resident();
    }
    print_row("memory of a cached token (bytes)", (resident[1] as f64 - resident[0] as f64) / COLD as f64);
}

/// Measures resident memory with the default argon2 parameters: idle, after 1,000 creations one at a time, and after
/// 1,000 more, 32 at a time.
async fn creations() {
    let database = Database::sqlite().await;
    let server = Server::latchkey(&database, &["--argon2-memory-kib", "19456", "--argon2-iterations", "2"]);
    print_row("resident memory, idle (MB)", server.resident() as f64 / 1e6);
    let mut client = server.clients(1).await.remove(0);
    for n in 0..CREATIONS {
        let user_id = format!("user {n}");
        let request = CreateTokenRequest { user_id, name: "token".into(), ..Default::default() };
        client.create_token(request).await.unwrap();
    }
    print_row("  after 1,000 creations in turn (MB)", server.resident() as f64 / 1e6);
    let figure = round(&server, &Call::Create, Until::Calls(CREATIONS)).await;
    print_row("  after 1,000 more, 32 at a time (MB)", server.resident() as f64 / 1e6);
    print_row("  peak (MB)", server.peak() as f64 / 1e6);
    print_row("  creations, 32 at a time (calls/s)", figure.calls_per_second);
}
