//! Bounds how long an answer may take.

use std::{future::poll_fn, pin::Pin, task::Poll, time::Duration};

use tokio::time::error::Elapsed;

/// Awaits `answer` for at most `limit`. Most answers, such as those from memory, are ready when they are polled first, and need no
/// timer. The timer of the others is boxed and `answer` is not moved, so that this future stays small.
///
/// # Errors
///
/// The limit has passed.
pub(crate) async fn within<F: Future>(
    limit: Duration,
    mut answer: Pin<&mut F>,
) -> Result<F::Output, Elapsed> {
    if let Poll::Ready(answer) = poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await {
        return Ok(answer);
    }
    Box::pin(tokio::time::timeout(limit, answer)).await
}
