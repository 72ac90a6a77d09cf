//! The command line.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    pin::pin,
    process::ExitCode,
    sync::mpsc,
    thread,
    time::Duration,
};

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use latchkey::{
    client::{Report, TokenCommand},
    clock::Clock,
    config::{self, Config, ConfigError, DatabaseConfig},
    health::HealthCommand,
    keys::KeysCommand,
    server::{Server, StartError},
    signals::StopSignals,
    store::Store,
    telemetry::{self, Telemetry},
};

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

/// How long the last lines may take on their way out.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The command could not be done. 1 is kept for a secret that is not valid and a service that does not serve.
const FAILED: u8 = 2;

type AnyError = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let cli = config::parse(std::env::args_os(), config_file);
    let cli = match cli.and_then(|cli| config::check_environment(&Cli::command()).map(|()| cli)) {
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
        Some(Command::Keys(command)) => keys(command),
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
    let text = format!("latchkey: {fault}\n");
    let (done, written) = mpsc::channel();
    thread::spawn(move || {
        // Nothing is left to be done if standard error is closed.
        let _ = io::stderr().write_all(text.as_bytes());
        let _ = done.send(());
    });
    // Not for ever: standard error may be a pipe that nobody reads.
    let _ = written.recv_timeout(LAST_LINES);
    ExitCode::from(FAILED)
}

fn run(work: impl Future<Output = Result<ExitCode, AnyError>>) -> Result<ExitCode, AnyError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    // What still runs is not needed any more, and may block: the resolution of a host name, for instance.
    runtime.shutdown_background();
    telemetry::flush_log(LAST_LINES);
    done
}

/// Serves until a signal. A second one ends the process at once, whatever it is doing.
async fn serve(config: Config) -> Result<ExitCode, AnyError> {
    let telemetry = Telemetry::init(&config.database.log, config.database.log_format, true)?;
    let mut signals = StopSignals::listen()?;
    let server = tokio::select! {
        server = Server::start(&config, Clock::system()) => server?,
        signal = signals.next() => {
            tracing::info!("{signal} received: stopped before it served");
            return Ok(ExitCode::SUCCESS);
        }
    };
    greet(server.grpc_addr(), server.http_addr());
    let stop = server.stopper();
    let mut ended = pin!(async {
        let ended = server.ended().await;
        telemetry.shut_down().await;
        ended
    });
    tokio::select! {
        ended = &mut ended => ended?,
        signal = signals.next() => {
            tracing::info!("{signal} received: finishing calls in flight; a second signal stops at once");
            stop.cancel();
            tokio::select! {
                ended = &mut ended => ended?,
                signal = signals.next() => {
                    tracing::warn!("{signal} received: stopped at once, calls in flight were cut off");
                    return Ok(ExitCode::from(signal.exit_status()));
                }
            }
        }
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Says where it listens and how to try it.
fn greet(grpc: SocketAddr, http: SocketAddr) {
    tracing::info!(%grpc, %http, "listening");
    let text = format!(
        "latchkey listens for gRPC on {grpc} and for HTTP on {http}\ntry: grpcurl -plaintext -d '{{\"user_id\":\"alice\",\"name\":\"first token\"}}' \
         {grpc} latchkey.v1.TokenService/CreateToken\n",
    );
    // On a thread of its own, since nobody may be there to read it.
    thread::spawn(move || {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    });
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
    print_text(&report.text)?;
    Ok(if report.good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn keys(command: KeysCommand) -> Result<ExitCode, AnyError> {
    let report = command.run()?;
    print_text(&report.text)?;
    // The change is made and its id printed: an error stream that is closed changes nothing.
    let _ = io::stderr().write_all(report.notes.as_bytes());
    Ok(ExitCode::SUCCESS)
}

fn print_text(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // The reader has read enough: `latchkey token list … | head -1`.
        Err(fault) if fault.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}
