//! A minimal HTTP/1.1 client.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::soon;

/// Sends a request, and returns the status, the head in lower case, and the body of the answer.
pub async fn send(
    addr: SocketAddr,
    method_and_path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, String, String) {
    try_send(addr, method_and_path, headers, body).await.unwrap()
}

/// Sends a request as [`send`] does; `None` if the connection breaks.
pub async fn try_send(
    addr: SocketAddr,
    method_and_path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Option<(u16, String, String)> {
    let mut head =
        format!("{method_and_path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| *name == "host") {
        head.push_str(&format!("host: {addr}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut tcp = TcpStream::connect(addr).await.ok()?;
    tcp.write_all(&[head.as_bytes(), b"\r\n", body].concat()).await.ok()?;
    let mut answer = Vec::new();
    soon("answer", tcp.read_to_end(&mut answer)).await.ok()?;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Some((status, head.to_ascii_lowercase(), body.to_owned()))
}

/// Asks for a WebSocket. Returns the stream after the answer that opens it, or the status of another answer.
pub async fn upgrade(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<TcpStream, u16> {
    let mut head = format!(
        "GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut tcp = TcpStream::connect(addr).await.unwrap();
    tcp.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(soon("answer", tcp.read_u8()).await.unwrap());
    }
    match String::from_utf8(answer).unwrap().split(' ').nth(1).unwrap().parse().unwrap() {
        101 => Ok(tcp),
        status => Err(status),
    }
}
