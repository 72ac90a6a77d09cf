//! Ends a call with DEADLINE_EXCEEDED when the caller's `grpc-timeout` or the service's own limit has passed, whichever
//! is shorter.

use std::{pin::pin, time::Duration};

use tonic::{
    Status,
    codegen::http::{HeaderMap, Request},
};

use super::middleware::{Answer, Middleware};
use crate::deadline::within;

/// Bounds the duration of each call.
#[derive(Clone, Copy, Debug)]
pub(in crate::grpc) struct Deadline {
    pub(in crate::grpc) limit: Duration,
}

/// tonic also ends a call when `grpc-timeout` has passed, but with CANCELLED. This middleware ends it first.
const HEAD_START: Duration = Duration::from_millis(3);

impl Middleware for Deadline {
    fn call<B, N, F>(&self, request: Request<B>, next: N) -> impl Future<Output = Answer> + Send + 'static
    where
        N: FnOnce(Request<B>) -> F,
        F: Future<Output = Answer> + Send + 'static,
    {
        let limit = grpc_timeout(request.headers()).map_or(self.limit, |asked| asked.min(self.limit));
        let answer = next(request);
        async move {
            let answer = pin!(answer);
            within(limit.saturating_sub(HEAD_START), answer).await.unwrap_or_else(|_| {
                let status = Status::deadline_exceeded(
                    "the call took longer than allowed; it may or may not have taken effect",
                );
                Ok(status.into_http())
            })
        }
    }
}

/// Returns the time that the caller allows: at most 8 digits and a unit (gRPC over HTTP/2, "Timeout").
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().ok()?);
        grpc_timeout(&headers)
    }

    #[test]
    fn every_unit_is_parsed_and_nothing_else() {
        assert_eq!(parse("2H"), Some(Duration::from_secs(7_200)));
        assert_eq!(parse("3M"), Some(Duration::from_secs(180)));
        assert_eq!(parse("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("7u"), Some(Duration::from_micros(7)));
        assert_eq!(parse("7n"), Some(Duration::from_nanos(7)));
        for bad in ["", "S", "5", "5s", "123456789S", "+5S", "5 S", "-1S"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_causes_a_panic(text: String) {
            let _ = parse(&text);
        }
    }
}
