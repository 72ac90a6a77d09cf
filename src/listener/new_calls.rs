//! The calls that have begun on a connection since it was last polled.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use hyper::rt::Executor;

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs the calls of a connection. Each is polled once where the connection runs, when the connection has read all that has
/// arrived; so the answers of calls that are ready at once, such as validations from the cache, leave in one write. The
/// others become tasks.
///
/// A task for each call would cost more than a validation: another thread takes half of them and contends with the
/// connection for its state (docs/decisions/0008).
#[derive(Clone, Default)]
pub struct NewCalls(Arc<Mutex<Vec<Call>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for NewCalls {
    fn execute(&self, call: F) {
        self.lock().push(Box::pin(call));
    }
}

impl NewCalls {
    /// Polls a connection and the calls that it begins, until it has nothing more to read or to send.
    pub(super) fn poll_with<T>(
        &self,
        cx: &mut Context<'_>,
        mut connection: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        loop {
            let polled = connection(cx);
            if !self.run() || polled.is_ready() {
                return polled;
            }
        }
    }

    /// Returns whether there were any.
    fn run(&self) -> bool {
        let calls = std::mem::take(&mut *self.lock());
        let any = !calls.is_empty();
        for mut call in calls {
            // Nothing wakes a call that is not ready but its own task, which polls it at once. A call that panics ends as
            // it would in a task of its own: its stream is reset, and its connection goes on.
            let polled = catch_unwind(AssertUnwindSafe(|| {
                call.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            }));
            if matches!(polled, Ok(Poll::Pending)) {
                tokio::spawn(call);
            }
        }
        any
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Call>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for NewCalls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewCalls").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};

    use tokio::sync::{mpsc, oneshot};

    use super::*;

    /// Polls a connection that begins `calls` and then ends when it is polled again.
    async fn run(calls: Vec<Call>) {
        let new = NewCalls::default();
        let mut rounds = vec![calls].into_iter();
        poll_fn(|cx| {
            new.poll_with(cx, |_| match rounds.next() {
                None => Poll::Ready(()),
                Some(calls) => {
                    calls.into_iter().for_each(|call| new.execute(call));
                    Poll::Pending
                }
            })
        })
        .await;
    }

    #[tokio::test]
    async fn calls_that_are_ready_have_ended_when_the_connection_is_polled_again() {
        let (done, mut ended) = mpsc::channel(2);
        let call = |number| -> Call {
            let done = done.clone();
            Box::pin(async move { done.try_send(number).unwrap() })
        };
        run(vec![call(1), call(2)]).await;
        assert_eq!([ended.try_recv(), ended.try_recv()], [Ok(1), Ok(2)]);
    }

    #[tokio::test]
    async fn a_call_that_waits_keeps_nobody_else_and_ends_later() {
        let (go, waits) = oneshot::channel();
        let (done, ended) = oneshot::channel();
        let call = async move {
            waits.await.unwrap();
            done.send(()).unwrap();
        };
        run(vec![Box::pin(pending()), Box::pin(call)]).await;
        go.send(()).unwrap();
        ended.await.unwrap();
    }

    #[tokio::test]
    async fn a_call_that_panics_ends_alone() {
        let (done, ended) = oneshot::channel();
        let call = async move { done.send(()).unwrap() };
        run(vec![Box::pin(async { panic!("a call of this test") }), Box::pin(call)]).await;
        ended.await.unwrap();
    }
}
