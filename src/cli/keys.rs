//! `latchkey keys …`: creates a key ring and rotates its keys step by step.
//!
//! A service reads its key ring at start only. So restart every replica between two steps; then no replica ever meets a
//! tag whose key it lacks.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::{
    config,
    credentials::{KeyId, KeyRingFile, RotationError},
};

/// Options of `latchkey keys`.
#[derive(Args, Debug)]
pub struct KeysCommand {
    /// Key ring file. Default: keyring.toml in the data folder.
    #[arg(long, global = true, env = "LATCHKEY_KEY_RING", value_name = "FILE")]
    key_ring: Option<PathBuf>,

    /// Data folder of the service.
    #[arg(long, global = true, env = "LATCHKEY_DATA_DIR", value_name = "FOLDER", default_value = config::DATA_DIR)]
    data_dir: PathBuf,

    /// TOML file of the service.
    #[arg(long, global = true, env = "LATCHKEY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print a JSON object instead of key ids.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Create a key ring with a new key. Fails if the file exists.
    Create,
    /// List the ids of the keys.
    List,
    /// Start a rotation: add a new key that is not primary yet.
    Rotate,
    /// Make a key primary, so that new tags use it. Do this once every replica has the key.
    Promote {
        /// Id of the key, as `rotate` and `list` print it.
        #[arg(value_name = "KEY_ID", value_parser = key_id)]
        id: KeyId,
    },
    /// Remove a key that is not primary. A token whose tag still uses it is verified by argon2 once.
    Retire {
        /// Id of the key, as `list` prints it.
        #[arg(value_name = "KEY_ID", value_parser = key_id)]
        id: KeyId,
    },
}

/// Output of a command.
#[derive(Debug)]
pub struct KeysReport {
    /// For standard output: one key id per line, or JSON.
    pub text: String,
    /// For standard error: what was done and what to do next. Empty with `--json`.
    pub notes: String,
}

/// Why a key ring was not read or changed.
#[derive(Debug, thiserror::Error)]
#[error("--key-ring (LATCHKEY_KEY_RING): {} {error}", .file.display())]
pub struct KeysError {
    file: PathBuf,
    error: RotationError,
}

impl KeysCommand {
    /// Returns the TOML file that may hold the settings.
    pub fn config_file(&self) -> Option<PathBuf> {
        self.config.clone()
    }

    /// Reads or changes the key ring.
    ///
    /// # Errors
    ///
    /// The key ring cannot be read or changed. The file is then unchanged.
    pub fn run(self) -> Result<KeysReport, KeysError> {
        let is_default = self.key_ring.is_none() && self.data_dir == Path::new(config::DATA_DIR);
        let file = self.key_ring.unwrap_or_else(|| self.data_dir.join(config::KEY_RING));
        // The notes contain the next command, ready to paste, so it must name the same key ring.
        let option = if is_default { String::new() } else { format!(" --key-ring {}", shell_quoted(&file)) };
        let done =
            self.action.run(&file, &option).map_err(|error| KeysError { file: file.clone(), error })?;
        Ok(if self.json {
            KeysReport { text: done.json(&file), notes: String::new() }
        } else {
            KeysReport { text: done.ids(), notes: done.notes }
        })
    }
}

/// What a command did.
struct Done {
    ring: KeyRingFile,
    /// The key that was added, promoted or removed.
    key: Option<KeyId>,
    notes: String,
}

impl Done {
    fn ids(&self) -> String {
        let line = |id: &KeyId| format!("{}\n", id.as_str());
        self.key.as_ref().map_or_else(|| self.ring.ids().map(line).collect(), line)
    }

    fn json(&self, file: &Path) -> String {
        let keys: Vec<&str> = self.ring.ids().map(KeyId::as_str).collect();
        let mut report = json!({
            "keyRing": file.display().to_string(),
            "primary": self.ring.primary().as_str(),
            "keys": keys,
        });
        if let Some(key) = &self.key {
            report["key"] = key.as_str().into();
        }
        format!("{report:#}\n")
    }
}

impl Action {
    /// Applies the action to the key ring at `path`. `option` selects the same key ring in the printed commands.
    fn run(self, path: &Path, option: &str) -> Result<Done, RotationError> {
        let mut ring = match self {
            Self::Create => KeyRingFile::create(path)?,
            _ => KeyRingFile::open(path)?,
        };
        let before = ring.primary().clone();
        let (key, notes) = match self {
            Self::Create => (Some(before), created(path)),
            Self::List => (None, format!("the primary key is {}\n", before.as_str())),
            Self::Rotate => {
                let key = ring.add()?;
                let notes = rotated(&key, &before, path, option);
                (Some(key), notes)
            }
            Self::Promote { id } if id == before => {
                let notes = format!("key {} is primary already\n", id.as_str());
                (Some(id), notes)
            }
            Self::Promote { id } => {
                ring.promote(&id)?;
                let notes = promoted(&id, &before, path, option);
                (Some(id), notes)
            }
            Self::Retire { id } => {
                ring.retire(&id)?;
                let notes = retired(&id, path);
                (Some(id), notes)
            }
        };
        Ok(Done { ring, key, notes })
    }
}

fn created(ring: &Path) -> String {
    format!("{} was created with one key\nnext: copy the file to every replica\n", ring.display())
}

fn rotated(key: &KeyId, primary: &KeyId, ring: &Path, option: &str) -> String {
    let (key, primary) = (key.as_str(), primary.as_str());
    format!(
        "key {key} was added to {}; the primary key is still {primary}\n\
         next: copy the file to every replica, restart each, then: latchkey keys promote {key}{option}\n",
        ring.display()
    )
}

fn promoted(key: &KeyId, before: &KeyId, ring: &Path, option: &str) -> String {
    let (key, before) = (key.as_str(), before.as_str());
    format!(
        "key {key} is primary in {}; each token moves to it when it is next looked up\n\
         next: copy the file to every replica and restart each; then {before} may be removed, \
         now or later: latchkey keys retire {before}{option}\n",
        ring.display()
    )
}

fn retired(key: &KeyId, ring: &Path) -> String {
    format!(
        "key {} was removed from {}; a token that is still tagged under it is verified by argon2 once\n\
         next: copy the file to every replica and restart each\n",
        key.as_str(),
        ring.display()
    )
}

/// Returns the file's name, quoted for a shell if need be.
fn shell_quoted(file: &Path) -> String {
    let name = file.display().to_string();
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
    if name.chars().all(is_plain) { name } else { format!("'{}'", name.replace('\'', r"'\''")) }
}

fn key_id(text: &str) -> Result<KeyId, &'static str> {
    text.parse()
        .map_err(|()| "must be 1 to 32 characters of a-z, 0-9, '.', '_' and '-', a letter or digit first")
}
