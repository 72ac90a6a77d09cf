//! `latchkey token …`: the command line as a client of a running service.

use std::{
    fmt::Write as _,
    io::{self, Read as _},
    time::{Duration, SystemTime},
};

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use prost_types::Timestamp;
use serde_json::{Value, json};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;
use zeroize::Zeroizing;

use super::Report;
use crate::clock::Clock;
use crate::proto::latchkey::{
    CreateTokenRequest, DeleteTokenRequest, ListTokensRequest, Token, ValidateTokenRequest, invalid::Reason,
    token_service_client::TokenServiceClient, validate_token_response::Outcome,
};

/// What to do, and with which service.
#[derive(Args, Debug)]
pub struct TokenCommand {
    /// The service to talk to.
    #[arg(
        long,
        global = true,
        env = "LATCHKEY_SERVER",
        value_name = "URL",
        default_value = "http://127.0.0.1:50051"
    )]
    server: String,

    /// Print JSON, as protobuf maps to it, instead of a table.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Issue a token and print its secret, this once.
    Create {
        /// The user that the token acts as.
        #[arg(long, value_name = "USER_ID")]
        user: String,
        /// The token's name: 3 to 64 characters.
        #[arg(long)]
        name: String,
        /// What the token may be used for; may be given more than once.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// When the token shall expire, from now: 90d, 12h, 1y. Default: never.
        #[arg(long, value_name = "SPAN", value_parser = humantime::parse_duration)]
        expires: Option<Duration>,
        /// Print the secret alone, for a script that keeps it.
        #[arg(long, conflicts_with = "json")]
        secret_only: bool,
    },
    /// List a user's tokens, newest first.
    List {
        /// The user whose tokens to list.
        #[arg(long, value_name = "USER_ID")]
        user: String,
    },
    /// Delete a token: it stops working for good.
    Delete {
        /// The user whose token it is.
        #[arg(long, value_name = "USER_ID")]
        user: String,
        /// The token's id, as `list` shows it.
        #[arg(long, value_name = "TOKEN_ID")]
        id: String,
    },
    /// Read a secret from standard input and tell whether it is good; exit status 1 if it is not.
    Validate {
        /// A scope that the token must have; may be given more than once.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
    },
}

/// Why a command could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The service's URL is wrong.
    #[error("--server (LATCHKEY_SERVER) is {url:?}, which is no URL such as http://127.0.0.1:50051: {error}")]
    Url {
        /// The URL.
        url: String,
        /// Its fault.
        error: String,
    },
    /// The service cannot be reached.
    #[error("cannot reach the service at {url}: {error}; is it running? `latchkey serve` starts one")]
    Connect {
        /// The URL.
        url: String,
        /// Why.
        error: String,
    },
    /// The service refused.
    #[error("{}", describe(.0))]
    Refused(Box<Status>),
    /// Standard input cannot be read.
    #[error("no secret could be read from standard input: {0}")]
    Input(io::Error),
    /// The expiry is too far away.
    #[error("--expires is too long: the year must not be after 9999")]
    Expires,
    /// The service answered what it must not.
    #[error("the service gave no answer that can be understood; is it of another version?")]
    Answer,
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// As many as the service gives at once.
const PAGE_SIZE: i32 = 200;

impl TokenCommand {
    /// Does it.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn run(self) -> Result<Report, ClientError> {
        let client = connect(self.server).await?;
        let json = self.json;
        match self.action {
            Action::Create { user, name, scopes, expires, secret_only } => {
                let expire_time =
                    expires.map(|span| expiry(Clock::system().now().into(), span)).transpose()?;
                let request = CreateTokenRequest { user_id: user, name, scopes, expire_time };
                create(client, json, secret_only, request).await
            }
            Action::List { user } => list(client, json, user).await,
            Action::Delete { user, id } => delete(client, json, user, id).await,
            Action::Validate { scopes } => validate(client, json, scopes).await,
        }
    }
}

type Client = TokenServiceClient<Channel>;

async fn connect(url: String) -> Result<Client, ClientError> {
    let endpoint = Endpoint::from_shared(url.clone())
        .map_err(|error| ClientError::Url { url: url.clone(), error: error.to_string() })?
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(CALL_TIMEOUT);
    let channel = endpoint.connect().await.map_err(|error| {
        // The outermost error says only that there was one.
        let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        ClientError::Connect { url, error: cause }
    })?;
    Ok(TokenServiceClient::new(channel))
}

async fn create(
    mut client: Client,
    json: bool,
    secret_only: bool,
    request: CreateTokenRequest,
) -> Result<Report, ClientError> {
    let answer = client.create_token(request).await?.into_inner();
    let (token, secret) = (answer.token.ok_or(ClientError::Answer)?, Zeroizing::new(answer.secret));
    let text = if json {
        pretty(json!({ "token": to_json(&token), "secret": secret.as_str() }))
    } else if secret_only {
        format!("{}\n", secret.as_str())
    } else {
        format!("{}\nThe secret, shown this once:\n\n{}\n", table(&[token]), secret.as_str())
    };
    Ok(Report { text, good: true })
}

async fn list(mut client: Client, json: bool, user_id: String) -> Result<Report, ClientError> {
    let mut request = ListTokensRequest { user_id, page_size: PAGE_SIZE, page_token: String::new() };
    let mut tokens = Vec::new();
    loop {
        let page = client.list_tokens(request.clone()).await?.into_inner();
        tokens.extend(page.tokens);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let text = if json {
        pretty(json!({ "tokens": tokens.iter().map(to_json).collect::<Vec<_>>() }))
    } else {
        table(&tokens)
    };
    Ok(Report { text, good: true })
}

async fn delete(
    mut client: Client,
    json: bool,
    user_id: String,
    token_id: String,
) -> Result<Report, ClientError> {
    client.delete_token(DeleteTokenRequest { user_id, token_id: token_id.clone() }).await?;
    let text = if json { pretty(json!({})) } else { format!("token {token_id} is deleted\n") };
    Ok(Report { text, good: true })
}

async fn validate(mut client: Client, json: bool, scopes: Vec<String>) -> Result<Report, ClientError> {
    let secret = read_secret(io::stdin()).map_err(ClientError::Input)?;
    let request = ValidateTokenRequest { secret: secret.to_vec(), required_scopes: scopes };
    let answer = client.validate_token(request).await?.into_inner();
    Ok(match answer.outcome.ok_or(ClientError::Answer)? {
        Outcome::Valid(token) if json => {
            Report { text: pretty(json!({ "valid": to_json(&token) })), good: true }
        }
        Outcome::Valid(token) => Report { text: format!("valid\n\n{}", table(&[token])), good: true },
        Outcome::Invalid(invalid) => {
            let reason = invalid.reason().as_str_name();
            let text = if json {
                pretty(json!({ "invalid": { "reason": reason } }))
            } else {
                format!("invalid: {}\n", explain(invalid.reason()))
            };
            Report { text, good: false }
        }
    })
}

/// How much of standard input is read. A secret is far shorter; anything longer is not one.
const MAX_INPUT: u64 = 4 * 1024;

/// Reads a secret, without the white space around it. Bytes that are not UTF-8 are for the service to judge.
fn read_secret(input: impl io::Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_INPUT as usize));
    input.take(MAX_INPUT).read_to_end(&mut bytes)?;
    Ok(Zeroizing::new(bytes.trim_ascii().to_vec()))
}

fn expiry(now: SystemTime, span: Duration) -> Result<Timestamp, ClientError> {
    let at = now.checked_add(span).ok_or(ClientError::Expires)?;
    let at = Timestamp::from(at);
    if at.seconds > LAST_SECOND { Err(ClientError::Expires) } else { Ok(at) }
}

/// 9999-12-31T23:59:59Z, as far as protobuf's timestamps go.
const LAST_SECOND: i64 = 253_402_300_799;

fn explain(reason: Reason) -> &'static str {
    match reason {
        Reason::Unspecified => "for a reason that this version does not know",
        Reason::Malformed => "it has not the form of a token; was it copied whole?",
        Reason::Unknown => "there is no such token",
        Reason::Revoked => "the token was deleted",
        Reason::Expired => "the token has expired",
        Reason::UserDeleted => "the account of the token's user was deleted",
        Reason::MissingScope => "the token lacks a required scope",
    }
}

/// The status in words, with what its details add.
fn describe(status: &Status) -> String {
    let details = status.get_error_details();
    let mut text = match status.code() {
        Code::InvalidArgument if details.bad_request().is_some() => "the request is wrong:".to_owned(),
        _ => status.message().to_owned(),
    };
    for error in details.bad_request().iter().flat_map(|request| &request.field_violations) {
        // Writing to a text does not fail.
        let _ = write!(text, "\n  {}: {}", error.field, error.description);
    }
    if text.is_empty() { status.code().description().to_owned() } else { text }
}

fn to_json(token: &Token) -> Value {
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

fn pretty(value: Value) -> String {
    format!("{value:#}\n")
}

/// A table whose last column is the name: the only one whose letters may be of any width.
fn table(tokens: &[Token]) -> String {
    let day = |at: Option<Timestamp>| {
        at.and_then(time).map_or_else(|| "never".to_owned(), |at| at.format("%F %T UTC").to_string())
    };
    let header = ["ID", "HINT", "CREATED", "EXPIRES", "LAST USED", "SCOPES", "NAME"].map(str::to_owned);
    let rows = tokens.iter().map(|token| {
        [
            token.id.clone(),
            token.hint.clone(),
            day(token.create_time),
            day(token.expire_time),
            day(token.last_used_time),
            if token.scopes.is_empty() { "-".to_owned() } else { token.scopes.join(",") },
            token.name.clone(),
        ]
    });
    let rows: Vec<[String; 7]> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a text does not fail.
            let _ = write!(text, "{cell:width$}  ");
        }
        text.push_str(&row[6]);
        text.push('\n');
    }
    text
}

fn time(at: Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(at.seconds, u32::try_from(at.nanos).ok()?)
}
