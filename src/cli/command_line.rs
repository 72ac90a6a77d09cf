//! The command line: its commands, and how one is run.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::mpsc,
    thread,
    time::Duration,
};

use clap::{CommandFactory as _, Parser, Subcommand};

use super::{
    AnyError, Report,
    health::HealthCommand,
    keys::KeysCommand,
    migrate::{self, MigrateCommand},
    serve,
    token::TokenCommand,
};
use crate::{
    config::{self, Config, ConfigError},
    telemetry,
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
    Migrate(MigrateCommand),
    /// Create, list, delete or validate tokens of a running service.
    Token(TokenCommand),
    /// Tell whether a running service serves: exit status 0 if it does, 1 if not.
    Health(HealthCommand),
    /// Make a key ring, and rotate its keys a step at a time.
    Keys(KeysCommand),
}

/// How long the last lines may take on their way out.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The command could not be done. 1 is kept for a secret that is not valid and a service that does not serve.
const FAILED: u8 = 2;

/// Runs the program; the exit status is 0, 1 for a secret that is not valid or a service that does not serve, or 2.
pub fn main() -> ExitCode {
    let cli = config::parse(std::env::args_os(), config_file);
    let cli = match cli.and_then(|cli| config::check_environment(&Cli::command()).map(|()| cli)) {
        Ok(cli) => cli,
        // Prints help and faults as is the custom, and exits.
        Err(ConfigError::Arguments(error)) => error.exit(),
        Err(error) => return fail(&error.into()),
    };
    let done = match cli.command {
        None => run(serve::serve(cli.serve)),
        Some(Command::Serve(config)) => run(serve::serve(*config)),
        Some(Command::Migrate(migrate)) => run(migrate::migrate(migrate.database)),
        Some(Command::Token(command)) => run(async { print(&command.run().await?) }),
        Some(Command::Health(command)) => run(async { print(&command.run().await) }),
        Some(Command::Keys(command)) => keys(command),
    };
    done.unwrap_or_else(|error| fail(&error))
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

fn fail(error: &AnyError) -> ExitCode {
    let text = format!("latchkey: {error}\n");
    let (done, written) = mpsc::sync_channel(1);
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
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}
