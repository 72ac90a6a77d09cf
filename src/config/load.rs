//! Reads the settings: the command line and the environment with clap, then the TOML file.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use clap::{
    Args as _, Command, Parser,
    builder::StyledStr,
    error::{ContextKind, ContextValue},
};

use super::{Config, ConfigError, environment};

/// Parses a command line. Settings may also come from a TOML file; `file` returns its name from the parsed command
/// line.
///
/// # Errors
///
/// See [`ConfigError`].
pub fn parse<C: Parser, T: Into<OsString> + Clone>(
    arguments: impl IntoIterator<Item = T>,
    file: impl FnOnce(&C) -> Option<PathBuf>,
) -> Result<C, ConfigError> {
    let arguments: Vec<T> = arguments.into_iter().collect();
    let parsed =
        C::try_parse_from(arguments.iter().cloned()).map_err(|error| name_variable(error, &C::command()))?;
    let Some(file) = file(&parsed) else {
        return Ok(parsed);
    };
    // The arguments alone are valid, so any error from here on comes from the file.
    let command = with_defaults(C::command(), &read_file(&file)?);
    command
        .try_get_matches_from(arguments)
        .and_then(|matches| C::from_arg_matches(&matches))
        .map_err(|error| ConfigError::FileValue { file, error })
}

/// Returns the keys and values of the file. Every key is the name of a setting.
fn read_file(file: &Path) -> Result<Vec<(String, String)>, ConfigError> {
    let text =
        fs::read_to_string(file).map_err(|error| ConfigError::FileRead { file: file.to_owned(), error })?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        // Only the line: the message may quote a password.
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
        ConfigError::FileForm { file: file.to_owned(), line }
    })?;
    let known = Config::augment_args(Command::new("serve"));
    let known: Vec<&str> =
        known.get_arguments().map(|setting| setting.get_id().as_str()).filter(|id| *id != "config").collect();
    let setting = |(key, value): (String, toml::Value)| {
        if !known.contains(&key.as_str()) {
            let hint = environment::nearest(&key, known.iter().copied());
            let hint = hint.map_or_else(String::new, |name| format!("; did you mean {name:?}?"));
            return Err(ConfigError::FileKey { file: file.to_owned(), key, hint, known: known.join(", ") });
        }
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => value.to_string(),
            _ => return Err(ConfigError::FileType { file: file.to_owned(), key }),
        };
        Ok((key, value))
    };
    table.into_iter().map(setting).collect()
}

/// Replaces the defaults of a command and its subcommands.
fn with_defaults(mut command: Command, defaults: &[(String, String)]) -> Command {
    for (key, value) in defaults {
        if command.get_arguments().any(|setting| setting.get_id() == key.as_str()) {
            command = command.mut_arg(key, |setting| setting.default_value(value.clone()));
        }
    }
    command.mut_subcommands(|inner| with_defaults(inner, defaults))
}

/// Adds the name of the variable that an invalid value comes from, since clap names only the flag.
fn name_variable(mut error: clap::Error, command: &Command) -> clap::Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    // "--flag <VALUE>"
    let flag =
        text(ContextKind::InvalidArg).and_then(|argument| argument.split(' ').next()?.strip_prefix("--"));
    let value = text(ContextKind::InvalidValue);
    let variable = flag.zip(value).and_then(|(flag, value)| {
        let set = |name: &&String| env::var(name).is_ok_and(|set| set == value);
        environment::variables(command).find(|(long, name)| long == flag && set(&name)).map(|(_, name)| name)
    });
    if let Some(variable) = variable {
        let tip = StyledStr::from(format!("the value comes from the variable {variable}"));
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}
