//! The chart, rendered by helm.

use std::{
    collections::BTreeMap,
    process::{Command, Output},
};

use serde_json::Value;

use super::tools;

pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/helm/latchkey");
const FULL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/helm/latchkey/ci/full-values.yaml");

/// The arguments for the two sets of values with which everything is checked.
pub const DEFAULT_AND_FULL: [&[&str]; 2] = [&[], &["--values", FULL]];
/// The arguments for the set in which every value is given.
pub const WITH_FULL: &[&str] = DEFAULT_AND_FULL[1];

/// The result of a program.
pub struct Said {
    pub succeeded: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// The standard output.
    ///
    /// # Panics
    ///
    /// The program failed.
    pub fn good(self) -> String {
        assert!(self.succeeded, "{}{}", self.stdout, self.stderr);
        self.stdout
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            succeeded: output.status.success(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs a program.
pub fn run(program: &str, how_to_install: &str, arguments: &[&str]) -> Said {
    Command::new(tools::find(program, how_to_install)).args(arguments).output().unwrap().into()
}

/// Runs helm.
pub fn helm(arguments: &[&str]) -> Said {
    run("helm", "install it and put it into PATH", arguments)
}

/// Renders the chart with these further arguments.
pub fn template(arguments: &[&str]) -> Said {
    helm(&[&["template", "latchkey", CHART, "--namespace", "prod"][..], arguments].concat())
}

/// The objects that the chart contains with these further arguments.
pub fn objects(arguments: &[&str]) -> Vec<Value> {
    serde_saphyr::from_multiple(&template(arguments).good()).unwrap()
}

/// The only object of this kind.
pub fn the<'a>(kind: &str, objects: &'a [Value]) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let object = found.next().unwrap_or_else(|| panic!("there is no {kind}"));
    assert!(found.next().is_none(), "there is more than one {kind}");
    object
}

/// The environment variables of the serving container, by name.
pub fn variables(objects: &[Value]) -> BTreeMap<String, Value> {
    let containers = &the("Deployment", objects)["spec"]["template"]["spec"]["containers"];
    let variables = containers[0]["env"].as_array().unwrap();
    variables.iter().map(|one| (one["name"].as_str().unwrap().to_owned(), one.clone())).collect()
}

/// A file of the chart.
pub fn read(file: &str) -> String {
    std::fs::read_to_string(format!("{CHART}/{file}")).unwrap()
}

/// A file of the chart in YAML.
pub fn read_yaml(file: &str) -> Value {
    serde_saphyr::from_str(&read(file)).unwrap()
}

/// A file of the chart in JSON.
pub fn read_json(file: &str) -> Value {
    serde_json::from_str(&read(file)).unwrap()
}
