//! Settings of the web page.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::http::HeaderName;
use clap::Args;
use secrecy::SecretString;
use tokio::sync::{OnceCell, Semaphore};
use zeroize::Zeroizing;

use super::{ConfigError, values::duration};
use crate::{
    oauth::Issuer,
    outgoing::http_client,
    page::{Accent, FrameAncestors, Lengths, Logo, Oidc, Sealer},
    token::Scope,
};

/// Settings of the web page.
#[derive(Args, Clone, Debug)]
pub struct PageConfig {
    /// Header in which a proxy in front of the web page puts a JWT of its user, such as X-Forwarded-Access-Token or
    /// Cf-Access-Jwt-Assertion. The JWT's issuer must be in the callers file, with user_claim.
    /// Without this and page_oidc_issuer there is no page, except in development: without a callers file and TLS, on loopback, users
    /// choose who they are. Default: none.
    #[arg(long, env = "LATCHKEY_PAGE_JWT_HEADER", value_name = "NAME")]
    pub page_jwt_header: Option<HeaderName>,

    /// Issuer of the OpenID provider with which users of the web page log in. Default: none.
    #[arg(long, env = "LATCHKEY_PAGE_OIDC_ISSUER", value_name = "URL")]
    pub page_oidc_issuer: Option<Issuer>,

    /// Name of this service as a client of the OpenID provider.
    #[arg(long, env = "LATCHKEY_PAGE_OIDC_CLIENT_ID", value_name = "NAME")]
    pub page_oidc_client_id: Option<String>,

    /// File with the secret of this service as a client of the OpenID provider: 16 characters or more. It also encrypts sessions.
    /// Others must not be able to read it.
    #[arg(long, env = "LATCHKEY_PAGE_OIDC_CLIENT_SECRET_FILE", value_name = "FILE")]
    pub page_oidc_client_secret_file: Option<PathBuf>,

    /// Claim of the provider's ID tokens with the user's id.
    #[arg(long, env = "LATCHKEY_PAGE_OIDC_USER_CLAIM", value_name = "CLAIM", default_value = "sub")]
    pub page_oidc_user_claim: String,

    /// How long ago a login with the OpenID provider may be when the form for a token is opened: 1s to 30d. Sending the form may
    /// take 15 more minutes. Default: as long as the session.
    #[arg(long, env = "LATCHKEY_PAGE_MAX_AGE", value_name = "DURATION", value_parser = duration::<1_000, 2_592_000_000>)]
    pub page_max_age: Option<Duration>,

    /// How long a login to the web page lasts without use: 1m to 30d.
    #[arg(long, env = "LATCHKEY_PAGE_SESSION_IDLE", value_name = "DURATION", default_value = "30m",
        value_parser = duration::<60_000, 2_592_000_000>)]
    pub page_session_idle: Duration,

    /// How long a login to the web page lasts in any case: 1m to 30d.
    #[arg(long, env = "LATCHKEY_PAGE_SESSION_LONGEST", value_name = "DURATION", default_value = "8h",
        value_parser = duration::<60_000, 2_592_000_000>)]
    pub page_session_longest: Duration,

    /// URL below which browsers reach the HTTP listener, for the OpenID provider to send them back.
    #[arg(long, env = "LATCHKEY_PAGE_URL", value_name = "URL")]
    pub page_url: Option<Issuer>,

    /// Name of the product on the web page.
    #[arg(long, env = "LATCHKEY_PAGE_PRODUCT", value_name = "NAME", default_value = "Latchkey")]
    pub page_product: String,

    /// File with the product's logo on the web page: SVG, PNG or WebP, at most 256 KiB. Default: a key.
    #[arg(long, env = "LATCHKEY_PAGE_LOGO", value_name = "FILE")]
    pub page_logo: Option<PathBuf>,

    /// Colour of buttons and links on the web page, as #rrggbb. Where its contrast is too low, a darker or lighter shade is used.
    /// Text on buttons is black or white.
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
    /// Returns the client of the OpenID provider, if one is configured.
    ///
    /// # Errors
    ///
    /// [`ConfigError::PageLogin`], [`ConfigError::PageOidc`].
    pub(crate) fn oidc(&self) -> Result<Option<Oidc>, ConfigError> {
        let Some(issuer) = &self.page_oidc_issuer else { return Ok(None) };
        let (Some(client_id), Some(file), Some(url), None) = (
            &self.page_oidc_client_id,
            &self.page_oidc_client_secret_file,
            &self.page_url,
            &self.page_jwt_header,
        ) else {
            return Err(ConfigError::PageLogin);
        };
        let wrong = |problem: String| ConfigError::PageOidc { file: file.clone(), problem };
        let client_secret = read_secret(file).map_err(wrong)?;
        let Some(sealer) = Sealer::new(&client_secret) else {
            return Err(wrong("cannot be used".to_owned()));
        };
        Ok(Some(Oidc {
            issuer: issuer.clone(),
            client_id: client_id.clone(),
            client_secret,
            user_claim: self.page_oidc_user_claim.clone(),
            max_age: self.page_max_age,
            session: Lengths { idle: self.page_session_idle, longest: self.page_session_longest },
            url: url.clone(),
            sealer,
            client: http_client().map_err(|error| wrong(error.to_string()))?,
            provider: OnceCell::new(),
            waiting: Semaphore::new(Oidc::MAX_WAITING),
        }))
    }

    /// Reads the logo, if one is configured.
    ///
    /// # Errors
    ///
    /// [`ConfigError::PageLogo`].
    pub(crate) fn logo(&self) -> Result<Option<Logo>, ConfigError> {
        let Some(file) = &self.page_logo else { return Ok(None) };
        let wrong = |problem| ConfigError::PageLogo { file: file.clone(), problem };
        Logo::read(file).map(Some).map_err(wrong)
    }

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

/// Reads a secret that others must not be able to read.
fn read_secret(file: &Path) -> Result<SecretString, String> {
    let mode = std::fs::metadata(file).map_err(|error| error.to_string())?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err("every user can read it; run chmod o-rwx on it".to_owned());
    }
    let text = Zeroizing::new(std::fs::read_to_string(file).map_err(|error| error.to_string())?);
    let secret = text.trim();
    if secret.len() < MIN_SECRET {
        return Err(format!("the secret has fewer than {MIN_SECRET} characters"));
    }
    Ok(SecretString::from(secret))
}

/// The fewest characters of a client's secret: it also encrypts sessions.
const MIN_SECRET: usize = 16;

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
