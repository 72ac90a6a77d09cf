//! Settings of what API gateways and OAuth clients ask.

use axum::http::HeaderName;
use clap::Args;

use super::values::switch;
use crate::oauth::Issuer;

/// Settings of what API gateways and OAuth clients ask.
#[derive(Args, Clone, Debug)]
pub struct GatewayConfig {
    /// Header that may have a token in place of Authorization, such as X-Api-Key, in requests that a gateway asks about.
    /// Default: none.
    #[arg(long, env = "LATCHKEY_API_KEY_HEADER", value_name = "NAME", value_parser = header)]
    pub api_key_header: Option<HeaderName>,

    /// Have Envoy remove the credential from requests that it lets through.
    #[arg(long, env = "LATCHKEY_REMOVE_CREDENTIAL", value_parser = switch)]
    pub remove_credential: bool,

    /// URL below which clients reach the HTTP listener: the issuer in token introspection (RFC 7662) and in the metadata of
    /// the authorization server (RFC 8414). Default: none, and there is no metadata.
    #[arg(long, env = "LATCHKEY_ISSUER", value_name = "URL")]
    pub issuer: Option<Issuer>,
}

fn header(text: &str) -> Result<HeaderName, &'static str> {
    // These have a meaning of their own.
    const RESERVED: [&str; 5] = ["authorization", "cookie", "host", "content-length", "transfer-encoding"];
    let name: HeaderName = text.parse().map_err(|_| "must be the name of a header, such as X-Api-Key")?;
    if RESERVED.contains(&name.as_str()) || name.as_str().starts_with("x-latchkey-") {
        return Err("must not be a header that has another meaning; use X-Api-Key, for example");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_another_meaning_is_refused() {
        assert_eq!(header("X-Api-Key").unwrap(), "x-api-key");
        for bad in ["", "X Api", "Authorization", "cookie", "X-Latchkey-User-Id"] {
            header(bad).unwrap_err();
        }
    }
}
