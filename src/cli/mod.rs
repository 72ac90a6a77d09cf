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

/// Any reason why a command could not be done, for a person to read.
type AnyError = Box<dyn std::error::Error>;
