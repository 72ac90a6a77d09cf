//! `latchkey keys …`: makes a key ring, and rotates its keys a step at a time, so that no replica meets a tag whose key it lacks.
//!
//! A service reads its ring when it starts. So between two steps every replica is restarted.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};

use crate::{
    client::Report,
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

/// Why a ring was not changed.
#[derive(Debug, thiserror::Error)]
#[error("--key-ring (LATCHKEY_KEY_RING): {} {fault}", .file.display())]
pub struct KeysError {
    file: PathBuf,
    fault: RotationError,
}

impl KeysCommand {
    /// The file that may hold the settings.
    pub fn config_file(&self) -> Option<PathBuf> {
        self.config.clone()
    }

    /// Does it, and tells what comes next.
    ///
    /// # Errors
    ///
    /// The ring cannot be read or changed; then it is as it was.
    pub fn run(self) -> Result<Report, KeysError> {
        let is_default = self.key_ring.is_none() && self.data_dir == Path::new(config::DATA_DIR);
        let file = self.key_ring.unwrap_or_else(|| self.data_dir.join(config::KEY_RING));
        // What comes next is there to be pasted, and has to be about the same ring.
        let which = if is_default { String::new() } else { format!(" --key-ring {}", for_a_shell(&file)) };
        let text = self.action.run(&file, &which).map_err(|fault| KeysError { file, fault })?;
        Ok(Report { text, good: true })
    }
}

impl Action {
    /// Does it to the ring at `path`, which `which` names in the commands that are shown.
    fn run(self, path: &Path, which: &str) -> Result<String, RotationError> {
        let mut ring = match self {
            Self::Create => KeyRingFile::create(path)?,
            _ => KeyRingFile::open(path)?,
        };
        let before = ring.primary().as_str().to_owned();
        let file = path.display();
        Ok(match self {
            Self::Create => {
                format!("{file} was made, with the key {before}\nnext: give it to every replica\n")
            }
            Self::List => {
                let mut text = String::new();
                for id in ring.ids() {
                    let note = if id == ring.primary() { "  primary" } else { "" };
                    // Writing to a text does not fail.
                    let _ = writeln!(text, "{}{note}", id.as_str());
                }
                text
            }
            Self::Rotate => {
                let id = ring.add()?;
                let id = id.as_str();
                format!(
                    "key {id} was added to {file}; the primary key is still {before}\n\
                     next: give the file to every replica, restart each, then: latchkey keys promote {id}{which}\n"
                )
            }
            Self::Promote { id } if id == *ring.primary() => format!("key {before} is primary already\n"),
            Self::Promote { id } => {
                ring.promote(&id)?;
                let id = id.as_str();
                format!(
                    "key {id} is primary in {file}; each token moves to it when it is next looked up\n\
                     next: give the file to every replica and restart each; then {before} may go, \
                     now or later: latchkey keys retire {before}{which}\n"
                )
            }
            Self::Retire { id } => {
                ring.retire(&id)?;
                format!(
                    "key {} is gone from {file}; a token that is still tagged under it is proven by argon2, once\n\
                     next: give the file to every replica and restart each\n",
                    id.as_str()
                )
            }
        })
    }
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
