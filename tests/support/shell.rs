//! A shell, for lines that people paste and scripts contain.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::tools;

/// What the lines wrote.
pub struct Printed {
    pub stdout: String,
    pub stderr: String,
}

/// Runs the lines in a new folder, and returns their standard output.
///
/// # Panics
///
/// A line fails.
pub fn paste(lines: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    paste_in(folder.path(), lines, &[]).stdout
}

/// Runs the lines in `folder` with these environment variables and no others, and returns what they wrote.
///
/// # Panics
///
/// A line fails.
pub fn paste_in(folder: &Path, lines: &str, variables: &[(&str, &str)]) -> Printed {
    let mut shell = Command::new("sh");
    shell.args(["-ec", lines]).current_dir(folder).env_clear().env("PATH", path());
    let output = shell.envs(variables.iter().copied()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{lines}: {stderr}");
    Printed { stdout: String::from_utf8(output.stdout).unwrap(), stderr }
}

/// The binary under test comes first.
fn path() -> std::ffi::OsString {
    let ours = PathBuf::from(env!("CARGO_BIN_EXE_latchkey"));
    std::env::join_paths([ours.parent().unwrap().to_owned()].into_iter().chain(tools::folders())).unwrap()
}
