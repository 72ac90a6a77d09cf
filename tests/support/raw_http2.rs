//! HTTP/2 without a gRPC library, to send what a library would not send and to see what it would hide.

use std::{collections::HashMap, net::SocketAddr};

use h2::client::SendRequest;
use tokio::net::TcpStream;
use tonic::codegen::{Bytes, http::Request};

use super::soon;

/// The compressed flag, and four bytes of length.
const FRAME_HEADER: usize = 5;

/// A connection.
pub struct RawHttp2 {
    pub send: SendRequest<Bytes>,
    /// How many streams the server allows at once.
    pub max_streams: usize,
    pub closed: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

impl RawHttp2 {
    pub async fn connect(addr: SocketAddr) -> Self {
        let tcp = TcpStream::connect(addr).await.unwrap();
        let (send, mut connection) = h2::client::handshake(tcp).await.unwrap();
        // The server's settings arrive before its answer to a ping.
        let mut ping = connection.ping_pong().unwrap();
        let (sender, max_streams) = tokio::sync::oneshot::channel();
        let closed = tokio::spawn(async move {
            let pong = ping.ping(h2::Ping::opaque());
            tokio::pin!(pong);
            let mut sender = Some(sender);
            std::future::poll_fn(|cx| {
                if sender.is_some() && pong.as_mut().poll(cx).is_ready() {
                    let _ = sender.take().unwrap().send(connection.max_concurrent_send_streams());
                }
                Future::poll(std::pin::Pin::new(&mut connection), cx)
            })
            .await
        });
        let max_streams = soon("pong", max_streams).await.unwrap();
        Self { send, max_streams, closed }
    }

    /// The head of a gRPC request to the token service.
    pub fn request(method: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::post(format!("http://test/latchkey.v1.TokenService/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    /// Calls a method with a protobuf message, and returns the headers and trailers of the answer together.
    pub async fn call(&self, method: &str, headers: &[(&str, &str)], body: &[u8]) -> HashMap<String, String> {
        self.send(Self::request(method, headers), &frame(0, body)).await.0
    }

    /// Calls a method with a protobuf message, and returns the message of the answer.
    pub async fn call_for<M: prost::Message + Default>(&self, method: &str, body: &[u8]) -> M {
        let (headers, answer) = self.send(Self::request(method, &[]), &frame(0, body)).await;
        assert_eq!(headers["grpc-status"], "0", "{headers:?}");
        M::decode(&answer[FRAME_HEADER..]).unwrap()
    }

    /// Sends a request with these bytes as its body, and returns the headers and trailers of the answer together, and
    /// its body.
    pub async fn send(&self, request: Request<()>, bytes: &[u8]) -> (HashMap<String, String>, Vec<u8>) {
        let mut send = self.send.clone().ready().await.unwrap();
        let (answer, mut stream) = send.send_request(request, false).unwrap();
        stream.send_data(bytes.to_vec().into(), true).unwrap();
        let answer = soon("answer", answer).await.unwrap();
        let mut all: Vec<_> = answer.headers().clone().into_iter().collect();
        let (mut body, mut bytes) = (answer.into_body(), Vec::new());
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            bytes.extend(data);
        }
        all.extend(body.trailers().await.unwrap().unwrap_or_default());
        let headers = all
            .into_iter()
            .filter_map(|(name, value)| Some((name?.to_string(), value.to_str().unwrap().to_owned())))
            .collect();
        (headers, bytes)
    }
}

/// A message in a gRPC frame with this compressed flag.
pub fn frame(compressed: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[compressed], &length[..], message].concat()
}
