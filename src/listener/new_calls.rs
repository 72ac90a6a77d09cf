//! The calls that have begun on a connection since it was last polled.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;
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

/// How often a connection is polled in a row at most, so that it leaves its thread to others.
const MAX_POLLS: usize = 8;

impl NewCalls {
    /// Polls a connection and the calls that it begins, until it has nothing more to read or to send.
    pub(super) fn poll_with<T>(
        &self,
        relay: &Arc<Relay>,
        cx: &mut Context<'_>,
        mut connection: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        relay.task.register(cx.waker());
        let waker = Waker::from(Arc::clone(relay));
        for _ in 0..MAX_POLLS {
            relay.state.store(POLLED, Ordering::Release);
            let polled = connection(&mut Context::from_waker(&waker));
            // The answers of the calls wake the connection.
            self.run();
            let is_idle =
                relay.state.compare_exchange(POLLED, IDLE, Ordering::AcqRel, Ordering::Acquire).is_ok();
            if polled.is_ready() || is_idle {
                return polled;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn run(&self) {
        for mut call in std::mem::take(&mut *self.lock()) {
            // Nothing wakes a call that is not ready but its own task, which polls it at once. A call that panics ends as
            // it would in a task of its own: its stream is reset, and its connection goes on.
            let polled = catch_unwind(AssertUnwindSafe(|| {
                call.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            }));
            if matches!(polled, Ok(Poll::Pending)) {
                tokio::spawn(call);
            }
        }
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

/// Wakes the task of a connection, but not while that polls the connection: it sees the mark and polls once more. Otherwise each
/// answer would have the scheduler wake another thread.
#[derive(Debug, Default)]
pub(super) struct Relay {
    state: AtomicU8,
    task: AtomicWaker,
}

/// Nobody polls the connection.
const IDLE: u8 = 0;
/// The connection is polled.
const POLLED: u8 = 1;
/// The connection was woken since.
const WOKEN: u8 = 2;

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, Ordering::AcqRel) == IDLE {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};

    use tokio::sync::{mpsc, oneshot};

    use super::*;

    /// Polls a connection that begins `calls` and then ends when it is polled again.
    async fn run(calls: Vec<Call>) {
        let (new, relay) = (NewCalls::default(), Arc::default());
        let mut rounds = vec![calls].into_iter();
        poll_fn(|cx| {
            new.poll_with(&relay, cx, |cx| match rounds.next() {
                None => Poll::Ready(()),
                Some(calls) => {
                    calls.into_iter().for_each(|call| new.execute(call));
                    cx.waker().wake_by_ref();
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

    /// Polls a connection once whose poll does `act` with its waker.
    fn poll_once(relay: &Arc<Relay>, cx: &mut Context<'_>, mut act: impl FnMut(&Waker)) -> usize {
        let mut polls = 0;
        let _ = NewCalls::default().poll_with(relay, cx, |cx| -> Poll<()> {
            polls += 1;
            act(cx.waker());
            Poll::Pending
        });
        polls
    }

    #[test]
    fn no_wake_is_lost_and_none_is_passed_on_while_the_connection_is_polled() {
        #[derive(Default)]
        struct Count(AtomicU8);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let (relay, woken) = (Arc::<Relay>::default(), Arc::<Count>::default());
        let waker = Waker::from(Arc::clone(&woken));
        let cx = &mut Context::from_waker(&waker);
        let count = || woken.0.load(Ordering::SeqCst);
        let mut kept = None;
        assert_eq!(poll_once(&relay, cx, |waker| kept = Some(waker.clone())), 1);
        // Woken while nobody polls: passed on, once.
        let kept = kept.unwrap();
        kept.wake_by_ref();
        kept.wake_by_ref();
        assert_eq!(count(), 1);
        // Woken by its own poll, once: polled once more.
        let mut first = true;
        let polls = poll_once(&relay, cx, |waker| {
            if std::mem::take(&mut first) {
                waker.wake_by_ref();
            }
        });
        assert_eq!((polls, count()), (2, 1));
        // Woken by each poll: it leaves its thread and comes back.
        assert_eq!((poll_once(&relay, cx, Waker::wake_by_ref), count()), (MAX_POLLS, 2));
        assert_eq!(poll_once(&relay, cx, |_| {}), 1);
        kept.wake_by_ref();
        assert_eq!(count(), 3);
    }
}
