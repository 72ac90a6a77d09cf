//! The body of an answer, which holds what the call has taken until it is sent.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Status, body::Body, codegen::Bytes};

use crate::{grpc::unsent_bytes::UnsentBytes, listener::Unsent};

/// hyper takes data when it can be sent, but a whole chunk at once. So that most of a large answer stays here, where it is
/// counted, until the caller reads it, chunks are small.
const CHUNK: usize = 16 * 1024;

/// A body that holds a permit, and its share of what waits to be sent.
#[derive(Debug)]
pub(super) struct HeldBody {
    body: Body,
    rest: Bytes,
    _permit: Arc<()>,
    _unsent: Option<Unsent>,
    _bytes: Option<Arc<UnsentBytes>>,
}

impl HeldBody {
    /// Returns the body, holding these things until it ends.
    pub(super) fn hold(
        body: Body,
        permit: Arc<()>,
        unsent: Option<Unsent>,
        bytes: Option<Arc<UnsentBytes>>,
    ) -> Body {
        // An error has no body.
        if body.is_end_stream() {
            return body;
        }
        Body::new(Self { body, rest: Bytes::new(), _permit: permit, _unsent: unsent, _bytes: bytes })
    }

    fn next_chunk(&mut self) -> Frame<Bytes> {
        let length = self.rest.len().min(CHUNK);
        Frame::data(self.rest.split_to(length))
    }
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.next_chunk())));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) if frame.data_ref().is_some_and(|data| data.len() > CHUNK) => {
                self.rest = frame.into_data().unwrap_or_default();
                Some(Ok(self.next_chunk()))
            }
            other => other,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.rest.is_empty() { self.body.size_hint() } else { SizeHint::default() }
    }
}
