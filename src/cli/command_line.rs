//! Parses the command line and runs its command.

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
    audit::AuditCommand,
    callers::CallersCommand,
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
/// Without a command it serves. Each setting is a flag, an environment variable or a line of a TOML file; a flag wins
/// over a variable, and a variable over the file.
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
    /// Migrate the database, then serve until SIGTERM or SIGINT (the default command).
    Serve(Box<Config>),
    /// Migrate the database and exit. Safe to run several times at once.
    Migrate(MigrateCommand),
    /// Create, list, delete or validate tokens of a running service.
    Token(TokenCommand),
    /// Print the audit log of a running service.
    Audit(AuditCommand),
    /// Prepare and check the callers file.
    Callers(CallersCommand),
    /// Check whether a service is serving: exit status 0 if it is, 1 if it is not.
    Health(HealthCommand),
    /// Create a key ring and rotate its keys.
    Keys(KeysCommand),
}

/// How long to wait for the last lines to be written before the process exits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Exit status of a command that failed. 1 means that a token is not valid or a service is not serving.
const FAILED: u8 = 2;

/// Runs the program and returns its exit status: 0; 1 for a token that is not valid or a service that is not serving;
/// or 2 for an error.
pub fn main() -> ExitCode {
    let cli = config::parse(std::env::args_os(), config_file);
    let cli = match cli.and_then(|cli| config::check_environment(&Cli::command()).map(|()| cli)) {
        Ok(cli) => cli,
        // Prints help or the error as clap does, and exits.
        Err(ConfigError::Arguments(error)) => error.exit(),
        Err(error) => return fail(&error.into()),
    };
    let done = match cli.command {
        None => run(serve::serve(cli.serve)),
        Some(Command::Serve(config)) => run(serve::serve(*config)),
        Some(Command::Migrate(migrate)) => run(migrate::migrate(migrate.database)),
        Some(Command::Token(command)) => run(async { print(&command.run().await?) }),
        Some(Command::Audit(command)) => run(async { print(&command.run().await?) }),
        Some(Command::Callers(command)) => {
            command.run().map_err(Into::into).and_then(|report| print(&report))
        }
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
        Some(Command::Token(_) | Command::Audit(_) | Command::Callers(_)) => None,
    }
}

fn fail(error: &AnyError) -> ExitCode {
    let text = format!("latchkey: {error}\n");
    let (done, written) = mpsc::sync_channel(1);
    thread::spawn(move || {
        // If standard error is closed, there is nothing else to report to.
        let _ = io::stderr().write_all(text.as_bytes());
        let _ = done.send(());
    });
    // Bounded, because standard error may be a pipe that nobody reads.
    let _ = written.recv_timeout(FLUSH_TIMEOUT);
    ExitCode::from(FAILED)
}

fn run(work: impl Future<Output = Result<ExitCode, AnyError>>) -> Result<ExitCode, AnyError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    // Does not wait for tasks that still run, because they may block, for instance while resolving a host name.
    runtime.shutdown_background();
    telemetry::flush_log(FLUSH_TIMEOUT);
    done
}

fn print(report: &Report) -> Result<ExitCode, AnyError> {
    print_text(&report.text)?;
    Ok(if report.success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn keys(command: KeysCommand) -> Result<ExitCode, AnyError> {
    let report = command.run()?;
    print_text(&report.text)?;
    // The command has succeeded, even if standard error is closed.
    let _ = io::stderr().write_all(report.notes.as_bytes());
    Ok(ExitCode::SUCCESS)
}

fn print_text(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Not an error: the reader has read enough, as in `latchkey token list … | head -1`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}
