//! TLS of the listeners: certificates, which are read again when their files change.

use std::{
    fmt, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use sha2::{Digest as _, Sha256};
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{VerifierBuilderError, WebPkiClientVerifier},
    version::{TLS12, TLS13},
};

/// The files of a listener's TLS.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate chain (PEM), the listener's own certificate first.
    pub certificate: PathBuf,
    /// The private key (PEM).
    pub key: PathBuf,
    /// The authorities of client certificates (PEM).
    pub client_ca: Option<PathBuf>,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked for one.
    None,
    /// They may.
    Optional,
    /// They must.
    Required,
}

impl FromStr for ClientAuth {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "none" => Ok(Self::None),
            "optional" => Ok(Self::Optional),
            "required" => Ok(Self::Required),
            _ => Err("must be none, optional or required"),
        }
    }
}

/// The oldest version of TLS that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    V1_2,
    /// TLS 1.3 (RFC 8446).
    V1_3,
}

impl FromStr for TlsVersion {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "1.2" => Ok(Self::V1_2),
            "1.3" => Ok(Self::V1_3),
            _ => Err("must be 1.2 or 1.3"),
        }
    }
}

impl TlsVersion {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
        match self {
            Self::V1_2 => BOTH,
            Self::V1_3 => &BOTH[..1],
        }
    }
}

/// Why TLS cannot be set up. Names the file, and nothing of its content.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", .file.display())]
pub struct TlsError {
    file: PathBuf,
    reason: String,
}

/// TLS of a listener.
pub struct Tls {
    files: TlsFiles,
    client_auth: ClientAuth,
    oldest: TlsVersion,
    /// The application protocol: h2 or http/1.1 (RFC 7301).
    protocol: &'static str,
    config: ArcSwap<ServerConfig>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// How often to look whether the files have changed.
const INTERVAL: Duration = Duration::from_secs(2);

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// See [`TlsError`].
    pub fn open(
        files: TlsFiles,
        client_auth: ClientAuth,
        oldest: TlsVersion,
        protocol: &'static str,
    ) -> Result<Self, TlsError> {
        let config = config(&files, client_auth, oldest, protocol)?;
        Ok(Self { files, client_auth, oldest, protocol, config: ArcSwap::from_pointee(config) })
    }

    pub(super) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        self.config.load_full().into()
    }

    /// Reads the files again when they change, until it is dropped. Connections that are open stay as they are.
    pub async fn follow(&self) {
        let mut seen = self.fingerprint();
        let mut ticks = tokio::time::interval(INTERVAL);
        loop {
            ticks.tick().await;
            let now = self.fingerprint();
            if now == seen {
                continue;
            }
            seen = now;
            match config(&self.files, self.client_auth, self.oldest, self.protocol) {
                Ok(config) => {
                    self.config.store(Arc::new(config));
                    tracing::info!(protocol = self.protocol, "the certificates were read again");
                }
                // For a moment the certificate may be newer than the key.
                Err(error) => {
                    tracing::warn!(protocol = self.protocol, %error, "the certificates are wrong; they stay as they were");
                }
            }
        }
    }

    /// Returns something that differs when the files do.
    fn fingerprint(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for file in [Some(&self.files.certificate), Some(&self.files.key), self.files.client_ca.as_ref()] {
            let content = file.and_then(|file| std::fs::read(file).ok()).map(zeroize::Zeroizing::new);
            digest.update(content.as_ref().map_or(&[][..], |content| content));
            digest.update([0]);
        }
        digest.finalize().into()
    }
}

fn config(
    files: &TlsFiles,
    client_auth: ClientAuth,
    oldest: TlsVersion,
    protocol: &str,
) -> Result<ServerConfig, TlsError> {
    let chain = certificates(&files.certificate)?;
    check_private(&files.key)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, error))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(oldest.versions())
        .map_err(|error| wrong(&files.certificate, error))?;
    let builder = match (&files.client_ca, client_auth) {
        (Some(file), ClientAuth::Optional | ClientAuth::Required) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|error| wrong(file, error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier =
                if client_auth == ClientAuth::Optional { verifier.allow_unauthenticated() } else { verifier };
            let verifier = verifier.build().map_err(|error: VerifierBuilderError| wrong(file, error))?;
            builder.with_client_cert_verifier(verifier)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut config =
        builder.with_single_cert(chain, key).map_err(|error| wrong(&files.certificate, error))?;
    config.alpn_protocols = vec![protocol.into()];
    Ok(config)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(file, error))?;
    if certificates.is_empty() {
        return Err(wrong(file, "has no certificate in PEM"));
    }
    Ok(certificates)
}

/// Refuses a file that every user of the machine may read.
///
/// # Errors
///
/// It is such a file, or does not exist.
fn check_private(file: &Path) -> Result<(), TlsError> {
    let mode = std::fs::metadata(file).map_err(|error: io::Error| wrong(file, error))?.permissions().mode();
    if mode & 0o007 != 0 {
        let reason =
            format!("every user may read or change it (mode {:o}); run chmod o-rwx on it", mode & 0o777);
        return Err(wrong(file, reason));
    }
    Ok(())
}

fn wrong(file: &Path, reason: impl ToString) -> TlsError {
    TlsError { file: file.to_owned(), reason: reason.to_string() }
}
