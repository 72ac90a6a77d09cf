//! The command line: `serve` (the default), `migrate`, `token`, `audit`, `callers`, `health` and `keys`.

mod audit;
mod callers;
mod command_line;
mod connection;
mod health;
mod keys;
mod migrate;
mod report;
mod serve;
mod signals;
mod token;

pub use self::command_line::main;
use self::report::Report;

/// Any error of a command, to be printed for a person.
type AnyError = Box<dyn std::error::Error>;
