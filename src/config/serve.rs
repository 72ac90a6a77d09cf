//! Settings of `latchkey serve`.
//!
//! A setting's value comes from its flag, else from its `LATCHKEY_*` environment variable, else from the TOML file,
//! else from its default. The file's keys are the names of the flags with underscores. Its values replace the defaults,
//! so each setting is declared once.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser};

use super::{
    CallersConfig, ConfigError, DatabaseConfig, GatewayConfig, NatsConfig, PageConfig, RetentionConfig,
    TlsConfig,
    load::parse,
    values::{duration, switch},
};
use crate::{
    credentials::HashLimits, page::Recognition, store::DatabaseUrl, token::Prefix,
    validation::ValidationLimits,
};

/// Default address of the gRPC listener.
pub(crate) const GRPC_ADDR: &str = "127.0.0.1:50051";
/// Default address of the admin listener.
pub(crate) const ADMIN_ADDR: &str = "127.0.0.1:9090";
/// Name of the default key ring file in the data folder.
pub(crate) const KEY_RING: &str = "keyring.toml";

/// The shortest lease with PostgreSQL. It must leave time for a renewal that is slow, and one more.
const MIN_LEASE: Duration = Duration::from_secs(1);
/// The shortest time that a read of the revocation log may take.
const MIN_POLL_TIMEOUT: Duration = Duration::from_millis(200);

/// Settings of `latchkey serve`.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Address of the gRPC listener.
    #[arg(long, env = "LATCHKEY_GRPC_ADDR", value_name = "ADDRESS", default_value = GRPC_ADDR)]
    pub grpc_addr: SocketAddr,

    /// Address of the HTTP listener for account events, gateways and OAuth clients.
    #[arg(long, env = "LATCHKEY_HTTP_ADDR", value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub http_addr: SocketAddr,

    /// Address of the admin listener for metrics, health and the list of replicas: plain HTTP, without authentication.
    #[arg(long, env = "LATCHKEY_ADMIN_ADDR", value_name = "ADDRESS", default_value = ADMIN_ADDR)]
    pub admin_addr: SocketAddr,

    /// Allow gRPC and HTTP addresses that are not loopback without TLS and a callers file.
    #[arg(long, env = "LATCHKEY_INSECURE", value_parser = switch)]
    pub insecure: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub database: DatabaseConfig,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub tls: TlsConfig,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub callers: CallersConfig,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub gateway: GatewayConfig,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub page: PageConfig,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub nats: NatsConfig,

    /// Prefix of every token: 2 to 16 lower-case letters and digits, starting with a letter. Tokens with another prefix
    /// are malformed, so do not change it while tokens are in use.
    #[arg(long, env = "LATCHKEY_TOKEN_PREFIX", value_name = "PREFIX", default_value = "pat")]
    pub token_prefix: Prefix,

    /// Maximum number of live tokens per user: 1 to 100000.
    #[arg(long, env = "LATCHKEY_MAX_TOKENS_PER_USER", value_name = "COUNT", default_value_t = 50,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_tokens_per_user: u32,

    /// Key ring file. With its keys, tokens are verified without argon2. Default: with SQLite, keyring.toml in the data
    /// folder, created at the first start; otherwise none, and argon2 verifies every token that is not in memory.
    #[arg(long, env = "LATCHKEY_KEY_RING", value_name = "FILE")]
    pub key_ring: Option<PathBuf>,

    /// Memory of one argon2id run, in KiB: 8 to 1048576. The default costs are those of the OWASP Password Storage
    /// Cheat Sheet.
    #[arg(long, env = "LATCHKEY_ARGON2_MEMORY_KIB", value_name = "KIB", default_value_t = 19_456,
        value_parser = clap::value_parser!(u32).range(8..=1_048_576))]
    pub argon2_memory_kib: u32,

    /// Iterations of one argon2id run: 1 to 100.
    #[arg(long, env = "LATCHKEY_ARGON2_ITERATIONS", value_name = "COUNT", default_value_t = 2,
        value_parser = clap::value_parser!(u32).range(1..=100))]
    pub argon2_iterations: u32,

    /// Maximum number of concurrent argon2id runs: 1 to 256. Default: the number of cores.
    #[arg(long, env = "LATCHKEY_ARGON2_CONCURRENCY", value_name = "COUNT",
        value_parser = clap::value_parser!(u16).range(1..=256))]
    pub argon2_concurrency: Option<u16>,

    /// Maximum number of calls that wait for argon2id: 0 to 10000. Further ones fail with RESOURCE_EXHAUSTED.
    #[arg(long, env = "LATCHKEY_ARGON2_QUEUE", value_name = "COUNT", default_value_t = 256,
        value_parser = clap::value_parser!(u16).range(0..=10_000))]
    pub argon2_queue: u16,

    /// Maximum duration of a call: 100ms to 5m. A caller can set a shorter one with grpc-timeout.
    #[arg(long, env = "LATCHKEY_REQUEST_TIMEOUT", value_name = "DURATION", default_value = "10s",
        value_parser = duration::<100, 300_000>)]
    pub request_timeout: Duration,

    /// Maximum number of calls in flight: 1 to 100000. Further ones fail with RESOURCE_EXHAUSTED. Validations are counted
    /// apart from the others, which may wait for a replica.
    #[arg(long, env = "LATCHKEY_MAX_CONCURRENT_REQUESTS", value_name = "COUNT", default_value_t = 1_024,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_concurrent_requests: u32,

    /// Maximum number of calls in flight on one connection: 1 to 10000.
    #[arg(long, env = "LATCHKEY_MAX_STREAMS", value_name = "COUNT", default_value_t = 256,
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_streams: u32,

    /// Maximum number of tokens kept in memory, which are validated without the database: 1 to 10000000. A token of
    /// more than 400 bytes counts as more than one.
    #[arg(long, env = "LATCHKEY_CACHE_ENTRIES", value_name = "COUNT", default_value_t = 100_000,
        value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub cache_entries: u64,

    /// Maximum number of concurrent lookups of tokens that are not in memory: 1 to 10000. Further ones fail with
    /// RESOURCE_EXHAUSTED. Tokens whose id no key of the key ring vouches for, such as made-up ones, have a quarter.
    #[arg(long, env = "LATCHKEY_MAX_COLD_LOOKUPS", value_name = "COUNT", default_value_t = 256,
        value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub max_cold_lookups: u16,

    /// How often to poll for tokens revoked by other replicas: 10ms to 1m.
    #[arg(long, env = "LATCHKEY_REVOCATION_POLL", value_name = "DURATION", default_value = "100ms",
        value_parser = duration::<10, 60_000>)]
    pub revocation_poll: Duration,

    /// How long a replica may answer validations after it last read the revocation log and, with PostgreSQL, last
    /// renewed its lease by a write: 0s to 10m. With PostgreSQL at least 1s, and three times the poll interval. After
    /// that its answers are UNAVAILABLE (SQLite: read from the database). A revocation waits at most this long for a
    /// replica that is paused or cut off.
    #[arg(long, env = "LATCHKEY_MAX_STALENESS", value_name = "DURATION", default_value = "5s",
        value_parser = duration::<0, 600_000>)]
    pub max_staleness: Duration,

    /// How often to write when tokens were last used: 1s to 1h.
    #[arg(long, env = "LATCHKEY_LAST_USED_INTERVAL", value_name = "DURATION", default_value = "30s",
        value_parser = duration::<1_000, 3_600_000>)]
    pub last_used_interval: Duration,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub retention: RetentionConfig,

    /// How long calls in flight may continue after SIGTERM or SIGINT: 0s to 10m.
    #[arg(long, env = "LATCHKEY_SHUTDOWN_GRACE", value_name = "DURATION", default_value = "20s",
        value_parser = duration::<0, 600_000>)]
    pub shutdown_grace: Duration,
}

impl Config {
    /// Reads the settings from the arguments of `latchkey serve`, the environment and the TOML file.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`].
    pub fn parse_from<T: Into<OsString> + Clone>(
        arguments: impl IntoIterator<Item = T>,
    ) -> Result<Self, ConfigError> {
        #[derive(Parser)]
        struct Serve {
            #[command(flatten)]
            config: Config,
        }
        parse::<Serve, _>(arguments, |serve| serve.config.database.config.clone()).map(|serve| serve.config)
    }

    /// Checks the rules that involve several settings.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Exposed`], [`ConfigError::Lease`], [`ConfigError::Tls`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let (max_staleness, poll) = (self.max_staleness, self.revocation_poll);
        if matches!(self.database.url(), Ok(DatabaseUrl::Postgres(_)))
            && max_staleness < MIN_LEASE.max(poll * 3)
        {
            return Err(ConfigError::Lease { max_staleness, poll });
        }
        let addresses = [
            ("--grpc-addr (LATCHKEY_GRPC_ADDR)", self.grpc_addr),
            ("--http-addr (LATCHKEY_HTTP_ADDR)", self.http_addr),
        ];
        let exposed = addresses.into_iter().find(|(_, addr)| !addr.ip().is_loopback());
        let has_tls = self.tls.files()?.is_some();
        match (exposed, self.missing_protection(has_tls)) {
            (Some((setting, addr)), Some((missing, set))) if !self.insecure => {
                Err(ConfigError::Exposed { setting, addr, missing, set })
            }
            _ => Ok(()),
        }
    }

    /// Returns how the web page recognises its users.
    ///
    /// # Errors
    ///
    /// [`ConfigError::PageJwt`], [`ConfigError::PageLogin`], [`ConfigError::PageOidc`].
    pub(crate) fn page_recognition(&self) -> Result<Recognition, ConfigError> {
        if let Some(oidc) = self.page.oidc()? {
            return Ok(Recognition::Oidc(Box::new(oidc)));
        }
        match (&self.page.page_jwt_header, &self.callers.callers) {
            (Some(_), None) => Err(ConfigError::PageJwt),
            (Some(header), Some(_)) => Ok(Recognition::Jwt(header.clone())),
            // Everyone who reaches the service may do everything anyway.
            (None, None) if self.http_addr.ip().is_loopback() && self.tls.tls_cert.is_none() => {
                Ok(Recognition::Development)
            }
            (None, _) => Ok(Recognition::Off),
        }
    }

    /// Returns what protects callers of other machines and is missing, and what to set.
    fn missing_protection(&self, has_tls: bool) -> Option<(&'static str, &'static str)> {
        const TLS: &str = "--tls-cert and --tls-key (LATCHKEY_TLS_CERT, LATCHKEY_TLS_KEY)";
        const CALLERS: &str = "--callers (LATCHKEY_CALLERS)";
        const BOTH: &str =
            "--tls-cert, --tls-key and --callers (LATCHKEY_TLS_CERT, LATCHKEY_TLS_KEY, LATCHKEY_CALLERS)";
        match (has_tls, self.callers.callers.is_some()) {
            (true, true) => None,
            (true, false) => Some(("callers are not authenticated", CALLERS)),
            (false, true) => Some(("connections are not encrypted", TLS)),
            (false, false) => Some(("callers are not authenticated and connections are not encrypted", BOTH)),
        }
    }

    /// Returns the limits of validation.
    pub fn validation_limits(&self) -> ValidationLimits {
        ValidationLimits {
            cache_entries: self.cache_entries,
            cold_lookups: usize::from(self.max_cold_lookups),
            max_staleness: self.max_staleness,
            // So that one that hangs leaves time for another before the lease ends.
            poll_timeout: self.database.database_timeout.min(self.max_staleness / 3).max(MIN_POLL_TIMEOUT),
        }
    }

    /// Returns the costs of a hash and the limits of concurrent hashing.
    pub fn hash_limits(&self) -> HashLimits {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        HashLimits {
            memory_kib: self.argon2_memory_kib,
            iterations: self.argon2_iterations,
            parallelism: 1,
            concurrency: self.argon2_concurrency.map_or_else(cores, usize::from),
            queue: usize::from(self.argon2_queue),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Config, ConfigError> {
        Config::parse_from(std::iter::once("serve").chain(arguments.iter().copied()))
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, text).unwrap();
        file
    }

    #[test]
    fn defaults_do_not_change() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.grpc_addr, "127.0.0.1:50051".parse().unwrap());
        assert_eq!(config.database.data_dir, Path::new("data"));
        assert_eq!(config.max_tokens_per_user, 50);
        assert_eq!(config.token_prefix.to_string(), "pat");
        let cost = config.hash_limits();
        assert_eq!((cost.memory_kib, cost.iterations, cost.parallelism), (19_456, 2, 1));
        let DatabaseUrl::Sqlite(file) = config.database.url().unwrap() else { panic!("not SQLite") };
        assert_eq!(file.get_filename(), Path::new("data/latchkey.db"));
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file = file(
            "max_tokens_per_user = 7\nrequest_timeout = \"3s\"\ninsecure = true\ngrpc_addr = \"0.0.0.0:1\"",
        );
        let path = file.path().to_str().unwrap();
        let config = parse(&["--config", path, "--request-timeout", "4s"]).unwrap();
        assert_eq!(config.max_tokens_per_user, 7);
        assert_eq!(config.request_timeout, Duration::from_secs(4));
        assert!(config.insecure);
        assert_eq!(config.argon2_queue, 256);
        assert!(config.check().is_ok());
    }

    #[test]
    fn an_invalid_setting_is_named_with_its_value_and_what_is_allowed() {
        for (arguments, expected) in [
            (["--max-tokens-per-user", "0"], &["'0'", "--max-tokens-per-user", "1..=100000"][..]),
            (["--request-timeout", "1d"], &["'1d'", "--request-timeout", "from 100ms to 5m"]),
            (["--request-timeout", "soon"], &["'soon'", "not a duration such as"]),
            (["--token-prefix", "Pat"], &["'Pat'", "--token-prefix", "2 to 16 lower-case letters"]),
            (["--grpc-addr", "localhost"], &["'localhost'", "--grpc-addr"]),
            (["--log-format", "xml"], &["'xml'", "auto, text, json"]),
            (["--config", "/nowhere.toml"], &["LATCHKEY_CONFIG", "/nowhere.toml", "No such file"]),
        ] {
            let error = parse(&arguments).unwrap_err().to_string();
            assert!(expected.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[test]
    fn an_invalid_file_is_named_with_its_error() {
        for (text, expected) in [
            ("max_tokens_per_user = 0", &["'0'", "--max-tokens-per-user", "1..=100000"][..]),
            ("max_tokens = 5", &["\"max_tokens\" is no setting", "max_tokens_per_user"]),
            ("grpc_addr = [1]", &["\"grpc_addr\" must be a string"]),
            ("\n\ndatabase_url = postgres://u:hunter2@h/d", &["not valid TOML", "line 3"]),
        ] {
            let file = file(text);
            let error = parse(&["--config", file.path().to_str().unwrap()]).unwrap_err().to_string();
            assert!(expected.iter().all(|part| error.contains(part)), "{error}");
            assert!(error.contains(file.path().to_str().unwrap()), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        for url in ["mysql://u:hunter2@h/d", "postgres://u:hunter2@h:port/d", "hunter2"] {
            let config = parse(&["--database-url", url]).unwrap();
            assert!(!format!("{config:?}").contains("hunter2"));
            let error = config.database.url().err().unwrap().to_string();
            assert!(error.contains("LATCHKEY_DATABASE_URL") && error.contains("postgres://USER"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_lease_that_is_too_short_for_postgresql_is_refused() {
        let with = |url, staleness, poll| {
            let arguments = ["--database-url", url, "--max-staleness", staleness, "--revocation-poll", poll];
            parse(&arguments).unwrap().check()
        };
        let postgres = "postgres://u@h/d";
        assert!(with(postgres, "1s", "100ms").is_ok());
        assert!(with("sqlite://file.db", "0s", "1m").is_ok());
        for (staleness, poll) in [("999ms", "10ms"), ("0s", "100ms"), ("5s", "2s")] {
            let error = with(postgres, staleness, poll).unwrap_err().to_string();
            assert!(error.contains(staleness) && error.contains("at least 1s"), "{error}");
        }
    }

    #[test]
    fn an_address_that_is_not_loopback_needs_insecure() {
        assert!(parse(&["--http-addr", "0.0.0.0:1"]).unwrap().check().is_err());
        for (address, is_allowed) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
        ] {
            assert_eq!(parse(&["--grpc-addr", address]).unwrap().check().is_ok(), is_allowed, "{address}");
            assert!(parse(&["--grpc-addr", address, "--insecure"]).unwrap().check().is_ok());
        }
    }
}
