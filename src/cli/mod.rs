//! The command line: `serve` (the default), `migrate`, `token`, `health` and `keys`.

mod command_line;
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
