//! A TCP proxy that fails in the ways in which a network does.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

use super::{App, postgres::Postgres};

/// A proxy on a free port.
pub struct Proxy {
    pub addr: SocketAddr,
    network: watch::Sender<Network>,
    /// Counts how often all connections were cut.
    cuts: watch::Sender<u64>,
    port: watch::Sender<u16>,
    connections: Connections,
}

/// What happens to bytes on their way.
#[derive(Clone, Copy, Debug)]
struct Network {
    drops_requests: bool,
    drops_answers: bool,
    refuses: bool,
    holds: bool,
    delay: Duration,
}

/// What each connection has sent, and whether it is silent from now on.
type Connections = Arc<Mutex<Vec<Connection>>>;

#[derive(Default)]
struct Connection {
    sent: Vec<u8>,
    is_silent: bool,
}

const SOUND: Network = Network {
    drops_requests: false,
    drops_answers: false,
    refuses: false,
    holds: false,
    delay: Duration::ZERO,
};

/// A direction in which bytes go.
#[derive(Clone, Copy)]
enum Direction {
    Requests,
    Answers,
}

impl Proxy {
    /// Starts a proxy to a new PostgreSQL database, and returns it with the URL of the database through it.
    pub async fn to_new_database() -> (Self, String) {
        let url = Postgres::shared().create_database().await;
        let proxy = Self::to(Postgres::shared().port()).await;
        let url = proxy.url_of(&url);
        (proxy, url)
    }

    /// Starts a proxy to the database of `app`, which is on the shared PostgreSQL, and returns it with the URL of the database
    /// through it.
    pub async fn to_database_of(app: &App) -> (Self, String) {
        let proxy = Self::to(Postgres::shared().port()).await;
        let url = proxy.url_of(&app.url);
        (proxy, url)
    }

    /// Starts a second service on the database of `app`, through a proxy.
    pub async fn before(app: &App, settings: &[&str]) -> (Self, App) {
        let (proxy, url) = Self::to_database_of(app).await;
        (proxy, App::start_on(url, tempfile::tempdir().unwrap(), settings).await)
    }

    /// The URL through the proxy of the database at `url`, or with this name.
    pub fn url_of(&self, url: &str) -> String {
        format!("postgres://postgres@{}/{}", self.addr, url.rsplit('/').next().unwrap())
    }

    /// Starts a proxy to `port` of this machine.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (network, state) = watch::channel(SOUND);
        let (cuts, cut) = watch::channel(0);
        let (port, target) = watch::channel(port);
        let connections = Connections::default();
        let opened = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if state.borrow().refuses {
                    continue;
                }
                let mut all = opened.lock().unwrap();
                all.push(Connection::default());
                let connection = (Arc::clone(&opened), all.len() - 1);
                drop(all);
                let (state, mut cut, port) = (state.clone(), cut.clone(), *target.borrow());
                cut.mark_unchanged();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = connect(client, port, state, connection) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { addr, network, cuts, port, connections }
    }

    /// Forwards new connections to another port.
    pub fn redirect_to(&self, port: u16) {
        self.port.send_replace(port);
    }

    /// Drops what clients send from now on; what the server sends still arrives.
    pub fn swallow_requests(&self) {
        self.network.send_modify(|network| network.drops_requests = true);
    }

    /// Drops what the server sends from now on; what clients send still arrives.
    pub fn swallow_answers(&self) {
        self.network.send_modify(|network| network.drops_answers = true);
    }

    /// Holds everything back until [`Proxy::pass_requests`]; then it arrives late.
    pub fn hold(&self) {
        self.network.send_modify(|network| network.holds = true);
    }

    /// Delays everything by this long in each direction.
    pub fn delay(&self, delay: Duration) {
        self.network.send_modify(|network| network.delay = delay);
    }

    /// Closes every connection, and refuses new ones.
    pub fn cut(&self) {
        self.network.send_modify(|network| network.refuses = true);
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Drops from now on what the connections send that have sent this text so far, and returns how many those are.
    pub fn silence_senders_of(&self, text: &str) -> usize {
        let mut connections = self.connections.lock().unwrap();
        let sent = |connection: &&mut Connection| {
            connection.sent.windows(text.len()).any(|window| window == text.as_bytes())
        };
        connections.iter_mut().filter(sent).map(|connection| connection.is_silent = true).count()
    }

    /// Forwards everything again; what was dropped is lost.
    pub fn pass_requests(&self) {
        self.network.send_replace(SOUND);
    }
}

async fn connect(
    client: TcpStream,
    port: u16,
    state: watch::Receiver<Network>,
    connection: (Connections, usize),
) -> std::io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", port)).await?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // When one side closes, the other one is closed too.
    tokio::select! {
        ended = forward(from_client, to_server, Direction::Requests, state.clone(), &connection) => ended,
        ended = forward(from_server, to_client, Direction::Answers, state, &connection) => ended,
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    mut state: watch::Receiver<Network>,
    (connections, index): &(Connections, usize),
) -> std::io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        // Fails only if the proxy is gone.
        let Ok(network) = state.wait_for(|network| !network.holds).await.map(|network| *network) else {
            return Ok(());
        };
        if !network.delay.is_zero() {
            tokio::time::sleep(network.delay).await;
        }
        let is_dropped = match direction {
            Direction::Requests => {
                let connection = &mut connections.lock().unwrap()[*index];
                connection.sent.extend_from_slice(&buffer[..length]);
                network.drops_requests || connection.is_silent
            }
            Direction::Answers => network.drops_answers,
        };
        if !is_dropped {
            to.write_all(&buffer[..length]).await?;
        }
    }
}
