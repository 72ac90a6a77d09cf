//! The command line.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use latchkey::{
    client::{Report, TokenCommand},
    clock::Clock,
    config::{self, Config, ConfigError, DatabaseConfig},
    health::HealthCommand,
    keys::KeysCommand,
    server::{Server, StartError},
    store::Store,
    telemetry::Telemetry,
};
use tokio::signal::unix::{SignalKind, signal};

/// Personal API tokens as a gRPC service.
///
/// Without a command it serves. Each setting is a flag, an environment variable or a line of a TOML file, in that
/// order of weight.
#[derive(Parser)]
#[command(name = "latchkey", version, args_conflicts_with_subcommands = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Config,
}

#[derive(Subcommand)]
enum Command {
    /// Serve (the default): bring the database up to date, then answer calls until SIGTERM or SIGINT.
    Serve(Box<Config>),
    /// Bring the database up to date and exit; several at once do no harm.
    Migrate(Migrate),
    /// Create, list, delete or validate tokens of a running service.
    Token(TokenCommand),
    /// Tell whether a running service serves: exit status 0 if it does, 1 if not.
    Health(HealthCommand),
    /// Make a key ring, and rotate its keys a step at a time.
    Keys(KeysCommand),
}

#[derive(Args)]
struct Migrate {
    #[command(flatten)]
    database: DatabaseConfig,
}

/// The command could not be done. 1 is kept for a secret that is not valid and a service that does not serve.
const FAILED: u8 = 2;

type AnyError = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let cli = match config::parse(std::env::args_os(), config_file) {
        Ok(cli) => cli,
        // Prints help and faults as is the custom, and exits.
        Err(ConfigError::Arguments(fault)) => fault.exit(),
        Err(fault) => return fail(&fault.into()),
    };
    let done = match cli.command {
        None => run(serve(cli.serve)),
        Some(Command::Serve(config)) => run(serve(*config)),
        Some(Command::Migrate(migrate)) => run(self::migrate(migrate.database)),
        Some(Command::Token(command)) => run(async { print(&command.run().await?) }),
        Some(Command::Health(command)) => run(async { print(&command.run().await) }),
        Some(Command::Keys(command)) => command.run().map_err(Into::into).and_then(|report| print(&report)),
    };
    done.unwrap_or_else(|fault| fail(&fault))
}

fn config_file(cli: &Cli) -> Option<std::path::PathBuf> {
    match &cli.command {
        None => cli.serve.database.config.clone(),
        Some(Command::Serve(config)) => config.database.config.clone(),
        Some(Command::Migrate(migrate)) => migrate.database.config.clone(),
        Some(Command::Health(command)) => command.config_file(),
        Some(Command::Keys(command)) => command.config_file(),
        Some(Command::Token(_)) => None,
    }
}

fn fail(fault: &AnyError) -> ExitCode {
    // Nothing is left to be done if standard error is closed.
    let _ = writeln!(io::stderr(), "latchkey: {fault}");
    ExitCode::from(FAILED)
}

fn run(work: impl Future<Output = Result<ExitCode, AnyError>>) -> Result<ExitCode, AnyError> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

async fn serve(config: Config) -> Result<ExitCode, AnyError> {
    let telemetry = Telemetry::init(&config.database.log, config.database.log_format, true)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let server = Server::start(&config, Clock::system()).await?;
    greet(server.grpc_addr(), server.http_addr());
    let stop = server.stopper();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: finishing the calls under way"),
            _ = interrupt.recv() => tracing::info!("SIGINT: finishing the calls under way"),
        }
        stop.cancel();
    });
    let ended = server.ended().await;
    telemetry.shut_down().await;
    ended?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Says where it listens and how to try it.
fn greet(grpc: SocketAddr, http: SocketAddr) {
    tracing::info!(%grpc, %http, "listening");
    // Nobody may be there to read it.
    let _ = write!(
        io::stdout(),
        "latchkey listens for gRPC on {grpc} and for HTTP on {http}\ntry: grpcurl -plaintext -d '{{\"user_id\":\"alice\",\"name\":\"first token\"}}' \
         {grpc} latchkey.v1.TokenService/CreateToken\n",
    );
    let _ = io::stdout().flush();
}

async fn migrate(config: DatabaseConfig) -> Result<ExitCode, AnyError> {
    Telemetry::init(&config.log, config.log_format, false)?;
    let url = config.url()?;
    let fault = |fault| StartError::Store { location: url.to_string(), fault };
    let store = Store::open(&url, config.pool_limits()).await.map_err(fault)?;
    store.prepare().await.map_err(fault)?;
    store.close().await?;
    tracing::info!("the database is up to date");
    Ok(ExitCode::SUCCESS)
}

fn print(report: &Report) -> Result<ExitCode, AnyError> {
    io::stdout().write_all(report.text.as_bytes())?;
    Ok(if report.good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
