//! TLS on both listeners, and callers by their certificates.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use ::latchkey::proto::latchkey::{ListTokensRequest, token_service_client::TokenServiceClient};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, SupportedProtocolVersion,
        crypto::ring,
        pki_types::{CertificateDer, pem::PemObject as _},
        version::{TLS12, TLS13},
    },
};
use tonic::{
    Code,
    transport::{Certificate as Trusted, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::support::{
    certificates::{Authority, Certificate, Validity, private_file},
    latchkey::{self, Process},
    until,
};

/// A service with TLS, and the authority of its certificate.
struct Encrypted {
    process: Process,
    authority: Authority,
    folder: tempfile::TempDir,
}

impl Encrypted {
    fn start(settings: &[&str]) -> Self {
        Self::start_with(Authority::new(), settings, |_| {})
    }

    fn start_with(authority: Authority, settings: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        authority.server(Validity::Now).write(folder.path());
        prepare(folder.path());
        let tls = ["--tls-cert", "tls.crt", "--tls-key", "tls.key"];
        let process = Process::start(folder.path(), &[&tls, settings].concat());
        Self { process, authority, folder }
    }

    /// A gRPC connection, with a client certificate or without.
    async fn channel(&self, client: Option<&Certificate>) -> Result<Channel, tonic::transport::Error> {
        let mut tls = ClientTlsConfig::new().ca_certificate(Trusted::from_pem(self.authority.pem()));
        if let Some(client) = client {
            tls = tls.identity(Identity::from_pem(&client.chain, &client.key));
        }
        let url = format!("https://localhost:{}", self.process.grpc_addr.port());
        Endpoint::from_shared(url).unwrap().tls_config(tls).unwrap().connect().await
    }

    /// The code of a call, or `None` if there is no connection.
    async fn list(&self, client: Option<&Certificate>) -> Option<Code> {
        let mut tokens = TokenServiceClient::new(self.channel(client).await.ok()?);
        let request = ListTokensRequest { user_id: "alice".into(), ..Default::default() };
        match tokens.list_tokens(request).await {
            Ok(_) => Some(Code::Ok),
            // TLS 1.3 refuses a client's certificate after the client's side of the handshake.
            Err(status) if matches!(status.code(), Code::Unknown | Code::Unavailable | Code::Cancelled) => {
                None
            }
            Err(status) => Some(status.code()),
        }
    }

    /// A bare TLS connection to the HTTP listener.
    async fn connect(
        &self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(self.process.http_addr).await?;
        TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), tcp).await
    }

    /// The server's certificate, as a new connection sees it.
    async fn certificate(&self) -> CertificateDer<'static> {
        let stream = self.connect(&[&TLS13]).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    }
}

/// Sends a request on an open connection, and returns the first line of the answer.
async fn ask(stream: &mut TlsStream<TcpStream>) -> String {
    stream.write_all(b"GET /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..length]).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_listeners_are_encrypted_and_nothing_else_is_accepted() {
    let service = Encrypted::start(&[]);
    assert_eq!(service.list(None).await, Some(Code::Ok));
    let mut http = service.connect(&[&TLS13]).await.unwrap();
    assert_eq!(ask(&mut http).await, "HTTP/1.1 404 Not Found");
    // The admin listener is for the network of the operators, and `latchkey health` asks it.
    assert!(service.process.admin_is_alive().await);
    let admin = service.process.admin_addr.to_string();
    let health = latchkey::run(["health", "--tls-cert", "tls.crt", "--admin-addr", &admin], "");
    assert_eq!(String::from_utf8(health.stdout).unwrap(), format!("{admin} is serving\n"));
    assert!(service.connect(&[&TLS12]).await.is_err(), "TLS 1.2 is not accepted");
    let plain = Endpoint::from_shared(format!("http://{}", service.process.grpc_addr)).unwrap();
    let answer = match plain.connect().await {
        Ok(channel) => {
            TokenServiceClient::new(channel).list_tokens(ListTokensRequest::default()).await.is_ok()
        }
        Err(_) => false,
    };
    assert!(!answer, "an unencrypted call was answered");
    let older = Encrypted::start(&["--tls-min-version", "1.2"]);
    older.connect(&[&TLS12]).await.unwrap();
    older.connect(&[&TLS13]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_used_for_new_connections_and_open_ones_live_on() {
    let service = Encrypted::start(&[]);
    let before = service.certificate().await;
    let mut open = service.connect(&[&TLS13]).await.unwrap();
    assert_eq!(ask(&mut open).await, "HTTP/1.1 404 Not Found");

    // A wrong file, and a key that does not fit, change nothing.
    let renewed = service.authority.server(Validity::Now);
    private_file(service.folder.path(), "tls.crt", "nonsense");
    let log = |text: &str| service.process.log_has(text);
    until("the refusal", || async { log("they stay as they were").then_some(()) }).await;
    assert_eq!(service.certificate().await, before);

    renewed.write(service.folder.path());
    until("the new certificate", || async { (service.certificate().await != before).then_some(()) }).await;
    assert_eq!(service.list(None).await, Some(Code::Ok));
    assert_eq!(ask(&mut open).await, "HTTP/1.1 404 Not Found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_is_recognised_by_the_names_in_its_certificate() {
    let authority = Authority::new();
    let names = ["URI:spiffe://example.org/gateway", "DNS:console.example.org"];
    let [gateway, console] = names.map(|name| authority.client(&[name], Validity::Now));
    let stranger = authority.client(&["DNS:other.example.org"], Validity::Now);
    let expired = authority.client(&[names[1]], Validity::Past);
    let early = authority.client(&[names[1]], Validity::Future);
    let forged = Authority::new().client(&[names[1]], Validity::Now);
    let both = authority.client(&names, Validity::Now);
    let ca = authority.pem();
    let prepare = |folder: &Path| {
        fs::write(folder.join("ca.crt"), ca).unwrap();
        let callers = "[[caller]]\nname = \"gateway\"\nroles = [\"validator\"]\ncertificates = [\"spiffe://example.org/gateway\"]\n\
             [[caller]]\nname = \"console\"\nroles = [\"manager\"]\ncertificates = [\"console.example.org\"]\n";
        fs::write(folder.join("callers.toml"), callers).unwrap();
    };
    let settings = ["--tls-client-ca", "ca.crt", "--callers", "callers.toml"];
    let service = Encrypted::start_with(authority, &settings, prepare);
    assert_eq!(service.list(Some(&console)).await, Some(Code::Ok));
    assert_eq!(service.list(Some(&gateway)).await, Some(Code::PermissionDenied));
    for client in [None, Some(&stranger), Some(&both)] {
        assert_eq!(service.list(client).await, Some(Code::Unauthenticated));
    }
    for client in [&expired, &early, &forged] {
        assert_eq!(service.list(Some(client)).await, None, "the handshake fails");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_certificates_can_be_required() {
    let authority = Authority::new();
    let ca = authority.pem();
    let client = authority.client(&["DNS:any.example.org"], Validity::Now);
    let settings = ["--tls-client-ca", "ca.crt", "--tls-client-auth", "required"];
    let service =
        Encrypted::start_with(authority, &settings, |folder| fs::write(folder.join("ca.crt"), ca).unwrap());
    assert_eq!(service.list(Some(&client)).await, Some(Code::Ok));
    assert_eq!(service.list(None).await, None);
}

#[test]
fn settings_that_do_not_fit_together_stop_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.server(Validity::Now).write(folder.path());
    fs::write(folder.path().join("ca.crt"), authority.pem()).unwrap();
    let other = tempfile::tempdir().unwrap();
    let [_, other_key] = authority.server(Validity::Now).write(other.path());
    let open = folder.path().join("open.key");
    fs::copy(folder.path().join("tls.key"), &open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o604)).unwrap();
    let callers = "[[caller]]\nname = \"c\"\nroles = [\"manager\"]\ncertificates = [\"a.example.org\"]\n";
    fs::write(folder.path().join("callers.toml"), callers).unwrap();

    let files = ["--tls-cert", "tls.crt", "--tls-key", "tls.key"];
    let with = |more: &[&'static str]| [&files[..], more].concat();
    for (arguments, expected) in [
        (vec!["--tls-cert", "tls.crt"], "LATCHKEY_TLS_KEY"),
        (vec!["--tls-key", "tls.key"], "LATCHKEY_TLS_CERT"),
        (vec!["--tls-client-ca", "ca.crt"], "LATCHKEY_TLS_CERT"),
        (with(&["--tls-client-auth", "required"]), "LATCHKEY_TLS_CLIENT_CA"),
        (vec!["--tls-cert", "none.crt", "--tls-key", "tls.key"], "none.crt"),
        (vec!["--tls-cert", "tls.key", "--tls-key", "tls.key"], "has no certificate"),
        (vec!["--tls-cert", "tls.crt", "--tls-key", other_key.to_str().unwrap()], "tls.crt"),
        (vec!["--tls-cert", "tls.crt", "--tls-key", "open.key"], "chmod o-rwx"),
        (with(&["--tls-client-ca", "tls.key"]), "tls.key: has no certificate"),
        (with(&["--callers", "callers.toml"]), "LATCHKEY_TLS_CLIENT_CA"),
        // Not loopback: both protections are needed, and the error names the one that is missing.
        (vec!["--grpc-addr", "0.0.0.0:0"], "LATCHKEY_TLS_CERT, LATCHKEY_TLS_KEY, LATCHKEY_CALLERS"),
        (with(&["--http-addr", "0.0.0.0:0"]), "set --callers (LATCHKEY_CALLERS)"),
    ] {
        let said = latchkey::refuses(folder.path(), &[&["serve"], &arguments[..]].concat());
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert!(!said.contains("PRIVATE KEY"), "{said}");
    }
}
