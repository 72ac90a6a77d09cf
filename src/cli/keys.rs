//! `latchkey keys …`: makes a key ring, and rotates its keys a step at a time, so that no replica meets a tag whose key it lacks.
//!
//! A service reads its ring when it starts. So between two steps every replica is restarted.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::{
    config,
    credentials::{KeyId, KeyRingFile, RotationError},
};

/// What to do, and with which ring.
#[derive(Args, Debug)]
pub struct KeysCommand {
    /// The ring's file. Default: keyring.toml in the data folder.
    #[arg(long, global = true, env = "LATCHKEY_KEY_RING", value_name = "FILE")]
    key_ring: Option<PathBuf>,

    /// The service's data folder.
    #[arg(long, global = true, env = "LATCHKEY_DATA_DIR", value_name = "FOLDER", default_value = config::DATA_DIR)]
    data_dir: PathBuf,

    /// The service's TOML file.
    #[arg(long, global = true, env = "LATCHKEY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print a JSON object instead of the ids of keys.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Make a ring with a fresh key, where there is none.
    Create,
    /// List the ids of the keys.
    List,
    /// Begin a rotation: add a fresh key, which is not primary yet.
    Rotate,
    /// Make a key primary, once every replica has it: new tags are made under it.
    Promote {
        /// The key's id, as `rotate` and `list` show it.
        #[arg(value_name = "KEY_ID", value_parser = key_id)]
        id: KeyId,
    },
    /// Drop a key that is not primary. A token that is still tagged under it is proven by argon2, once.
    Retire {
        /// The key's id, as `list` shows it.
        #[arg(value_name = "KEY_ID", value_parser = key_id)]
        id: KeyId,
    },
}

/// The output of a command.
#[derive(Debug)]
pub struct KeysReport {
    /// For standard output: ids of keys, one a line; or JSON.
    pub text: String,
    /// For standard error: what was done and what comes next, in words. Empty with `--json`.
    pub notes: String,
}

/// Why a ring was not changed.
#[derive(Debug, thiserror::Error)]
#[error("--key-ring (LATCHKEY_KEY_RING): {} {error}", .file.display())]
pub struct KeysError {
    file: PathBuf,
    error: RotationError,
}

impl KeysCommand {
    /// The file that may hold the settings.
    pub fn config_file(&self) -> Option<PathBuf> {
        self.config.clone()
    }

    /// Reads or changes the ring.
    ///
    /// # Errors
    ///
    /// The ring cannot be read or changed; then it is as it was.
    pub fn run(self) -> Result<KeysReport, KeysError> {
        let is_default = self.key_ring.is_none() && self.data_dir == Path::new(config::DATA_DIR);
        let file = self.key_ring.unwrap_or_else(|| self.data_dir.join(config::KEY_RING));
        // The next command is there to be pasted, so it has to name the same ring.
        let which = if is_default { String::new() } else { format!(" --key-ring {}", for_a_shell(&file)) };
        let done = self.action.run(&file, &which).map_err(|error| KeysError { file: file.clone(), error })?;
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
    /// The key that was made, promoted or removed.
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
    /// Applies the action to the ring at `path`, which `which` names in the commands that are shown.
    fn run(self, path: &Path, which: &str) -> Result<Done, RotationError> {
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
                let notes = rotated(&key, &before, path, which);
                (Some(key), notes)
            }
            Self::Promote { id } if id == before => {
                let notes = format!("key {} is primary already\n", id.as_str());
                (Some(id), notes)
            }
            Self::Promote { id } => {
                ring.promote(&id)?;
                let notes = promoted(&id, &before, path, which);
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
    format!("{} was created with one key\nnext: give the file to every replica\n", ring.display())
}

fn rotated(key: &KeyId, primary: &KeyId, ring: &Path, which: &str) -> String {
    let (key, primary) = (key.as_str(), primary.as_str());
    format!(
        "key {key} was added to {}; the primary key is still {primary}\n\
         next: give the file to every replica, restart each, then: latchkey keys promote {key}{which}\n",
        ring.display()
    )
}

fn promoted(key: &KeyId, before: &KeyId, ring: &Path, which: &str) -> String {
    let (key, before) = (key.as_str(), before.as_str());
    format!(
        "key {key} is primary in {}; each token moves to it when it is next looked up\n\
         next: give the file to every replica and restart each; then {before} may be removed, \
         now or later: latchkey keys retire {before}{which}\n",
        ring.display()
    )
}

fn retired(key: &KeyId, ring: &Path) -> String {
    format!(
        "key {} was removed from {}; a token that is still tagged under it is verified by argon2 once\n\
         next: give the file to every replica and restart each\n",
        key.as_str(),
        ring.display()
    )
}

/// A file's name as a shell takes it.
fn for_a_shell(file: &Path) -> String {
    let name = file.display().to_string();
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
    if name.chars().all(is_plain) { name } else { format!("'{}'", name.replace('\'', r"'\''")) }
}

fn key_id(text: &str) -> Result<KeyId, &'static str> {
    text.parse()
        .map_err(|()| "must be 1 to 32 characters of a-z, 0-9, '.', '_' and '-', a letter or digit first")
}
