//! `latchkey callers …`: what the callers file needs.

use std::{
    io::{self, Read as _},
    path::PathBuf,
};

use clap::{Args, Subcommand};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::Report;
use crate::caller::{Callers, CallersError, ShortSecret, generate_secret, hash_secret, table};

/// Options of `latchkey callers`.
#[derive(Args, Debug)]
pub struct CallersCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Print the hash of a shared secret from standard input, for `secret_hashes` in the callers file.
    Hash {
        /// Generate the secret instead, and print it before its hash.
        #[arg(long)]
        generate: bool,
    },
    /// Check a callers file.
    Check {
        /// The file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print in Markdown which roles may use which RPCs and routes.
    Policy,
}

/// Why a command failed.
#[allow(missing_docs)]
#[derive(Debug, thiserror::Error)]
pub enum CallersCommandError {
    #[error("cannot read a secret from standard input: {0}")]
    Input(io::Error),
    #[error(transparent)]
    Short(#[from] ShortSecret),
    #[error("the operating system gave no randomness")]
    Randomness,
    #[error("{}: {error}", .file.display())]
    File { file: PathBuf, error: CallersError },
}

/// How much of standard input is read, in bytes.
const MAX_INPUT: u64 = 4 * 1024;

impl CallersCommand {
    /// Runs the command and returns its output.
    ///
    /// # Errors
    ///
    /// See [`CallersCommandError`].
    pub fn run(self) -> Result<Report, CallersCommandError> {
        let text = match self.action {
            Action::Hash { generate: true } => {
                let secret = generate_secret().ok_or(CallersCommandError::Randomness)?;
                format!("secret: {}\nhash: {}\n", secret.expose_secret(), hash_secret(&secret)?)
            }
            Action::Hash { generate: false } => {
                let secret = read_secret(io::stdin()).map_err(CallersCommandError::Input)?;
                format!("{}\n", hash_secret(&secret)?)
            }
            Action::Check { file } => {
                // Whether client certificates are verified is up to the settings of the service.
                Callers::open(&file, true).map_err(|error| CallersCommandError::File { file, error })?;
                "the callers file is valid\n".to_owned()
            }
            Action::Policy => table(),
        };
        Ok(Report { text, success: true })
    }
}

/// Reads a secret, without surrounding white space.
fn read_secret(input: impl io::Read) -> io::Result<SecretString> {
    let mut text = Zeroizing::new(String::new());
    input.take(MAX_INPUT).read_to_string(&mut text)?;
    Ok(SecretString::from(text.trim()))
}
