//! Servers in separate processes.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use latchkey::proto::latchkey::token_service_client::TokenServiceClient;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::{
    database::Database,
    support::{
        certificates::{Authority, Validity},
        http,
    },
};

/// A running server. It is killed on drop.
pub struct Server {
    process: Child,
    addr: SocketAddr,
    /// The address of the HTTP listener, if there is one.
    pub http_addr: Option<SocketAddr>,
    admin_addr: Option<SocketAddr>,
    pub started_in: Duration,
    tls: Option<ClientTlsConfig>,
}

impl Server {
    /// Starts Latchkey with additional flags.
    pub fn latchkey(database: &Database, settings: &[&str]) -> Self {
        Self::latchkey_with(database, settings, &[])
    }

    /// Starts Latchkey with additional flags and environment variables.
    pub fn latchkey_with(database: &Database, settings: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey"));
        command.args(["--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"]);
        command.args(["--admin-addr", "127.0.0.1:0", "--log", "warn", "--max-creations-per-user", "1000000"]);
        command.args(["--database-url", &database.url, "--key-ring"]).arg(database.key_ring());
        if !settings.contains(&"--argon2-memory-kib") {
            // Most rows do not measure hashing, and validations of tagged tokens never hash.
            command.args(["--argon2-memory-kib", "8", "--argon2-iterations", "1"]);
        }
        command.args(settings);
        command.envs(variables.iter().copied());
        Self::start(command)
    }

    /// Starts this program as one of the servers of `bare.rs`.
    pub fn bare(arguments: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(arguments);
        Self::start(command)
    }

    /// Starts the process, and reads its addresses from its first line of output.
    fn start(mut command: Command) -> Self {
        let began = Instant::now();
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let started_in = began.elapsed();
        let mut addrs = line.split_whitespace().filter_map(|word| word.parse().ok());
        let addr = addrs.next().expect(&line);
        let (http_addr, admin_addr) = (addrs.next(), addrs.next());
        Self { process, addr, http_addr, admin_addr, started_in, tls: None }
    }

    /// Has clients connect by mutual TLS, with the certificates in `folder`; see [`write_certificates`].
    pub fn with_tls(mut self, folder: &Path) -> Self {
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        let client = Identity::from_pem(read("client/tls.crt"), read("client/tls.key"));
        let tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("ca.crt"))).identity(client);
        self.tls = Some(tls);
        self
    }

    /// Connects several clients, each by a connection of its own.
    pub async fn clients(&self, connections: usize) -> Vec<TokenServiceClient<Channel>> {
        self.channels(connections).await.into_iter().map(TokenServiceClient::new).collect()
    }

    /// Opens connections.
    pub async fn channels(&self, connections: usize) -> Vec<Channel> {
        let mut channels = Vec::new();
        for _ in 0..connections {
            channels.push(self.endpoint().connect().await.unwrap());
        }
        channels
    }

    /// Returns the address of the HTTP listener, or the only one.
    pub fn http(&self) -> SocketAddr {
        self.http_addr.unwrap_or(self.addr)
    }

    /// Returns a client that connects at its first call.
    pub fn lazy_client(&self) -> TokenServiceClient<Channel> {
        TokenServiceClient::new(self.endpoint().connect_lazy())
    }

    fn endpoint(&self) -> Endpoint {
        match &self.tls {
            None => Channel::from_shared(format!("http://{}", self.addr)).unwrap(),
            Some(tls) => {
                let url = format!("https://localhost:{}", self.addr.port());
                Channel::from_shared(url).unwrap().tls_config(tls.clone()).unwrap()
            }
        }
    }

    /// Returns the value of a metric.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, _, text) = http::send(self.admin_addr.unwrap(), "GET /metrics", &[], b"").await;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.expect(&text).parse().unwrap()
    }

    /// Returns the CPU time used (proc(5), `/proc/pid/stat`, fields 14 and 15, in hundredths of a second).
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks: u64 =
            fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Returns the resident memory in bytes.
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Returns the peak of resident memory in bytes.
    pub fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1_024
    }
}

/// Writes the certificates of a server and of a client into `folder`, and a callers file that recognises the client.
pub fn write_certificates(folder: &Path) {
    let authority = Authority::new();
    authority.server(Validity::Now).write(folder);
    let client = folder.join("client");
    std::fs::create_dir(&client).unwrap();
    authority.client(&["URI:spiffe://example.org/gateway"], Validity::Now).write(&client);
    std::fs::write(folder.join("ca.crt"), authority.pem()).unwrap();
    let callers = "[[caller]]\nname = \"gateway\"\nroles = [\"validator\"]\ncertificates = [\"spiffe://example.org/gateway\"]\n";
    std::fs::write(folder.join("callers.toml"), callers).unwrap();
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
