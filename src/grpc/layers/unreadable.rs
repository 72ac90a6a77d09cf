//! Corrects the status of requests that tonic cannot read.
//!
//! tonic answers a message that cannot be decoded with INTERNAL, and one that is too large with OUT_OF_RANGE. In this
//! service INTERNAL is a failure of the service, which is logged and fires an alert. No request may cause that.

use futures_util::FutureExt as _;
use tonic::{
    Code, Status,
    body::Body,
    codegen::http::{Request, Response},
};

use super::middleware::{Answer, Middleware};
use crate::{
    grpc::{server::MAX_MESSAGE, status},
    telemetry::excerpt,
};

/// Applies [`correct_status`] to the answer of each call.
#[derive(Debug)]
pub(in crate::grpc) struct CorrectStatus;

impl Middleware for CorrectStatus {
    fn call<B, N, F>(&self, request: Request<B>, next: N) -> impl Future<Output = Answer> + Send + 'static
    where
        N: FnOnce(Request<B>) -> F,
        F: Future<Output = Answer> + Send + 'static,
    {
        next(request).map(|answer| answer.map(|response| correct_status(response, MAX_MESSAGE)))
    }
}

/// Replaces an error that tonic returned before the handler ran. Messages have `limit` bytes at most.
pub(in crate::grpc) fn correct_status(response: Response<Body>, limit: usize) -> Response<Body> {
    let corrected = response.extensions().get().and_then(|status| corrected(status, limit));
    corrected.map_or(response, Status::into_http)
}

/// Returns the status to send instead of `original`, or nothing if `original` comes from a handler.
fn corrected(original: &Status, limit: usize) -> Option<Status> {
    if status::failure(original).is_some() {
        return None;
    }
    // Only errors of the transport have a source: the caller reset the stream, or the connection broke.
    if std::error::Error::source(original).is_some() {
        return Some(Status::cancelled("the request ended before its message was complete"));
    }
    match original.code() {
        Code::Internal => Some(undecodable(original.message())),
        // It quotes the encoding in the request.
        Code::Unimplemented => {
            let message = excerpt(original.message());
            Some(Status::with_metadata(Code::Unimplemented, message, original.metadata().clone()))
        }
        Code::OutOfRange => Some(status::too_large(limit)),
        _ => None,
    }
}

/// Returns INVALID_ARGUMENT for an error message of tonic or prost.
fn undecodable(error: &str) -> Status {
    let error = error.strip_prefix("failed to decode Protobuf message: ").unwrap_or(error);
    let (field, reason) = split_field(error);
    let reason = format!("cannot be decoded: {reason}");
    if field.is_empty() {
        return Status::invalid_argument(format!("the request message {reason}"));
    }
    let mut violations = status::Violations::default();
    violations.check::<(), _>(&field, Err(reason));
    violations.into_status()
}

/// Splits an error message into the path of the invalid field and the reason. prost writes `Message.field: ` for each
/// level, the innermost first, before the reason.
fn split_field(error: &str) -> (String, &str) {
    let (mut path, mut rest) = (Vec::new(), error);
    while let Some((level, inner)) = rest.split_once(": ")
        && let Some((message, field)) = level.split_once('.')
        && [message, field].iter().all(|name| is_identifier(name))
    {
        path.push(field);
        rest = inner;
    }
    path.reverse();
    (path.join("."), rest)
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::latchkey::{CreateTokenRequest, ValidateTokenRequest};

    fn error<M: prost::Message + Default + std::fmt::Debug>(bytes: &[u8]) -> String {
        M::decode(bytes).unwrap_err().to_string()
    }

    #[test]
    fn the_invalid_field_is_named() {
        let message = |error: String| undecodable(&error).message().to_owned();
        let not_utf8 = "cannot be decoded: invalid string value: data is not UTF-8 encoded";
        assert_eq!(message(error::<CreateTokenRequest>(b"\x12\x02\xff\xfe")), format!("name {not_utf8}"));
        assert_eq!(
            message(error::<ValidateTokenRequest>(b"\x12\x02\xff\xfe")),
            format!("required_scopes {not_utf8}")
        );
        // expire_time (4) with seconds (1) of the wrong wire type.
        let nested = message(error::<CreateTokenRequest>(b"\x22\x05\x0d\x01\x01\x01\x01"));
        assert!(nested.starts_with("expire_time.seconds cannot be decoded: "), "{nested}");
        let no_field = message(error::<CreateTokenRequest>(b"\xff\xff\xff"));
        assert!(no_field.starts_with("the request message cannot be decoded: "), "{no_field}");
    }

    #[test]
    fn a_secret_may_be_any_bytes() {
        let request = ValidateTokenRequest::decode(&b"\x0a\x02\xff\xfe"[..]).unwrap();
        assert_eq!(request.secret, b"\xff\xfe");
    }
}
