//! Settings of the web page.

use std::path::{Path, PathBuf};

use axum::http::HeaderName;
use clap::Args;

use super::ConfigError;
use crate::{
    page::{Accent, FrameAncestors},
    token::Scope,
};

/// Settings of the web page.
#[derive(Args, Clone, Debug)]
pub struct PageConfig {
    /// Header in which a proxy in front of the web page puts a JWT of its user, such as X-Forwarded-Access-Token or
    /// Cf-Access-Jwt-Assertion. The JWT's issuer must be in the callers file, with user_claim. Default: none, and there is no page;
    /// but without a callers file, on loopback, the page asks who the user is.
    #[arg(long, env = "LATCHKEY_PAGE_JWT_HEADER", value_name = "NAME")]
    pub page_jwt_header: Option<HeaderName>,

    /// Name of the product on the web page.
    #[arg(long, env = "LATCHKEY_PAGE_PRODUCT", value_name = "NAME", default_value = "Latchkey")]
    pub page_product: String,

    /// Colour of buttons and links on the web page, dark enough for white text on it.
    #[arg(long, env = "LATCHKEY_PAGE_ACCENT", value_name = "COLOUR", default_value = "#2456c9")]
    pub page_accent: Accent,

    /// URL to which the web page leads back. Default: none.
    #[arg(long, env = "LATCHKEY_PAGE_BACK", value_name = "URL", value_parser = url)]
    pub page_back: Option<String>,

    /// URL of the product's API in the example for a new token.
    #[arg(long, env = "LATCHKEY_PAGE_API", value_name = "URL", default_value = "https://api.example.com/", value_parser = url)]
    pub page_api: String,

    /// Origins whose pages may show the web page in a frame, separated by commas. Default: none.
    #[arg(long, env = "LATCHKEY_PAGE_FRAME_ANCESTORS", value_name = "ORIGINS")]
    pub page_frame_ancestors: Option<FrameAncestors>,

    /// File (TOML) with the scopes that can be chosen on the web page, each with what it allows: "repo:read" = "Read
    /// repositories". Default: none, and scopes are typed.
    #[arg(long, env = "LATCHKEY_PAGE_SCOPES", value_name = "FILE")]
    pub page_scopes: Option<PathBuf>,
}

fn url(text: &str) -> Result<String, &'static str> {
    let is_url = ["https://", "http://"].iter().any(|scheme| text.starts_with(scheme))
        && text.parse::<axum::http::Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()))
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"'\"`\\".contains(&byte));
    is_url.then(|| text.to_owned()).ok_or("must be a URL that begins with https:// or http://")
}

impl PageConfig {
    /// Reads the scopes that can be chosen, in their order.
    ///
    /// # Errors
    ///
    /// [`ConfigError::PageScopes`].
    pub fn scopes(&self) -> Result<Vec<(Scope, String)>, ConfigError> {
        let Some(file) = &self.page_scopes else { return Ok(Vec::new()) };
        read_scopes(file).map_err(|problem| ConfigError::PageScopes { file: file.clone(), problem })
    }
}

fn read_scopes(file: &Path) -> Result<Vec<(Scope, String)>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.message().to_owned())?;
    let entry = |(name, description): (String, toml::Value)| {
        let scope = name.parse::<Scope>().map_err(|error| format!("{name:?} {error}"))?;
        let description =
            description.as_str().ok_or(format!("{name:?} must be what the scope allows, in quotes"))?;
        Ok((scope, description.to_owned()))
    };
    let scopes: Vec<_> = table.into_iter().map(entry).collect::<Result<_, String>>()?;
    if scopes.is_empty() || scopes.len() > 64 {
        Err("must have 1 to 64 scopes".to_owned())
    } else {
        Ok(scopes)
    }
}
