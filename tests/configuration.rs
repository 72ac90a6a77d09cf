//! docs/configuration.md and latchkey.example.toml are generated from the settings. To regenerate them:
//! `UPDATE=1 scripts/test configuration`.

use std::{fmt::Write as _, fs, path::PathBuf};

use clap::{Arg, Args as _, Command, CommandFactory as _, Parser};
use latchkey::config::{self, Config};

/// `latchkey serve`, as far as its settings go.
#[derive(Debug, Parser)]
struct Serve {
    #[command(flatten)]
    config: Config,
}

/// A setting, as a reader needs it.
struct Setting {
    variable: String,
    flag: String,
    /// The key in the TOML file; the file cannot name itself.
    key: Option<String>,
    /// The value that a flag takes, in capitals; switches have none.
    placeholder: Option<String>,
    default: Option<String>,
    /// What the help says about a default that is not one fixed value.
    default_in_words: Option<String>,
    help: String,
}

fn settings() -> Vec<Setting> {
    let mut command = Serve::command();
    // Fills in the defaults of switches.
    command.build();
    command.get_arguments().filter(|argument| argument.get_env().is_some()).map(setting).collect()
}

fn setting(argument: &Arg) -> Setting {
    let key = argument.get_id().to_string();
    let text = argument.get_long_help().or_else(|| argument.get_help()).unwrap().to_string();
    let text = text.replace('\n', " ");
    let (text, default_in_words) = match text.split_once(" Default: ") {
        Some((text, default)) => (text.to_owned(), Some(default.trim_end_matches('.').to_owned())),
        None => (text, None),
    };
    let default = argument.get_default_values().first().map(|value| value.to_str().unwrap().to_owned());
    let takes_value = argument.get_action().takes_values();
    Setting {
        variable: argument.get_env().unwrap().to_str().unwrap().to_owned(),
        flag: format!("--{}", argument.get_long().unwrap()),
        key: (key != "config").then_some(key),
        placeholder: takes_value.then(|| argument.get_value_names().unwrap()[0].to_string()),
        default: default.or_else(|| (!takes_value).then(|| "false".to_owned())),
        default_in_words,
        help: format!("{}.{}", text.trim_end_matches('.'), choices(argument)),
    }
}

/// The values of a setting that has a fixed set of them.
fn choices(argument: &Arg) -> String {
    let choices: Vec<String> = argument
        .get_possible_values()
        .iter()
        // Those of a switch are parsed by the program's own parser.
        .filter(|_| argument.get_action().takes_values())
        .map(|choice| match choice.get_help() {
            Some(help) => format!("{} ({})", choice.get_name(), first_in_lower_case(&help.to_string())),
            None => choice.get_name().to_owned(),
        })
        .collect();
    if choices.is_empty() { String::new() } else { format!(" One of: {}.", choices.join("; ")) }
}

fn first_in_lower_case(text: &str) -> String {
    let mut letters = text.trim_end_matches('.').chars();
    // A name in capitals, such as JSON, stays.
    match (letters.next(), letters.clone().next()) {
        (Some(first), second) if second.is_none_or(|second| !second.is_uppercase()) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

fn table() -> String {
    let mut table = String::from("| variable | flag | TOML key | default | what it does |\n");
    table.push_str("| --- | --- | --- | --- | --- |\n");
    for setting in settings() {
        let default = match (&setting.default, &setting.default_in_words) {
            (Some(default), _) => format!("`{default}`"),
            (None, Some(words)) => words.clone(),
            (None, None) => "none".to_owned(),
        };
        let key = setting.key.map_or_else(String::new, |key| format!("`{key}`"));
        let help = setting.help.replace('|', "\\|");
        writeln!(table, "| `{}` | `{}` | {key} | {default} | {help} |", setting.variable, setting.flag)
            .unwrap();
    }
    table
}

const HEADER: &str = "\
# The settings of `latchkey serve`, for `latchkey serve --config latchkey.toml`. Each line shows the default; a word in
# capitals stands for a value where there is none. Flags and environment variables take precedence over this file.
# Generated from the code: UPDATE=1 scripts/test configuration
";

const WIDTH: usize = 120;

fn example() -> String {
    let mut example = HEADER.to_owned();
    for setting in settings() {
        let Some(key) = setting.key else { continue };
        let words = setting.default_in_words.map(|words| format!(" Default: {words}."));
        let help = setting.help + &words.unwrap_or_default();
        let value = setting.default.or(setting.placeholder).unwrap();
        let is_bare = value.parse::<u64>().is_ok() || value.parse::<bool>().is_ok();
        let value = if is_bare { value } else { format!("{value:?}") };
        write!(example, "\n{}# {key} = {value}\n", comment(&help)).unwrap();
    }
    example
}

/// The text as lines that begin with `##`, which tells them from settings.
fn comment(text: &str) -> String {
    let mut lines = vec!["##".to_owned()];
    for word in text.split_whitespace() {
        if lines.last().unwrap().len() + 1 + word.len() > WIDTH {
            lines.push("##".to_owned());
        }
        let line = lines.last_mut().unwrap();
        line.push(' ');
        line.push_str(word);
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Compares a generated file with what it should be, or writes it if `UPDATE` is set.
fn check(name: &str, wanted: &str) {
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path(name), wanted).unwrap();
    }
    let found = fs::read_to_string(path(name)).unwrap_or_default();
    assert!(found == wanted, "{name} is out of date; regenerate it: UPDATE=1 scripts/test configuration");
}

#[test]
fn the_table_of_settings_is_up_to_date() {
    let name = "docs/configuration.md";
    let found = fs::read_to_string(path(name)).unwrap();
    let (before, rest) = found.split_once("scripts/test configuration -->\n").unwrap();
    let (_, after) = rest.split_once("\n## ").unwrap();
    check(name, &format!("{before}scripts/test configuration -->\n\n{}\n## {after}", table()));
}

#[test]
fn the_example_file_is_up_to_date() {
    check("latchkey.example.toml", &example());
}

#[test]
fn the_example_file_with_its_defaults_uncommented_changes_nothing() {
    let has_default: Vec<String> = settings()
        .into_iter()
        .filter(|setting| setting.default.is_some())
        .filter_map(|setting| Some(format!("{} = ", setting.key?)))
        .collect();
    let lines: Vec<String> = example()
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| has_default.iter().any(|start| line.starts_with(start)))
        .map(str::to_owned)
        .collect();
    assert_eq!(lines.len(), has_default.len(), "{lines:?}");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), lines.join("\n")).unwrap();
    let from_file = config::parse(["serve"], |_: &Serve| Some(file.path().to_owned())).unwrap();
    let defaults = config::parse(["serve"], |_: &Serve| None).unwrap();
    assert_eq!(format!("{from_file:?}"), format!("{defaults:?}"));
}

#[test]
fn every_setting_has_a_variable_and_a_help() {
    for argument in Config::augment_args(Command::new("serve")).get_arguments() {
        assert!(argument.get_env().is_some(), "{}", argument.get_id());
        assert!(argument.get_help().is_some(), "{}", argument.get_id());
    }
}
