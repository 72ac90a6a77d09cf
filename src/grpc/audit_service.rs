//! `latchkey.v1.AuditService`: converts between protobuf messages and the registry's types.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use prost_types::Timestamp;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    page_token,
    status::Violations,
    token_service::{accept, timestamp},
    unsent_bytes::UnsentTotal,
};
use crate::{
    proto::latchkey::{self as pb, audit_service_server::AuditService},
    registry::TokenRegistry,
    store::RecordedEvent,
    token::{PageSize, UserId},
};

/// Answers the calls of the audit service from a registry.
#[derive(Clone, Debug)]
pub(super) struct AuditHandler {
    pub(super) registry: Arc<TokenRegistry>,
    pub(super) unsent: UnsentTotal,
}

#[tonic::async_trait]
impl AuditService for AuditHandler {
    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        // The policy has checked the caller's role, and that is all.
        let (_, request) = accept(request)?;
        let mut violations = Violations::default();
        let user = match request.user_id.as_str() {
            "" => Some(None),
            text => violations.check("user_id", text.parse::<UserId>().map(Some)),
        };
        let size = violations.check("page_size", PageSize::parse(request.page_size));
        let since = violations.check("start_time", request.start_time.map(time).transpose());
        let before = match &user {
            Some(user) if !request.page_token.is_empty() => {
                let cursor = page_token::decode_event(user.as_ref(), &request.page_token);
                violations.check("page_token", cursor.map(Some).ok_or(page_token::BAD))
            }
            _ => Some(None),
        };
        let (Some(user), Some(size), Some(since), Some(before)) = (user, size, since, before) else {
            return Err(violations.into_status());
        };

        let page = self.registry.events(user.as_ref(), since, before, size).await?;
        let next = page.next.map(|id| page_token::encode_event(user.as_ref(), id));
        self.unsent.answer(pb::ListEventsResponse {
            events: page.events.into_iter().map(to_proto).collect(),
            next_page_token: next.unwrap_or_default(),
        })
    }
}

fn time(at: Timestamp) -> Result<DateTime<Utc>, &'static str> {
    let nanos = u32::try_from(at.nanos).ok();
    nanos.and_then(|nanos| DateTime::from_timestamp(at.seconds, nanos)).ok_or("must be a valid time")
}

fn to_proto(event: RecordedEvent) -> pb::Event {
    let id = |id: Uuid| id.hyphenated().to_string();
    pb::Event {
        id: event.id,
        event_time: Some(timestamp(event.at)),
        kind: event.kind,
        token_id: event.token_id.map(id).unwrap_or_default(),
        user_id: event.user_id,
        actor: event.actor,
        reason: event.reason.unwrap_or_default(),
        trace_id: event.trace_id.unwrap_or_default(),
    }
}
