//! Requests to other services over HTTP, which this service depends on: their size and time are bounded.

use std::{io, time::Duration};

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

/// A client that trusts the certificate authorities of the system.
pub(crate) type HttpClient = Client<HttpsConnector<HttpConnector>, Body>;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of an answer, in bytes.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// Returns a client.
///
/// # Errors
///
/// The system has no certificate authorities.
pub(crate) fn http_client() -> io::Result<HttpClient> {
    let provider = tokio_rustls::rustls::crypto::ring::default_provider();
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(provider)?
        .https_or_http()
        .enable_http1()
        .build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

/// Sends a request, and returns the body of the answer.
///
/// # Errors
///
/// What is wrong: nothing of the request or the answer's body.
pub(crate) async fn fetch(client: &HttpClient, request: Request<Body>) -> Result<Vec<u8>, String> {
    let answer = async {
        let response =
            client.request(request).await.map_err(|error| match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            })?;
        if response.status() != StatusCode::OK {
            return Err(format!("the answer is {}", response.status()));
        }
        let body = to_bytes(Body::new(response.into_body()), MAX_BYTES).await;
        body.map(Into::into).map_err(|error| error.to_string())
    };
    tokio::time::timeout(TIMEOUT, answer).await.unwrap_or_else(|_| Err("no answer within 5 s".to_owned()))
}
