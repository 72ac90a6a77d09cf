//! Refuses `LATCHKEY_…` variables that are not settings. Without this check a mistyped name would be ignored silently.

use std::{env, ffi::OsStr};

use clap::Command;

use super::ConfigError;

const PREFIX: &str = "LATCHKEY_";
/// Read by the build, so it may still be set when the program runs.
const BUILD_VARIABLE: &str = "LATCHKEY_REVISION";

/// Checks that every `LATCHKEY_…` variable is one that `command` or one of its subcommands reads.
///
/// # Errors
///
/// [`ConfigError::Variable`].
pub fn check_environment(command: &Command) -> Result<(), ConfigError> {
    let known: Vec<String> = variables(command).map(|(_, name)| name).collect();
    let mut unknown: Vec<String> = env::vars_os()
        .filter(|(name, value)| is_unknown(name, value, &known))
        .map(|(name, _)| name.to_string_lossy().into_owned())
        .collect();
    // The environment is unordered. Sorted, so that the same environment causes the same error.
    unknown.sort_unstable();
    match unknown.into_iter().next() {
        Some(name) => Err(ConfigError::Variable { hint: hint(&name, &known), name }),
        None => Ok(()),
    }
}

/// Returns the flags and variables of a command and its subcommands.
pub(super) fn variables(command: &Command) -> Box<dyn Iterator<Item = (String, String)> + '_> {
    let own = command.get_arguments().filter_map(|argument| {
        let variable = argument.get_env()?.to_str()?.to_owned();
        Some((argument.get_long()?.to_owned(), variable))
    });
    Box::new(own.chain(command.get_subcommands().flat_map(variables)))
}

fn is_unknown(name: &OsStr, value: &OsStr, known: &[String]) -> bool {
    let name = name.to_string_lossy();
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    name != BUILD_VARIABLE
        && !known.iter().any(|variable| *variable == name)
        && !is_service_link(rest, &value.to_string_lossy())
}

/// Returns whether Kubernetes set the variable for a Service called `latchkey` or `latchkey-…` in the pod's namespace.
/// See `enableServiceLinks` in the pod API; the names are those of Docker's container links.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_number = |word: &str| word.parse::<u16>().is_ok();
    // The rest of the Service's name may come first: POSTGRES_SERVICE_HOST.
    match name.split('_').collect::<Vec<_>>().as_slice() {
        [.., "SERVICE", "HOST" | "PORT"] => true,
        [.., "PORT", number, "TCP" | "UDP" | "SCTP"] => is_number(number),
        [.., "PORT", number, "TCP" | "UDP" | "SCTP", "PROTO" | "PORT" | "ADDR"] => is_number(number),
        // Its value distinguishes it from a mistyped setting such as LATCHKEY_GRPC_PORT=50051.
        [.., "PORT"] => ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme)),
        // The name of the port may follow.
        words => words.windows(2).any(|pair| pair == ["SERVICE", "PORT"]),
    }
}

fn hint(name: &str, known: &[String]) -> String {
    // Compared without the common prefix, which would make any two names similar.
    let rest = |name: &'_ str| name.strip_prefix(PREFIX).map(str::to_owned).unwrap_or_default();
    let known: Vec<String> = known.iter().map(|name| rest(name)).collect();
    nearest(&rest(name), known.iter().map(String::as_str))
        .map_or_else(String::new, |name| format!("; did you mean {PREFIX}{name}?"))
}

/// Returns the known name that is most similar to `name`, if it is similar enough to be meant.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let similarities = known.map(|other| (strsim::jaro_winkler(name, other), other));
    let (similarity, other) = similarities.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (similarity > MIN_SIMILARITY).then_some(other)
}

/// Between 0 (nothing in common) and 1 (equal).
const MIN_SIMILARITY: f64 = 0.8;

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(name: &str, value: &str) -> bool {
        is_unknown(name.as_ref(), value.as_ref(), &["LATCHKEY_GRPC_ADDR".to_owned()])
    }

    #[test]
    fn settings_and_variables_of_other_programs_are_accepted() {
        for name in ["LATCHKEY_GRPC_ADDR", "LATCHKEY_REVISION", "PATH", "latchkey_grpc", "LATCHKEY"] {
            assert!(!unknown(name, "x"), "{name}");
        }
        for name in ["LATCHKEY_GRPC_ADR", "LATCHKEY_", "LATCHKEY_grpc_addr"] {
            assert!(unknown(name, "x"), "{name}");
        }
    }

    #[test]
    fn service_links_of_kubernetes_are_accepted() {
        for (name, value) in [
            ("LATCHKEY_SERVICE_HOST", "10.0.0.7"),
            ("LATCHKEY_SERVICE_PORT", "50051"),
            ("LATCHKEY_SERVICE_PORT_GRPC", "50051"),
            ("LATCHKEY_PORT", "tcp://10.0.0.7:50051"),
            ("LATCHKEY_PORT_50051_TCP", "tcp://10.0.0.7:50051"),
            ("LATCHKEY_PORT_50051_TCP_PROTO", "tcp"),
            ("LATCHKEY_PORT_50051_TCP_PORT", "50051"),
            ("LATCHKEY_PORT_50051_TCP_ADDR", "10.0.0.7"),
            ("LATCHKEY_PORT_53_UDP", "udp://10.0.0.7:53"),
            ("LATCHKEY_POSTGRES_SERVICE_HOST", "10.0.0.8"),
            ("LATCHKEY_POSTGRES_PORT", "tcp://10.0.0.8:5432"),
            ("LATCHKEY_POSTGRES_PORT_5432_TCP_ADDR", "10.0.0.8"),
        ] {
            assert!(!unknown(name, value), "{name}");
        }
        for (name, value) in [
            ("LATCHKEY_PORT", "50051"),
            ("LATCHKEY_GRPC_PORT", "50051"),
            ("LATCHKEY_PORT_GRPC", "50051"),
            ("LATCHKEY_PORT_50051", "50051"),
            ("LATCHKEY_PORT_50051_TCP_HOST", "10.0.0.7"),
        ] {
            assert!(unknown(name, value), "{name}");
        }
    }

    #[test]
    fn a_similar_name_is_suggested() {
        let known = ["GRPC_ADDR", "LOG", "LOG_FORMAT", "DATABASE_URL"];
        for (name, meant) in [
            ("GRPC_ADR", Some("GRPC_ADDR")),
            ("LOGS", Some("LOG")),
            ("LOGFORMAT", Some("LOG_FORMAT")),
            ("DATABASEURL", Some("DATABASE_URL")),
            ("WEATHER", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, known.into_iter()), meant, "{name}");
        }
    }
}
