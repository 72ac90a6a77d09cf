//! Prints one table: Latchkey beside an empty tonic handler, and beside a bare SELECT behind that handler. Servers are
//! processes of their own; rounds are interleaved, so that what the machine does meanwhile falls on both.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use latchkey::{
    proto::latchkey::{
        CreateTokenRequest, CreateTokenResponse, DeleteTokenRequest, DeleteTokenResponse, ListTokensRequest,
        ListTokensResponse, Token, ValidateTokenRequest, ValidateTokenResponse,
        token_service_client::TokenServiceClient,
        token_service_server::{TokenService, TokenServiceServer},
        validate_token_response::Outcome,
    },
    token::{Prefix, Secret},
};
use sea_orm::sqlx::{self, Row as _, SqlitePool};
use tonic::{
    Request, Response, Status,
    transport::{Channel, server::TcpIncoming},
};

/// How many tokens the database holds, and how many of them users have each.
const TOKENS: usize = 10_000;
const TOKENS_OF_A_USER: usize = 50;
/// How many calls are under way at once, on how many connections.
const CALLERS: usize = 32;
const CONNECTIONS: usize = 4;
/// Rounds of each kind, and how long a round of hot calls takes.
const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_secs(2);
/// How many revocations are timed on a second replica.
const REVOCATIONS: usize = 500;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match arguments.get(1).map(String::as_str) {
        Some("handler") => runtime.block_on(serve_bare(None)),
        Some("select") => runtime.block_on(serve_bare(Some(&arguments[2]))),
        _ => runtime.block_on(table()),
    }
}

async fn table() {
    let folder = tempfile::tempdir().unwrap();
    let latchkey = Server::latchkey(folder.path());
    println!(
        "{:<52} {:>12} {:>10}",
        "start to serving, new database (ms)",
        latchkey.started_in.as_millis(),
        ""
    );
    println!("{:<52} {:>12.1} {:>10}", "resident memory, idle (MB)", latchkey.resident() as f64 / 1e6, "");
    let secrets = fill(&latchkey).await;

    let handler = Server::bare(&["handler"]);
    compare("hot ValidateToken", &latchkey, "empty handler", &handler, &secrets[..1_000]).await;
    drop(latchkey);

    cold(folder.path(), &secrets).await;
    memory(folder.path(), &secrets).await;
    revocations(folder.path()).await;
}

/// Issues the tokens.
async fn fill(latchkey: &Server) -> Vec<String> {
    let client = latchkey.clients().await.remove(0);
    let mut secrets = Vec::with_capacity(TOKENS);
    for n in 0..TOKENS {
        let request = CreateTokenRequest {
            user_id: format!("user {}", n / TOKENS_OF_A_USER),
            name: format!("token {n}"),
            ..Default::default()
        };
        secrets.push(client.clone().create_token(request).await.unwrap().into_inner().secret);
    }
    secrets
}

/// Hot calls on both, in turn.
async fn compare(what: &str, ours: &Server, other: &str, theirs: &Server, secrets: &[String]) {
    let secrets: Arc<Vec<String>> = Arc::new(secrets.to_vec());
    let mut figures: [Vec<Figure>; 2] = Default::default();
    // The first round of each warms up.
    for round in 0..=ROUNDS {
        for (server, figures) in [ours, theirs].into_iter().zip(&mut figures) {
            let figure = round_of(server, Load::For(ROUND, Arc::clone(&secrets))).await;
            if round > 0 {
                figures.push(figure);
            }
        }
    }
    print_pair(what, other, &figures);
}

/// Every token once, after a start.
async fn cold(folder: &Path, secrets: &[String]) {
    let mut figures: [Vec<Figure>; 2] = Default::default();
    let database = folder.join("latchkey.db");
    for _ in 0..5 {
        let servers = [Server::latchkey(folder), Server::bare(&["select", database.to_str().unwrap()])];
        for (server, figures) in servers.iter().zip(&mut figures) {
            figures.push(round_of(server, Load::Once(secrets.to_vec())).await);
        }
    }
    print_pair("cold ValidateToken, SQLite", "bare SELECT behind the handler", &figures);
}

/// What a service that keeps all tokens in memory takes more than one that looked up as many and kept one.
async fn memory(folder: &Path, secrets: &[String]) {
    let mut resident = [0; 2];
    for (entries, resident) in ["1", "100000"].into_iter().zip(&mut resident) {
        let latchkey = Server::latchkey_with(folder, &["--cache-entries", entries]);
        for _ in 0..2 {
            round_of(&latchkey, Load::Once(secrets.to_vec())).await;
        }
        *resident = latchkey.resident();
    }
    let each = (resident[1] as f64 - resident[0] as f64) / secrets.len() as f64;
    print_row("memory of a cached token (bytes)", each);
}

/// How long a second replica takes a revoked token for good.
async fn revocations(folder: &Path) {
    let (one, two) = (Server::latchkey(folder), Server::latchkey(folder));
    let (mut one, mut two) = (one.clients().await.remove(0), two.clients().await.remove(0));
    let mut seen = Vec::new();
    for n in 0..REVOCATIONS {
        let user_id = format!("leaver {n}");
        let request =
            CreateTokenRequest { user_id: user_id.clone(), name: "token".into(), ..Default::default() };
        let created = one.create_token(request).await.unwrap().into_inner();
        let secret = created.secret;
        assert!(is_valid(&mut two, &secret).await);
        let token_id = created.token.unwrap().id;
        one.delete_token(DeleteTokenRequest { user_id, token_id }).await.unwrap();
        let revoked = Instant::now();
        while is_valid(&mut two, &secret).await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        seen.push(revoked.elapsed().as_secs_f64() * 1e3);
    }
    seen.sort_by(f64::total_cmp);
    print_row("revocation seen by a second replica, median (ms)", seen[seen.len() / 2]);
    print_row("  99th percentile (ms)", seen[seen.len() * 99 / 100]);
}

async fn is_valid(client: &mut TokenServiceClient<Channel>, secret: &str) -> bool {
    let request = ValidateTokenRequest { secret: secret.to_owned(), ..Default::default() };
    let answer = client.validate_token(request).await.unwrap().into_inner();
    matches!(answer.outcome, Some(Outcome::Valid(_)))
}

/// What a round found.
#[derive(Clone, Copy)]
struct Figure {
    calls_per_second: f64,
    server_micros_per_call: f64,
}

enum Load {
    /// These secrets again and again for a time.
    For(Duration, Arc<Vec<String>>),
    /// Each of these secrets once.
    Once(Vec<String>),
}

async fn round_of(server: &Server, load: Load) -> Figure {
    let clients = server.clients().await;
    let (queue, end, secrets) = match load {
        Load::For(time, secrets) => (VecDeque::new(), Some(time), secrets),
        Load::Once(secrets) => (secrets.into(), None, Arc::default()),
    };
    let queue = Arc::new(Mutex::new(queue));
    let (cpu, began) = (server.cpu(), Instant::now());
    let callers: Vec<_> = (0..CALLERS)
        .map(|n| {
            let mut client = clients[n % clients.len()].clone();
            let (queue, secrets) = (Arc::clone(&queue), Arc::clone(&secrets));
            tokio::spawn(async move {
                let mut calls = 0;
                loop {
                    let secret = match end {
                        Some(time) if began.elapsed() < time => {
                            Some(secrets[(n + calls * CALLERS) % secrets.len()].clone())
                        }
                        Some(_) => None,
                        None => queue.lock().unwrap().pop_front(),
                    };
                    let Some(secret) = secret else { return calls };
                    assert!(is_valid(&mut client, &secret).await);
                    calls += 1;
                }
            })
        })
        .collect();
    let mut calls = 0;
    for caller in callers {
        calls += caller.await.unwrap();
    }
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), server.cpu() - cpu);
    Figure {
        calls_per_second: calls as f64 / seconds,
        server_micros_per_call: cpu.as_secs_f64() * 1e6 / calls as f64,
    }
}

fn print_row(what: &str, figure: f64) {
    println!("{what:<52} {figure:>12.2}");
}

fn print_pair(ours: &str, theirs: &str, figures: &[Vec<Figure>; 2]) {
    let [our_rate, their_rate] =
        print_row_pair(ours, theirs, "calls/s", figures, |figure| figure.calls_per_second);
    print_row("  ratio of calls/s", our_rate / their_rate);
    let [our_cpu, their_cpu] =
        print_row_pair(ours, theirs, "server CPU µs/call", figures, |figure| figure.server_micros_per_call);
    print_row("  ratio of server CPU a call", our_cpu / their_cpu);
}

fn print_row_pair(
    ours: &str,
    theirs: &str,
    unit: &str,
    figures: &[Vec<Figure>; 2],
    of: impl Fn(&Figure) -> f64,
) -> [f64; 2] {
    let mut medians = [0.0; 2];
    for ((name, figures), median) in [ours, theirs].into_iter().zip(figures).zip(&mut medians) {
        let mut values: Vec<f64> = figures.iter().map(&of).collect();
        values.sort_by(f64::total_cmp);
        *median = values[values.len() / 2];
        let (low, high) = (values[0], values[values.len() - 1]);
        println!("{:<52} {median:>12.1}   {low:.1} to {high:.1}", format!("{name} ({unit})"));
    }
    medians
}

/// A server in a process of its own; it ends with this.
struct Server {
    process: Child,
    addr: SocketAddr,
    started_in: Duration,
}

impl Server {
    fn latchkey(folder: &Path) -> Self {
        Self::latchkey_with(folder, &[])
    }

    fn latchkey_with(folder: &Path, settings: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey"));
        command.args(["--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--data-dir"]).arg(folder);
        // What hashing costs is not what is measured here; validation never runs it.
        command
            .args(["--argon2-memory-kib", "8", "--argon2-iterations", "1", "--log", "warn"])
            .args(settings);
        Self::start(command)
    }

    fn bare(arguments: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(arguments);
        Self::start(command)
    }

    /// Starts it, and reads from its first line where it listens for gRPC.
    fn start(mut command: Command) -> Self {
        let began = Instant::now();
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let started_in = began.elapsed();
        let addr = line.split_whitespace().find_map(|word| word.parse().ok()).expect(&line);
        Self { process, addr, started_in }
    }

    async fn clients(&self) -> Vec<TokenServiceClient<Channel>> {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let endpoint = Channel::from_shared(format!("http://{}", self.addr)).unwrap();
            clients.push(TokenServiceClient::new(endpoint.connect().await.unwrap()));
        }
        clients
    }

    /// The processor time that it has used (proc(5): fields 14 and 15, in hundredths of a second on Linux).
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks: u64 =
            fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Its resident memory in bytes.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The handler to compare with: the same messages, nothing behind them but, if asked for, one SELECT by primary key.
struct Bare {
    database: Option<SqlitePool>,
    prefix: Prefix,
}

async fn serve_bare(database: Option<&str>) {
    let database = match database {
        Some(file) => Some(SqlitePool::connect(&format!("sqlite://{file}")).await.unwrap()),
        None => None,
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("listens on {}", listener.local_addr().unwrap());
    let service = TokenServiceServer::new(Bare { database, prefix: "pat".parse().unwrap() });
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
}

#[tonic::async_trait]
impl TokenService for Bare {
    async fn validate_token(
        &self,
        request: Request<ValidateTokenRequest>,
    ) -> Result<Response<ValidateTokenResponse>, Status> {
        let (mut user_id, mut name) = ("user 0".to_owned(), "token 0".to_owned());
        if let Some(database) = &self.database {
            let secret = Secret::parse(&self.prefix, &request.get_ref().secret).unwrap();
            let row = sqlx::query("SELECT * FROM tokens WHERE id = ?")
                .bind(secret.id())
                .fetch_one(database)
                .await
                .unwrap();
            (user_id, name) = (row.get("user_id"), row.get("name"));
        }
        let token = Token {
            id: "0193e4a0-0000-7000-8000-000000000000".into(),
            user_id,
            name,
            hint: "pat_0193...0000".into(),
            create_time: Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 1_000 }),
            ..Default::default()
        };
        Ok(Response::new(ValidateTokenResponse { outcome: Some(Outcome::Valid(token)) }))
    }

    async fn create_token(
        &self,
        _: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_tokens(
        &self,
        _: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete_token(
        &self,
        _: Request<DeleteTokenRequest>,
    ) -> Result<Response<DeleteTokenResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}
