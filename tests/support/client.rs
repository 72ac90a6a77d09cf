//! A client of a running service, whether that runs in this process ([`App`](super::App)) or in one of its own
//! ([`Process`](super::latchkey::Process)).

use std::{net::SocketAddr, time::Duration};

use latchkey::proto::latchkey::{
    CreateTokenRequest, CreateTokenResponse, DeleteTokenRequest, ListTokensRequest, ListTokensResponse,
    Token, ValidateTokenRequest, invalid::Reason, token_service_client::TokenServiceClient,
    validate_token_response::Outcome,
};
use tonic::{IntoRequest, Status, transport::Channel};

use super::{http, until};

/// A client of one service.
#[derive(Clone)]
pub struct Client {
    pub grpc_addr: SocketAddr,
    pub http_addr: SocketAddr,
    pub admin_addr: SocketAddr,
    pub channel: Channel,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A CreateToken request with a user and a name alone.
pub fn create_request(user: &str, name: &str) -> CreateTokenRequest {
    CreateTokenRequest { user_id: user.into(), name: name.into(), ..Default::default() }
}

impl Client {
    /// Connects to the service at these addresses.
    pub async fn connect([grpc_addr, http_addr, admin_addr]: [SocketAddr; 3]) -> Self {
        let endpoint = Channel::from_shared(format!("http://{grpc_addr}")).unwrap();
        let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).connect().await.unwrap();
        Self { grpc_addr, http_addr, admin_addr, channel }
    }

    /// The generated client.
    pub fn tokens(&self) -> TokenServiceClient<Channel> {
        TokenServiceClient::new(self.channel.clone())
    }

    /// Issues a token that does not expire, and returns its id and the bearer token.
    pub async fn issue(&self, user: &str, name: &str) -> (String, String) {
        self.try_issue(user, name).await.unwrap()
    }

    /// Issues a token with scopes, and returns its id and the bearer token.
    pub async fn issue_for(&self, user: &str, scopes: &[&str]) -> (String, String) {
        let scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
        let request = CreateTokenRequest { scopes, ..create_request(user, "token") };
        let created = self.create_with(request).await.unwrap();
        (created.token.unwrap().id, created.secret)
    }

    /// Issues a token as [`Client::issue`] does, or returns why not.
    pub async fn try_issue(&self, user: &str, name: &str) -> Result<(String, String), Status> {
        let answer = self.create(user, name).await?;
        Ok((answer.token.unwrap().id, answer.secret))
    }

    /// Calls CreateToken with a user and a name alone.
    pub async fn create(&self, user: &str, name: &str) -> Result<CreateTokenResponse, Status> {
        self.create_with(create_request(user, name)).await
    }

    /// Calls CreateToken.
    pub async fn create_with(
        &self,
        request: impl IntoRequest<CreateTokenRequest>,
    ) -> Result<CreateTokenResponse, Status> {
        Ok(self.tokens().create_token(request).await?.into_inner())
    }

    /// The names on the user's first page.
    pub async fn names(&self, user: &str) -> Vec<String> {
        self.list(user).await.into_iter().map(|token| token.name).collect()
    }

    /// The tokens on the user's first page.
    pub async fn list(&self, user: &str) -> Vec<Token> {
        self.page(user, 0, "").await.unwrap().tokens
    }

    /// Calls ListTokens.
    pub async fn page(
        &self,
        user: &str,
        page_size: i32,
        page_token: &str,
    ) -> Result<ListTokensResponse, Status> {
        let request =
            ListTokensRequest { user_id: user.into(), page_size, page_token: page_token.to_owned() };
        Ok(self.tokens().list_tokens(request).await?.into_inner())
    }

    /// Calls DeleteToken.
    pub async fn delete(&self, user: &str, token_id: &str) -> Result<(), Status> {
        let request =
            DeleteTokenRequest { user_id: user.into(), token_id: token_id.into(), allow_missing: false };
        self.tokens().delete_token(request).await.map(drop)
    }

    /// Calls DeleteToken with a deadline.
    pub async fn delete_within(&self, deadline: Duration, user: &str, token_id: &str) -> Result<(), Status> {
        let request =
            DeleteTokenRequest { user_id: user.into(), token_id: token_id.into(), allow_missing: false };
        let mut request = request.into_request();
        request.set_timeout(deadline);
        self.tokens().delete_token(request).await.map(drop)
    }

    /// Revokes the token as its holder does (RFC 7009), and returns the HTTP status; `None` if the connection breaks.
    pub async fn revoke_as_holder(&self, bearer: &str) -> Option<u16> {
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let body = format!("token={bearer}");
        Some(http::try_send(self.http_addr, "POST /oauth2/revoke", &form, body.as_bytes()).await?.0)
    }

    /// Calls ValidateToken without required scopes.
    pub async fn validate(&self, bearer: &str) -> Result<Token, Reason> {
        self.validate_for(bearer, &[]).await
    }

    /// Calls ValidateToken.
    pub async fn validate_for(&self, bearer: &str, scopes: &[&str]) -> Result<Token, Reason> {
        self.try_validate(bearer, scopes).await.unwrap()
    }

    /// Calls ValidateToken, which may fail.
    pub async fn try_validate(&self, bearer: &str, scopes: &[&str]) -> Result<Result<Token, Reason>, Status> {
        let request = ValidateTokenRequest {
            secret: bearer.into(),
            required_scopes: scopes.iter().map(|&scope| scope.into()).collect(),
        };
        let answer = self.tokens().validate_token(request).await?.into_inner();
        Ok(match answer.outcome.unwrap() {
            Outcome::Valid(token) => Ok(token),
            Outcome::Invalid(invalid) => Err(invalid.reason()),
        })
    }

    /// Waits until the bearer token is refused, and checks the reason.
    pub async fn refuses(&self, bearer: &str, reason: Reason) {
        let given = until("a refusal", || async { self.validate(bearer).await.err() }).await;
        assert_eq!(given, reason);
    }

    /// Sends the event with which the identity service says that it deleted the account.
    pub async fn delete_user(&self, user: &str) {
        assert_eq!(self.try_delete_user(user).await, 202);
    }

    /// Sends the event as [`Client::delete_user`] does, and returns the HTTP status.
    pub async fn try_delete_user(&self, user: &str) -> u16 {
        self.post_deletion(user).await.unwrap()
    }

    /// Sends the event as [`Client::try_delete_user`] does; `None` if the connection breaks.
    pub async fn post_deletion(&self, user: &str) -> Option<u16> {
        let event = serde_json::json!({
            "specversion": "1.0",
            "id": "event-1",
            "source": "/identity",
            "type": "identity.v1.UserDeleted",
            "data": { "userId": user },
        });
        let headers = [("content-type", "application/cloudevents+json")];
        let event = event.to_string();
        let sent = http::try_send(self.http_addr, "POST /events", &headers, event.as_bytes());
        Some(sent.await?.0)
    }

    /// Posts an event, and returns the status, the head and the body of the answer.
    pub async fn post_event(&self, headers: &[(&str, &str)], body: &[u8]) -> (u16, String, String) {
        http::send(self.http_addr, "POST /events", headers, body).await
    }

    /// Gets a path of the admin listener, and returns the status and the body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let (status, _, body) = http::send(self.admin_addr, &format!("GET {path}"), &[], b"").await;
        (status, body)
    }

    /// Whether `/readyz` says so.
    pub async fn is_ready(&self) -> bool {
        self.get("/readyz").await.0 == 200
    }

    /// Waits until `/readyz` says what is expected.
    pub async fn readiness_becomes(&self, expected: bool) {
        let what = if expected { "readiness" } else { "the end of readiness" };
        until(what, || async { (self.is_ready().await == expected).then_some(()) }).await;
    }
}
