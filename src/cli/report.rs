//! What commands print: tables and JSON.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use prost_types::Timestamp;
use serde_json::{Value, json};

use crate::proto::latchkey::Token;

/// Output of a command.
#[derive(Debug)]
pub struct Report {
    /// For standard output.
    pub text: String,
    /// Whether the exit status is 0. False for a token that is not valid and for a service that is not serving.
    pub success: bool,
}

/// Returns the token in protobuf's JSON mapping.
pub(super) fn to_json(token: &Token) -> Value {
    let mut fields = json!({
        "id": token.id,
        "userId": token.user_id,
        "name": token.name,
        "hint": token.hint,
        "scopes": token.scopes,
    });
    let times = [
        ("createTime", token.create_time),
        ("expireTime", token.expire_time),
        ("lastUsedTime", token.last_used_time),
    ];
    for (field, at) in times {
        if let Some(at) = at.and_then(time) {
            fields[field] = at.to_rfc3339_opts(SecondsFormat::AutoSi, true).into();
        }
    }
    fields
}

/// Returns JSON with line breaks and indentation.
pub(super) fn pretty(value: Value) -> String {
    format!("{value:#}\n")
}

/// Returns a table of tokens. The name is the last column, because only its characters can be wider than one cell.
pub(super) fn table(tokens: &[Token]) -> String {
    let date = |at: Option<Timestamp>| {
        at.and_then(time).map_or_else(|| "never".to_owned(), |at| at.format("%F %T UTC").to_string())
    };
    let header = ["ID", "HINT", "CREATED", "EXPIRES", "LAST USED", "SCOPES", "NAME"].map(str::to_owned);
    let rows = tokens.iter().map(|token| {
        [
            token.id.clone(),
            token.hint.clone(),
            date(token.create_time),
            date(token.expire_time),
            date(token.last_used_time),
            if token.scopes.is_empty() { "-".to_owned() } else { token.scopes.join(",") },
            token.name.clone(),
        ]
    });
    columns(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
}

/// Returns rows in aligned columns. The last one is not padded.
pub(super) fn columns(rows: &[[String; 7]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a String does not fail.
            let _ = write!(text, "{cell:width$}  ");
        }
        text.push_str(&row[6]);
        text.push('\n');
    }
    text
}

pub(super) fn time(at: Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(at.seconds, u32::try_from(at.nanos).ok()?)
}

/// Returns the root cause. The errors that wrap it only say that there was one.
pub(super) fn innermost(mut error: &dyn std::error::Error) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
