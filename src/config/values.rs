//! Parsers for values that clap cannot parse itself.

use std::time::Duration;

use secrecy::SecretString;

/// Parses a boolean in any of the forms that deployment tools write.
pub(super) fn switch(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("must be 1, true, yes or on; or 0, false, no or off"),
    }
}

/// Wraps a value that must not be shown.
pub(super) fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(SecretString::from(text))
}

/// Parses the name of a JetStream stream or consumer.
pub(super) fn nats_name(text: &str) -> Result<String, &'static str> {
    let forbidden = |letter: char| letter.is_whitespace() || letter.is_control() || ".*>/\\".contains(letter);
    if (1..=255).contains(&text.len()) && !text.contains(forbidden) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 255 bytes without white space, '.', '*', '>', '/' or '\\'")
    }
}

/// Parses a NATS subject.
pub(super) fn nats_subject(text: &str) -> Result<String, &'static str> {
    let is_token = |token: &str| {
        !token.is_empty() && !token.contains(|letter: char| letter.is_whitespace() || letter.is_control())
    };
    if text.split('.').all(is_token) {
        Ok(text.to_owned())
    } else {
        Err("must be words separated by '.', without white space")
    }
}

/// Parses a duration such as `250ms`, `5s` or `1m 30s`, from `MIN` to `MAX` milliseconds.
pub(super) fn duration<const MIN: u64, const MAX: u64>(text: &str) -> Result<Duration, String> {
    let (min, max) = (Duration::from_millis(MIN), Duration::from_millis(MAX));
    match humantime::parse_duration(text) {
        Ok(duration) if (min..=max).contains(&duration) => Ok(duration),
        Ok(_) => Err(format!(
            "must be from {} to {}",
            humantime::format_duration(min),
            humantime::format_duration(max)
        )),
        Err(error) => Err(format!("is not a duration such as 250ms, 5s or 1m: {error}")),
    }
}
