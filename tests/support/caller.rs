//! Callers of a service that has a callers file.

use std::path::Path;

use latchkey::{
    caller::{generate_secret, hash_secret},
    proto::latchkey::token_service_client::TokenServiceClient,
};
use secrecy::ExposeSecret as _;
use tonic::{
    Request, Status, metadata::MetadataValue, service::interceptor::InterceptedService, transport::Channel,
};

/// A shared secret.
pub struct SharedSecret {
    pub secret: String,
    pub hash: String,
}

impl SharedSecret {
    pub fn new() -> Self {
        let secret = generate_secret().unwrap();
        Self { hash: hash_secret(&secret).unwrap(), secret: secret.expose_secret().to_owned() }
    }

    /// An entry of the callers file, with further fields.
    pub fn entry(&self, name: &str, role: &str, fields: &str) -> String {
        let hash = &self.hash;
        format!(
            "[[caller]]\nname = \"{name}\"\nroles = [\"{role}\"]\nsecret_hashes = [\"{hash}\"]\n{fields}\n"
        )
    }
}

/// Writes a file at once, as tools that configure services do.
pub fn write(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// Sends a header with each call.
#[derive(Clone)]
pub struct Authorization(Option<MetadataValue<tonic::metadata::Ascii>>);

impl tonic::service::Interceptor for Authorization {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A channel whose calls have this bearer credential, or none.
pub fn with_bearer(
    channel: &Channel,
    credential: Option<&str>,
) -> InterceptedService<Channel, Authorization> {
    let value = credential.map(|credential| format!("Bearer {credential}").parse().unwrap());
    InterceptedService::new(channel.clone(), Authorization(value))
}

/// A client of the token service with this bearer credential.
pub fn tokens_as(
    channel: &Channel,
    credential: &str,
) -> TokenServiceClient<InterceptedService<Channel, Authorization>> {
    TokenServiceClient::new(with_bearer(channel, Some(credential)))
}
