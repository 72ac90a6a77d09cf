//! Refuses a stream of reflection whose first message is too large. tonic's reflection would end such a stream without an
//! error.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use http_body::{Body as HttpBody, Frame};
use hyper::body::Incoming;
use tonic::{Status, body::Body, codegen::Bytes};

use super::receive::PREFIX;
use crate::grpc::status;

/// Returns the body of a request, if the message that it begins with has at most `limit` bytes, or has not arrived yet.
///
/// # Errors
///
/// RESOURCE_EXHAUSTED: the message is larger.
pub(super) fn check(mut body: Incoming, limit: usize) -> Result<Body, Status> {
    let first = match Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => return Ok(Body::new(body)),
        Poll::Ready(Some(Ok(frame))) => frame,
        Poll::Ready(Some(Err(_)) | None) => return Ok(Body::empty()),
    };
    let length =
        first.data_ref().and_then(|data| data.get(1..PREFIX)?.try_into().ok()).map(u32::from_be_bytes);
    if length.is_some_and(|length| usize::try_from(length).is_ok_and(|length| length > limit)) {
        return Err(status::too_large(limit));
    }
    Ok(Body::new(Resumed { first: Some(first), rest: body }))
}

/// A body of which the first frame was read.
struct Resumed {
    first: Option<Frame<Bytes>>,
    rest: Incoming,
}

impl HttpBody for Resumed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.first.take() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }
}
