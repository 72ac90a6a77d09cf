//! Who is at the other end of a connection.

use std::{net::SocketAddr, sync::Arc};

use x509_parser::{extensions::GeneralName, prelude::FromDer as _};

/// Who is at the other end of a connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address of the connection.
    pub addr: SocketAddr,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
    /// The names in the client certificate, which TLS has verified; empty without one.
    pub names: Arc<[PeerName]>,
}

/// A subject alternative name of a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerName {
    /// A URI, for instance a SPIFFE ID.
    Uri(Box<str>),
    /// A DNS name.
    Dns(Box<str>),
}

impl PeerName {
    /// Returns the names in a certificate (DER); none if it cannot be read.
    pub(super) fn of(certificate: &[u8]) -> Arc<[Self]> {
        let Ok((_, certificate)) = x509_parser::certificate::X509Certificate::from_der(certificate) else {
            return Arc::default();
        };
        let Ok(Some(names)) = certificate.subject_alternative_name() else { return Arc::default() };
        let name = |name: &GeneralName<'_>| match name {
            GeneralName::URI(uri) => Some(Self::Uri((*uri).into())),
            GeneralName::DNSName(name) => Some(Self::Dns((*name).into())),
            _ => None,
        };
        names.value.general_names.iter().filter_map(name).collect()
    }
}
