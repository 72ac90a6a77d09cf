//! `latchkey audit`: prints the audit log of a running service.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use serde_json::json;

use super::{
    connection::Connection,
    report::{Report, columns, time},
    token::{ClientError, timestamp},
};
use crate::{
    clock::Clock,
    proto::latchkey::{Event, ListEventsRequest, audit_service_client::AuditServiceClient},
};

/// Options of `latchkey audit`.
#[derive(Args, Debug)]
pub struct AuditCommand {
    #[command(flatten)]
    connection: Connection,

    /// User whose events to print. Default: all users.
    #[arg(long, value_name = "USER_ID", default_value = "", hide_default_value = true)]
    user: String,

    /// Print the events of this time until now: 7d, 12h. Default: all that are kept.
    #[arg(long, value_name = "SPAN", value_parser = humantime::parse_duration)]
    since: Option<Duration>,

    /// Maximum number of events.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    limit: usize,

    /// Print one JSON object per line instead of a table.
    #[arg(long)]
    json: bool,
}

/// The largest page that the service returns.
const PAGE_SIZE: i32 = 200;

impl AuditCommand {
    /// Runs the command and returns its output.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn run(self) -> Result<Report, ClientError> {
        let now = SystemTime::from(Clock::system().now());
        let since = self.since.map(|since| now.checked_sub(since).unwrap_or(SystemTime::UNIX_EPOCH));
        let start_time = since.map(timestamp).transpose()?;
        let mut client = AuditServiceClient::new(self.connection.connect().await?);
        let mut request = ListEventsRequest {
            user_id: self.user,
            start_time,
            page_size: PAGE_SIZE,
            page_token: String::new(),
        };
        let mut events = Vec::new();
        loop {
            let page = client.list_events(request.clone()).await?.into_inner();
            events.extend(page.events);
            if page.next_page_token.is_empty() || events.len() >= self.limit {
                break;
            }
            request.page_token = page.next_page_token;
        }
        events.truncate(self.limit);
        let text = if self.json { events.iter().map(line).collect() } else { table(&events) };
        Ok(Report { text, success: true })
    }
}

/// Returns the event in protobuf's JSON mapping.
fn line(event: &Event) -> String {
    let mut fields = json!({ "id": event.id.to_string(), "kind": event.kind, "userId": event.user_id, "actor": event.actor });
    if let Some(at) = event.event_time.and_then(time) {
        fields["eventTime"] = at.to_rfc3339_opts(SecondsFormat::AutoSi, true).into();
    }
    for (field, value) in
        [("tokenId", &event.token_id), ("reason", &event.reason), ("traceId", &event.trace_id)]
    {
        if !value.is_empty() {
            fields[field] = value.as_str().into();
        }
    }
    format!("{fields}\n")
}

fn table(events: &[Event]) -> String {
    let or_dash = |text: &String| if text.is_empty() { "-".to_owned() } else { text.clone() };
    let at = |at: DateTime<Utc>| at.format("%F %T UTC").to_string();
    let header = ["TIME", "KIND", "TOKEN", "TRACE", "REASON", "ACTOR", "USER"].map(str::to_owned);
    let rows = events.iter().map(|event| {
        [
            event.event_time.and_then(time).map_or_else(|| "-".to_owned(), at),
            event.kind.clone(),
            or_dash(&event.token_id),
            or_dash(&event.trace_id),
            or_dash(&event.reason),
            event.actor.clone(),
            event.user_id.clone(),
        ]
    });
    columns(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
}
