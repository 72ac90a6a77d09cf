//! Certificates of the tests: an authority, and what it issues.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType, date_time_ymd,
};

/// A certificate authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub struct Certificate {
    pub chain: String,
    pub key: String,
}

/// When a certificate is valid.
#[derive(Clone, Copy)]
pub enum Validity {
    Now,
    Past,
    Future,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate whose issuer has the name of its subject for a self-signed one.
        params.distinguished_name.push(DnType::CommonName, "authority");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// The authority's certificate, in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate of a server on this machine.
    pub fn server(&self, validity: Validity) -> Certificate {
        self.issue(&["DNS:localhost", "IP:127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth, validity)
    }

    /// A certificate of a client, with these names: `DNS:…` or `URI:…`.
    pub fn client(&self, names: &[&str], validity: Validity) -> Certificate {
        self.issue(names, ExtendedKeyUsagePurpose::ClientAuth, validity)
    }

    fn issue(&self, names: &[&str], usage: ExtendedKeyUsagePurpose, validity: Validity) -> Certificate {
        let mut params = CertificateParams::default();
        let (from, to) = match validity {
            Validity::Now => (2020, 2120),
            Validity::Past => (2020, 2021),
            Validity::Future => (2110, 2120),
        };
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        params.extended_key_usages = vec![usage];
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.split_once(':').unwrap() {
                ("DNS", name) => SanType::DnsName(name.try_into().unwrap()),
                ("URI", name) => SanType::URI(name.try_into().unwrap()),
                (_, address) => SanType::IpAddress(address.parse().unwrap()),
            })
            .collect();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Certificate { chain: certificate.pem(), key: key.serialize_pem() }
    }
}

impl Certificate {
    /// Writes chain and key into a folder, and returns the files. What is there is replaced, each file at once.
    pub fn write(&self, folder: &Path) -> [PathBuf; 2] {
        [("tls.crt", &self.chain), ("tls.key", &self.key)]
            .map(|(name, text)| private_file(folder, name, text))
    }
}

/// Writes a file that only its owner may read.
pub fn private_file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let (file, new) = (folder.join(name), folder.join(format!("{name}.new")));
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(new, &file).unwrap();
    file
}
