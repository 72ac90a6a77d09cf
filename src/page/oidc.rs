//! Login with an OpenID provider: the authorization code flow with PKCE (OpenID Connect Core 1.0, RFC 7636), and logout there
//! (OpenID Connect RP-Initiated Logout 1.0).

use std::time::Duration;

use axum::{
    body::Body,
    http::{
        Request, Uri,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use form_urlencoded::{Serializer, byte_serialize};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};
use zeroize::Zeroizing;

use super::{PATH, forgery::random, sealed::Sealer, session::Lengths};
use crate::{
    caller::{IdTokens, Identified, Refusal},
    oauth::Issuer,
    outgoing::{HttpClient, fetch},
};

/// A client of an OpenID provider.
#[derive(Debug)]
#[allow(missing_docs)]
pub(crate) struct Oidc {
    pub issuer: Issuer,
    pub client_id: String,
    pub client_secret: SecretString,
    pub user_claim: String,
    /// How long ago a login may be when a token is made.
    pub max_age: Option<Duration>,
    pub session: Lengths,
    /// The URL of the HTTP listener, as browsers reach it.
    pub url: Issuer,
    pub sealer: Sealer,
    pub client: HttpClient,
    /// What the provider says of itself, once it was reached.
    pub provider: OnceCell<Provider>,
    /// Requests that may wait for the provider at the same time.
    pub waiting: Semaphore,
}

/// A provider.
#[derive(Debug)]
pub(crate) struct Provider {
    authorization: String,
    token: Uri,
    end_session: Option<String>,
    id_tokens: IdTokens,
}

/// What is remembered of a login, in a cookie, until the provider sends the browser back.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Login {
    state: String,
    nonce: String,
    verifier: String,
    /// Where to go afterwards: below the page.
    pub(super) to: String,
    /// When it began, in seconds since the Unix epoch.
    pub(super) began: i64,
}

/// A login that did not succeed.
#[derive(Debug)]
pub(super) enum LoginError {
    /// The provider cannot be reached, or its answer is invalid.
    Unavailable,
    /// The login was refused, or another browser began it.
    Refused,
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    end_session_endpoint: Option<String>,
}

impl Oidc {
    /// How many requests may wait for the provider at the same time.
    pub(crate) const MAX_WAITING: usize = 32;

    /// Returns the provider; the first time, and after a failure, it is asked about itself (OpenID Connect Discovery 1.0).
    async fn provider(&self) -> Result<&Provider, LoginError> {
        if let Some(provider) = self.provider.get() {
            return Ok(provider);
        }
        let _place = self.place()?;
        self.provider.get_or_try_init(|| self.discover()).await.map_err(|error| {
            tracing::warn!(issuer = self.issuer.as_str(), error, "the OpenID provider cannot be used");
            LoginError::Unavailable
        })
    }

    /// Anyone can have requests wait for the provider. If it is slow, they must not take the places of all other requests.
    fn place(&self) -> Result<SemaphorePermit<'_>, LoginError> {
        self.waiting.try_acquire().map_err(|_| LoginError::Unavailable)
    }

    async fn discover(&self) -> Result<Provider, String> {
        let uri: Uri = self
            .issuer
            .endpoint("/.well-known/openid-configuration")
            .parse()
            .map_err(|_| "the issuer is no URL")?;
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = uri;
        let answer = fetch(&self.client, request).await?;
        let found: Metadata = serde_json::from_slice(&answer).map_err(|_| "its metadata is not complete")?;
        if found.issuer != self.issuer.as_str() {
            return Err("its metadata names another issuer".to_owned());
        }
        let uri = |text: &str| text.parse::<Uri>().map_err(|_| format!("{text:?} is no URL"));
        // Checked here, since browsers are sent to them.
        uri(&found.authorization_endpoint)?;
        found.end_session_endpoint.as_deref().map(uri).transpose()?;
        let keys = uri(&found.jwks_uri)?;
        let id_tokens = IdTokens::new(self.issuer.as_str(), &self.client_id, keys, &self.user_claim);
        Ok(Provider {
            authorization: found.authorization_endpoint,
            token: uri(&found.token_endpoint)?,
            end_session: found.end_session_endpoint,
            id_tokens: id_tokens.map_err(|error| error.to_string())?,
        })
    }

    fn callback(&self) -> String {
        self.url.endpoint(&format!("{PATH}/callback"))
    }

    /// Begins a login. Returns what is to be remembered, and where to send the browser. With `anew`, the user signs in again.
    ///
    /// # Errors
    ///
    /// [`LoginError::Unavailable`].
    pub(super) async fn begin(&self, to: &str, anew: bool, now: i64) -> Result<(Login, String), LoginError> {
        let provider = self.provider().await?;
        let secret = || random().ok_or(LoginError::Unavailable);
        let login =
            Login { state: secret()?, nonce: secret()?, verifier: secret()?, to: to.to_owned(), began: now };
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&login.verifier));
        let mut query = Serializer::new(String::new());
        query
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.client_id)
            .append_pair("redirect_uri", &self.callback())
            .append_pair("scope", "openid")
            .append_pair("state", &login.state)
            .append_pair("nonce", &login.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        if let Some(max_age) = self.max_age {
            query.append_pair("max_age", &max_age.as_secs().to_string());
        }
        if anew {
            query.append_pair("prompt", "login");
        }
        let url = with_query(&provider.authorization, &query.finish());
        Ok((login, url))
    }

    /// Ends a login with the code that the provider has given the browser.
    ///
    /// # Errors
    ///
    /// [`LoginError`].
    pub(super) async fn end(&self, login: &Login, state: &str, code: &str) -> Result<Identified, LoginError> {
        if !bool::from(login.state.as_bytes().ct_eq(state.as_bytes())) {
            return Err(LoginError::Refused);
        }
        let provider = self.provider().await?;
        let _place = self.place()?;
        let token = self.id_token(provider, login, code).await?;
        let identified = provider.id_tokens.verify(&token).await.map_err(|refusal| match refusal {
            Refusal::Unavailable => LoginError::Unavailable,
            refusal => {
                tracing::warn!(%refusal, "an ID token was refused");
                LoginError::Refused
            }
        })?;
        if let Err(reason) = is_answer(&identified, login, self.max_age) {
            tracing::warn!(reason, "an ID token was refused");
            return Err(LoginError::Refused);
        }
        Ok(identified)
    }

    /// Exchanges a code for an ID token (RFC 6749, section 4.1.3).
    async fn id_token(
        &self,
        provider: &Provider,
        login: &Login,
        code: &str,
    ) -> Result<Zeroizing<String>, LoginError> {
        #[derive(Deserialize)]
        struct Answer {
            id_token: Zeroizing<String>,
        }
        let form = Serializer::new(String::new())
            .append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", &self.callback())
            .append_pair("code_verifier", &login.verifier)
            .finish();
        let written = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let secret = Zeroizing::new(self.client_secret.expose_secret().to_owned());
        let basic = STANDARD.encode(format!("{}:{}", written(&self.client_id), written(&secret)));
        let request = Request::post(provider.token.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(AUTHORIZATION, format!("Basic {basic}"))
            .body(Body::from(form))
            .map_err(|_| LoginError::Unavailable)?;
        let answer = fetch(&self.client, request).await.map_err(|error| {
            tracing::warn!(error, "the OpenID provider did not exchange a code");
            LoginError::Refused
        })?;
        let answer: Answer = serde_json::from_slice(&answer).map_err(|_| LoginError::Unavailable)?;
        Ok(answer.id_token)
    }

    /// Returns where to send the browser to end the session with the provider too; `None` if the provider has no such place, or
    /// cannot be reached.
    pub(super) async fn end_session(&self) -> Option<String> {
        let end = self.provider().await.ok()?.end_session.as_ref()?;
        let query = Serializer::new(String::new())
            .append_pair("client_id", &self.client_id)
            .append_pair("post_logout_redirect_uri", &self.url.endpoint(&format!("{PATH}/signed-out")))
            .finish();
        Some(with_query(end, &query))
    }
}

/// Whether an ID token answers this login (OpenID Connect Core 1.0, section 3.1.3.7, numbers 11 and 13).
fn is_answer(identified: &Identified, login: &Login, max_age: Option<Duration>) -> Result<(), &'static str> {
    if identified.nonce != login.nonce {
        Err("it is not for this login")
    } else if max_age.is_some() && identified.auth_time.is_none() {
        Err("it has no auth_time, which a provider must add when max_age is asked for")
    } else {
        Ok(())
    }
}

fn with_query(url: &str, query: &str) -> String {
    let mark = if url.contains('?') { '&' } else { '?' };
    format!("{url}{mark}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_token_is_of_this_login_and_says_when_the_login_was_if_that_matters() {
        let text = str::to_owned;
        let login = Login { state: text("s"), nonce: text("n"), verifier: text("v"), to: text(""), began: 0 };
        let identified =
            |nonce, auth_time| Identified { user: "alice".parse().unwrap(), nonce: text(nonce), auth_time };
        let hour = Some(Duration::from_secs(3_600));
        assert!(is_answer(&identified("n", None), &login, None).is_ok());
        assert!(is_answer(&identified("n", Some(1)), &login, hour).is_ok());
        assert!(is_answer(&identified("n", None), &login, hour).is_err());
        for nonce in ["", "m"] {
            assert!(is_answer(&identified(nonce, Some(1)), &login, None).is_err());
        }
    }
}
