//! A TCP proxy that can drop what clients send, as a broken network does.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::postgres::Postgres;

/// A proxy on a free port.
pub struct Proxy {
    pub addr: SocketAddr,
    swallow: watch::Sender<bool>,
    port: watch::Sender<u16>,
}

impl Proxy {
    /// Starts a proxy to a new PostgreSQL database, and returns it with the URL of the database through it.
    pub async fn to_new_database() -> (Self, String) {
        let url = Postgres::shared().create_database().await;
        let (_, name) = url.rsplit_once('/').unwrap();
        let proxy = Self::to(Postgres::shared().port()).await;
        let url = format!("postgres://postgres@{}/{name}", proxy.addr);
        (proxy, url)
    }

    /// Starts a proxy to `port` of this machine.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (swallow, swallowing) = watch::channel(false);
        let (port, target) = watch::channel(port);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (swallowing, port) = (swallowing.clone(), *target.borrow());
                tokio::spawn(async move {
                    let server = TcpStream::connect(("127.0.0.1", port)).await?;
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    let back = tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
                    let mut buffer = [0; 4096];
                    loop {
                        let length = from_client.read(&mut buffer).await?;
                        if length == 0 {
                            break;
                        }
                        if !*swallowing.borrow() {
                            to_server.write_all(&buffer[..length]).await?;
                        }
                    }
                    back.abort();
                    std::io::Result::Ok(())
                });
            }
        });
        Self { addr, swallow, port }
    }

    /// Forwards new connections to another port.
    pub fn redirect_to(&self, port: u16) {
        self.port.send_replace(port);
    }

    /// Drops what clients send from now on; what the server sends still arrives.
    pub fn swallow_requests(&self) {
        self.swallow.send_replace(true);
    }

    /// Forwards what clients send again; what was dropped is lost.
    pub fn pass_requests(&self) {
        self.swallow.send_replace(false);
    }
}
