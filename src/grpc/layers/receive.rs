//! Receives the whole message of a request before anything else is done for it. A caller that sends slowly, or nothing,
//! holds a stream of its own connection, and no permit that others need.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use futures_util::future::Either;
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use tonic::{
    Status,
    body::Body,
    codegen::{
        Bytes,
        http::{Request, Response},
    },
};
use tower::{Layer, Service};

use super::{first_message, middleware::Answer, observe};
use crate::{
    grpc::{
        server::{MAX_MESSAGE, MAX_REFLECTION},
        status,
    },
    telemetry::RpcDurations,
};

/// The compressed flag and the length before a message (gRPC over HTTP/2, "Length-Prefixed-Message").
pub(super) const PREFIX: usize = 5;
/// How the paths of both versions of reflection begin.
const REFLECTION: &str = "/grpc.reflection.";
/// Maximum number of bytes of incomplete messages, of all connections together.
const MAX_INCOMPLETE: usize = 32 * 1024 * 1024;

/// Receives the messages of the services of this package.
#[derive(Clone, Debug)]
pub(in crate::grpc) struct Receive {
    /// How long a message may take to arrive.
    pub(in crate::grpc) limit: Duration,
    pub(in crate::grpc) durations: RpcDurations,
    incomplete: Arc<AtomicUsize>,
}

impl Receive {
    pub(in crate::grpc) fn new(limit: Duration, durations: RpcDurations) -> Self {
        Self { limit, durations, incomplete: Arc::default() }
    }
}

impl<S> Layer<S> for Receive {
    type Service = Receiving<S>;

    fn layer(&self, inner: S) -> Receiving<S> {
        Receiving { layer: self.clone(), inner }
    }
}

/// A service behind [`Receive`].
#[derive(Clone, Debug)]
pub(in crate::grpc) struct Receiving<S> {
    layer: Receive,
    inner: S,
}

type Boxed = Pin<Box<dyn Future<Output = Answer> + Send>>;

impl<S> Service<Request<Incoming>> for Receiving<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Either<Ready<Answer>, Boxed>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        // The messages of streams, such as those of reflection, come one by one. tonic bounds each.
        if request.uri().path().starts_with(REFLECTION) {
            let (head, body) = request.into_parts();
            return match first_message::check(body, MAX_REFLECTION) {
                Ok(body) => Either::Left(self.inner.call(Request::from_parts(head, body))),
                Err(status) => Either::Right(Either::Left(ready(Ok(status.into_http())))),
            };
        }
        if !observe::is_counted(request.uri().path()) {
            return Either::Left(self.inner.call(request.map(Body::new)));
        }
        let (head, body) = request.into_parts();
        let mut message = Message { body, received: Bytes::new(), incomplete: None };
        // Most messages have arrived with their request.
        match message.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(bytes)) => {
                let request = Request::from_parts(head, Body::new(Full::new(bytes)));
                Either::Left(self.inner.call(request))
            }
            Poll::Ready(Err(status)) => {
                self.layer.record(head.uri.path(), Instant::now(), &status);
                Either::Right(Either::Left(ready(Ok(status.into_http()))))
            }
            Poll::Pending => {
                let (layer, mut inner) = (self.layer.clone(), self.inner.clone());
                Either::Right(Either::Right(Box::pin(async move {
                    let began = Instant::now();
                    match layer.rest(message).await {
                        Ok(bytes) => {
                            std::future::poll_fn(|cx| inner.poll_ready(cx)).await?;
                            inner.call(Request::from_parts(head, Body::new(Full::new(bytes)))).await
                        }
                        Err(status) => {
                            layer.record(head.uri.path(), began, &status);
                            Ok(status.into_http())
                        }
                    }
                })))
            }
        }
    }
}

impl Receive {
    async fn rest(&self, mut message: Message) -> Result<Bytes, Status> {
        message.incomplete = Some(Counted { total: Arc::clone(&self.incomplete), bytes: 0 });
        message.count()?;
        let received = tokio::time::timeout(self.limit, std::future::poll_fn(|cx| message.poll(cx)));
        let late = |_| Status::deadline_exceeded("the request message did not arrive in time");
        received.await.map_err(late)?
    }

    fn record(&self, path: &str, began: Instant, status: &Status) {
        observe::record(&self.durations, path, status.code(), began.elapsed());
    }
}

/// A message that arrives.
struct Message {
    body: Incoming,
    received: Bytes,
    /// Counts its bytes, once it does not arrive at once.
    incomplete: Option<Counted>,
}

impl Message {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        loop {
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(Ok(std::mem::take(&mut self.received))),
                Some(Err(_)) => {
                    let ended = Status::cancelled("the request ended before its message was complete");
                    return Poll::Ready(Err(ended));
                }
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if self.received.len() + data.len() > PREFIX + MAX_MESSAGE {
                        return Poll::Ready(Err(status::too_large(MAX_MESSAGE)));
                    }
                    self.received = if self.received.is_empty() {
                        data
                    } else {
                        [&*self.received, &*data].concat().into()
                    };
                    self.count()?;
                }
            }
        }
    }

    /// Counts the bytes that have arrived.
    fn count(&mut self) -> Result<(), Status> {
        let received = self.received.len();
        let fits = self.incomplete.as_mut().is_none_or(|counted| counted.set(received));
        if fits { Ok(()) } else { Err(status::overloaded()) }
    }
}

/// The part of a message in the number of bytes of all incomplete ones.
struct Counted {
    total: Arc<AtomicUsize>,
    bytes: usize,
}

impl Counted {
    /// Returns whether there are not too many.
    fn set(&mut self, bytes: usize) -> bool {
        let added = bytes - self.bytes;
        self.bytes = bytes;
        self.total.fetch_add(added, Ordering::Relaxed) + added <= MAX_INCOMPLETE
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
