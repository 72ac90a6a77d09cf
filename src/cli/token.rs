//! `latchkey token …`: the command line as a client of a running service.

use std::{
    fmt::Write as _,
    io::{self, Read as _},
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use prost_types::Timestamp;
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use zeroize::Zeroizing;

use super::{
    connection::{Channelled, Connection, ConnectionError},
    report::{Report, pretty, table, to_json},
};
use crate::{
    clock::Clock,
    proto::latchkey::{
        CreateTokenRequest, DeleteTokenRequest, ListTokensRequest, ValidateTokenRequest, invalid::Reason,
        token_service_client::TokenServiceClient, validate_token_response::Outcome,
    },
};

/// Options of `latchkey token`.
#[derive(Args, Debug)]
pub struct TokenCommand {
    #[command(flatten)]
    connection: Connection,

    /// Print JSON in protobuf's JSON mapping instead of a table.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Create a token and print it. It is not shown again.
    Create {
        /// User that the token acts as.
        #[arg(long, value_name = "USER_ID")]
        user: String,
        /// Name of the token: 3 to 64 characters.
        #[arg(long)]
        name: String,
        /// What the token may be used for. Can be repeated.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// Time from now until the token expires: 90d, 12h, 1y. Default: never.
        #[arg(long, value_name = "SPAN", value_parser = humantime::parse_duration, conflicts_with = "request_id")]
        expires: Option<Duration>,
        /// Time at which the token expires: 2027-01-31T00:00:00Z.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_rfc3339, conflicts_with = "expires")]
        expires_at: Option<SystemTime>,
        /// UUID of the request, a new one for each token. If the answer is lost, the same command can be repeated within
        /// an hour: it returns the same token with another secret. Excludes --expires, which would differ then.
        #[arg(long, value_name = "UUID", default_value = "", hide_default_value = true)]
        request_id: String,
        /// Print only the bearer token, for scripts.
        #[arg(long, conflicts_with = "json")]
        secret_only: bool,
    },
    /// List a user's tokens, newest first.
    List {
        /// User whose tokens to list.
        #[arg(long, value_name = "USER_ID")]
        user: String,
    },
    /// Delete a token permanently.
    Delete {
        /// User that the token belongs to.
        #[arg(long, value_name = "USER_ID")]
        user: String,
        /// Id of the token, as `list` prints it.
        #[arg(long, value_name = "TOKEN_ID")]
        id: String,
        /// Succeed also if the user has no such token or it is deleted already.
        #[arg(long)]
        allow_missing: bool,
    },
    /// Validate a bearer token from standard input: exit status 0 if it is valid, 1 if it is not.
    Validate {
        /// Scope that the token must have. Can be repeated.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
    },
}

/// Why a command failed.
#[allow(missing_docs)]
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("{}", describe(.0))]
    Refused(Box<Status>),
    #[error("cannot read a bearer token from standard input: {0}")]
    Input(io::Error),
    #[error("--expires: is too long; a token may expire in the year 9999 at the latest")]
    Expires,
    /// The response violates the contract of the service.
    #[error("the service returned an unexpected response; does it have another version?")]
    Answer,
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

/// The largest page that the service returns.
const PAGE_SIZE: i32 = 200;

impl TokenCommand {
    /// Runs the command and returns its output.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn run(self) -> Result<Report, ClientError> {
        let client = TokenServiceClient::new(self.connection.connect().await?);
        let json = self.json;
        match self.action {
            Action::Create { user, name, scopes, expires, expires_at, request_id, secret_only } => {
                let from_now = |span| SystemTime::from(Clock::system().now()).checked_add(span);
                let at = expires.map(|span| from_now(span).ok_or(ClientError::Expires)).transpose()?;
                let expire_time = at.or(expires_at).map(timestamp).transpose()?;
                let request = CreateTokenRequest { user_id: user, name, scopes, expire_time, request_id };
                create(client, json, secret_only, request).await
            }
            Action::List { user } => list(client, json, user).await,
            Action::Delete { user, id, allow_missing } => {
                let request = DeleteTokenRequest { user_id: user, token_id: id, allow_missing };
                delete(client, json, request).await
            }
            Action::Validate { scopes } => validate(client, json, scopes).await,
        }
    }
}

type Client = TokenServiceClient<Channelled>;

async fn create(
    mut client: Client,
    json: bool,
    secret_only: bool,
    request: CreateTokenRequest,
) -> Result<Report, ClientError> {
    let answer = client.create_token(request).await?.into_inner();
    let (token, bearer) = (answer.token.ok_or(ClientError::Answer)?, Zeroizing::new(answer.secret));
    let text = if json {
        pretty(json!({ "token": to_json(&token), "secret": bearer.as_str() }))
    } else if secret_only {
        format!("{}\n", bearer.as_str())
    } else {
        format!("{}\nThe bearer token, which is not shown again:\n\n{}\n", table(&[token]), bearer.as_str())
    };
    Ok(Report { text, success: true })
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
    Ok(Report { text, success: true })
}

async fn delete(mut client: Client, json: bool, request: DeleteTokenRequest) -> Result<Report, ClientError> {
    let (token_id, allow_missing) = (request.token_id.clone(), request.allow_missing);
    client.delete_token(request).await?;
    let text = match (json, allow_missing) {
        (true, _) => pretty(json!({})),
        (false, true) => format!("token {token_id} is deleted, or the user never had it\n"),
        (false, false) => format!("token {token_id} is deleted\n"),
    };
    Ok(Report { text, success: true })
}

async fn validate(mut client: Client, json: bool, scopes: Vec<String>) -> Result<Report, ClientError> {
    let bearer = read_bearer(io::stdin()).map_err(ClientError::Input)?;
    let request = ValidateTokenRequest { secret: bearer.to_vec(), required_scopes: scopes };
    let answer = client.validate_token(request).await?.into_inner();
    Ok(match answer.outcome.ok_or(ClientError::Answer)? {
        Outcome::Valid(token) if json => {
            Report { text: pretty(json!({ "valid": to_json(&token) })), success: true }
        }
        Outcome::Valid(token) => Report { text: format!("valid\n\n{}", table(&[token])), success: true },
        Outcome::Invalid(invalid) => {
            let reason = invalid.reason().as_str_name();
            let text = if json {
                pretty(json!({ "invalid": { "reason": reason } }))
            } else {
                format!("invalid: {}\n", explain(invalid.reason()))
            };
            Report { text, success: false }
        }
    })
}

/// How much of standard input is read, in bytes. Bearer tokens are far shorter.
const MAX_INPUT: u64 = 4 * 1024;

/// Reads a bearer token, without surrounding white space. The service judges bytes that are not UTF-8.
fn read_bearer(input: impl io::Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_INPUT as usize));
    input.take(MAX_INPUT).read_to_end(&mut bytes)?;
    Ok(Zeroizing::new(bytes.trim_ascii().to_vec()))
}

pub(super) fn timestamp(at: SystemTime) -> Result<Timestamp, ClientError> {
    let at = Timestamp::from(at);
    if at.seconds > LAST_SECOND { Err(ClientError::Expires) } else { Ok(at) }
}

/// 9999-12-31T23:59:59Z, the end of the range of protobuf's timestamps.
const LAST_SECOND: i64 = 253_402_300_799;

fn explain(reason: Reason) -> &'static str {
    match reason {
        Reason::Unspecified => "the reason is not known to this version",
        Reason::Malformed => "it does not have the form of a token; was it copied completely?",
        Reason::Unknown => "there is no such token",
        Reason::Revoked => "the token was deleted",
        Reason::Expired => "the token has expired",
        Reason::UserDeleted => "the account of the token's user was deleted",
        Reason::MissingScope => "the token lacks a required scope",
    }
}

/// Returns the status as text, with its invalid fields.
pub(super) fn describe(status: &Status) -> String {
    let details = status.get_error_details();
    let mut text = match status.code() {
        Code::InvalidArgument if details.bad_request().is_some() => "the request is invalid:".to_owned(),
        _ => status.message().to_owned(),
    };
    for error in details.bad_request().iter().flat_map(|request| &request.field_violations) {
        // Writing to a String does not fail.
        let _ = write!(text, "\n  {}: {}", error.field, error.description);
    }
    if text.is_empty() { status.code().description().to_owned() } else { text }
}
