//! Settings of the subscriber to account events on NATS.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use secrecy::SecretString;

use super::values::{duration, nats_name, nats_subject, secret, switch};
use crate::nats::NatsSettings;

/// Settings of the subscriber to account events on NATS.
#[derive(Args, Clone, Debug)]
pub struct NatsConfig {
    /// NATS servers that carry the identity service's events, separated by commas: nats://USER:PASSWORD@HOST:PORT or
    /// tls://…. Default: none; nothing is subscribed to.
    #[arg(long, env = "LATCHKEY_NATS_URL", value_name = "URL", hide_env_values = true, value_parser = secret)]
    pub nats_url: Option<SecretString>,

    /// Name of the identity service's JetStream stream.
    #[arg(long, env = "LATCHKEY_NATS_STREAM", value_name = "NAME", default_value = "IDENTITY",
        value_parser = nats_name)]
    pub nats_stream: String,

    /// Subject of the UserDeleted events in that stream.
    #[arg(long, env = "LATCHKEY_NATS_SUBJECT", value_name = "SUBJECT",
        default_value = "identity.v1.user_deleted", value_parser = nats_subject)]
    pub nats_subject: String,

    /// Name of the durable consumer that all replicas share.
    #[arg(long, env = "LATCHKEY_NATS_DURABLE", value_name = "NAME", default_value = "latchkey",
        value_parser = nats_name)]
    pub nats_durable: String,

    /// Create the stream if it does not exist. For development only: the stream belongs to the identity service.
    #[arg(long, env = "LATCHKEY_NATS_CREATE_STREAM", value_parser = switch)]
    pub nats_create_stream: bool,

    /// How long NATS waits for an acknowledgement before it redelivers a message: 1s to 10m. An existing consumer keeps
    /// its value.
    #[arg(long, env = "LATCHKEY_NATS_ACK_WAIT", value_name = "DURATION", default_value = "30s",
        value_parser = duration::<1_000, 600_000>)]
    pub nats_ack_wait: Duration,

    /// NATS credentials file (.creds).
    #[arg(long, env = "LATCHKEY_NATS_CREDENTIALS", value_name = "FILE")]
    pub nats_credentials: Option<PathBuf>,

    /// Require TLS.
    #[arg(long, env = "LATCHKEY_NATS_TLS", value_parser = switch)]
    pub nats_tls: bool,

    /// PEM file with CA certificates trusted in addition to the system's.
    #[arg(long, env = "LATCHKEY_NATS_TLS_CA", value_name = "FILE")]
    pub nats_tls_ca: Option<PathBuf>,

    /// PEM file with the client certificate.
    #[arg(long, env = "LATCHKEY_NATS_TLS_CERT", value_name = "FILE", requires = "nats_tls_key")]
    pub nats_tls_cert: Option<PathBuf>,

    /// PEM file with the private key of the client certificate.
    #[arg(long, env = "LATCHKEY_NATS_TLS_KEY", value_name = "FILE", requires = "nats_tls_cert")]
    pub nats_tls_key: Option<PathBuf>,
}

impl NatsConfig {
    /// Returns the settings of the subscriber, or nothing if no NATS server is set.
    pub fn settings(&self) -> Option<NatsSettings> {
        Some(NatsSettings {
            url: self.nats_url.clone()?,
            stream: self.nats_stream.clone(),
            subject: self.nats_subject.clone(),
            durable: self.nats_durable.clone(),
            create_stream: self.nats_create_stream,
            ack_wait: self.nats_ack_wait,
            credentials: self.nats_credentials.clone(),
            tls: self.nats_tls,
            tls_ca: self.nats_tls_ca.clone(),
            tls_identity: self.nats_tls_cert.clone().zip(self.nats_tls_key.clone()),
        })
    }
}
