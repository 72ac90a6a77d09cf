//! A service in this process, with a client.

use std::{path::PathBuf, time::Duration};

use latchkey::{
    clock::Clock,
    config::Config,
    proto::latchkey::{
        CreateTokenRequest, CreateTokenResponse, DeleteTokenRequest, ListTokensRequest, ListTokensResponse,
        Token, ValidateTokenRequest, invalid::Reason, token_service_client::TokenServiceClient,
        validate_token_response::Outcome,
    },
    server::Server,
};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, QueryResult, Statement};
use tempfile::TempDir;
use tonic::{Status, transport::Channel};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{postgres::Postgres, soon};

/// On which database a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    Sqlite,
    Postgres,
}

use Database::Sqlite;

/// Hashes cost next to nothing here: the tests are of what is hashed and when, not of how strongly.
pub const CHEAP_ARGON2: [&str; 4] = ["--argon2-memory-kib", "8", "--argon2-iterations", "1"];

/// A running service.
pub struct App {
    pub server: Server,
    pub client: TokenServiceClient<Channel>,
    pub url: String,
    pub folder: TempDir,
    pub clock: Clock,
}

impl App {
    /// Starts a service on a new database.
    pub async fn start(database: Database) -> Self {
        Self::start_with(database, &[]).await
    }

    /// Starts a service on a new database, with further settings.
    pub async fn start_with(database: Database, settings: &[&str]) -> Self {
        let (url, folder) = new_database(database).await;
        Self::start_on(url, folder, settings).await
    }

    /// Starts a service on a new database, with a clock that the test sets.
    pub async fn start_with_clock(database: Database, clock: Clock) -> Self {
        let (url, folder) = new_database(database).await;
        Self::start_at(url, folder, &[], clock).await
    }

    /// Starts a service on the database at `url`.
    pub async fn start_on(url: String, folder: TempDir, settings: &[&str]) -> Self {
        Self::start_at(url, folder, settings, Clock::system()).await
    }

    async fn start_at(url: String, folder: TempDir, settings: &[&str], clock: Clock) -> Self {
        let data = folder.path().join("data");
        let mut arguments = vec![
            "serve",
            "--grpc-addr",
            "127.0.0.1:0",
            "--http-addr",
            "127.0.0.1:0",
            "--database-url",
            &url,
            "--data-dir",
            data.to_str().unwrap(),
        ];
        if !settings.contains(&CHEAP_ARGON2[0]) {
            arguments.extend(CHEAP_ARGON2);
        }
        arguments.extend(settings);
        let config = Config::parse_from(arguments).unwrap();
        let server = Server::start(&config, clock.clone()).await.unwrap();
        let client = connect(&format!("http://{}", server.grpc_addr())).await;
        Self { server, client, url, folder, clock }
    }

    /// Another service on the same database, with the same key ring.
    pub async fn replica(&self) -> Self {
        let keys = self.folder.path().join("data/keyring.toml");
        let keys = if keys.exists() { vec!["--key-ring", keys.to_str().unwrap()] } else { Vec::new() };
        Self::start_on(self.url.clone(), tempfile::tempdir().unwrap(), &keys).await
    }

    /// Stops the service and starts it again with these settings.
    pub async fn restart(self, settings: &[&str]) -> Self {
        self.server.stopper().cancel();
        drop(self.client);
        soon("stop", self.server.ended()).await.unwrap();
        Self::start_on(self.url, self.folder, settings).await
    }

    /// Stops the service and starts it again with this clock.
    pub async fn restart_with_clock(self, clock: Clock) -> Self {
        self.server.stopper().cancel();
        drop(self.client);
        soon("stop", self.server.ended()).await.unwrap();
        Self::start_at(self.url, self.folder, &[], clock).await
    }

    /// A file in the test's folder.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let file = self.folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Issues a token that does not expire, and gives its id and secret.
    pub async fn issue(&self, user: &str, name: &str) -> (String, String) {
        let answer = self.create(user, name).await.unwrap();
        (answer.token.unwrap().id, answer.secret)
    }

    /// CreateToken with a name alone.
    pub async fn create(&self, user: &str, name: &str) -> Result<CreateTokenResponse, Status> {
        self.create_with(CreateTokenRequest {
            user_id: user.into(),
            name: name.into(),
            ..CreateTokenRequest::default()
        })
        .await
    }

    /// CreateToken.
    pub async fn create_with(&self, request: CreateTokenRequest) -> Result<CreateTokenResponse, Status> {
        Ok(self.client.clone().create_token(request).await?.into_inner())
    }

    /// The names on the user's first page.
    pub async fn names(&self, user: &str) -> Vec<String> {
        let page = self.page(user, 0, "").await.unwrap();
        page.tokens.into_iter().map(|token| token.name).collect()
    }

    /// ListTokens.
    pub async fn page(
        &self,
        user: &str,
        page_size: i32,
        page_token: &str,
    ) -> Result<ListTokensResponse, Status> {
        let request =
            ListTokensRequest { user_id: user.into(), page_size, page_token: page_token.to_owned() };
        Ok(self.client.clone().list_tokens(request).await?.into_inner())
    }

    /// DeleteToken.
    pub async fn delete(&self, user: &str, token_id: &str) -> Result<(), Status> {
        let request = DeleteTokenRequest { user_id: user.into(), token_id: token_id.into() };
        self.client.clone().delete_token(request).await.map(drop)
    }

    /// ValidateToken for any scope.
    pub async fn validate(&self, secret: &str) -> Result<Token, Reason> {
        self.validate_for(secret, &[]).await
    }

    /// ValidateToken.
    pub async fn validate_for(&self, secret: &str, scopes: &[&str]) -> Result<Token, Reason> {
        self.try_validate(secret, scopes).await.unwrap()
    }

    /// ValidateToken, which may fail.
    pub async fn try_validate(&self, secret: &str, scopes: &[&str]) -> Result<Result<Token, Reason>, Status> {
        let request = ValidateTokenRequest {
            secret: secret.into(),
            required_scopes: scopes.iter().map(|&scope| scope.into()).collect(),
        };
        let answer = self.client.clone().validate_token(request).await?.into_inner();
        Ok(match answer.outcome.unwrap() {
            Outcome::Valid(token) => Ok(token),
            Outcome::Invalid(invalid) => Err(invalid.reason()),
        })
    }

    /// Waits until the secret is refused, and checks the reason.
    pub async fn refuses(&self, secret: &str, reason: Reason) {
        let told = super::until("a refusal", || async { self.validate(secret).await.err() }).await;
        assert_eq!(told, reason);
    }

    /// What the identity service's message does.
    pub async fn delete_user(&self, user: &str) {
        let event = serde_json::json!({
            "specversion": "1.0",
            "id": "event-1",
            "source": "/identity",
            "type": "identity.v1.UserDeleted",
            "data": { "userId": user },
        });
        let headers = [("content-type", "application/cloudevents+json")];
        let body = event.to_string();
        let (status, _, said) =
            super::http::send(self.server.http_addr(), "POST /events", &headers, body.as_bytes()).await;
        assert_eq!(status, 202, "{said}");
    }

    /// A connection to the database beside the service's; one, so that a transaction may be held open on it.
    pub async fn database(&self) -> DatabaseConnection {
        let mut options = sea_orm::ConnectOptions::new(&self.url);
        options.max_connections(1).sqlx_logging(false);
        sea_orm::Database::connect(options).await.unwrap()
    }

    /// Runs a statement on the database.
    pub async fn sql(&self, sql: &str) {
        self.database().await.execute_unprepared(sql).await.unwrap();
    }

    /// Asks the database.
    pub async fn query(&self, sql: &str) -> Vec<QueryResult> {
        let database = self.database().await;
        let statement = Statement::from_string(database.get_database_backend(), sql);
        database.query_all_raw(statement).await.unwrap()
    }

    /// How many rows there are.
    pub async fn count(&self, from_where: &str) -> i64 {
        let rows = self.query(&format!("SELECT count(*) AS n FROM {from_where}")).await;
        rows[0].try_get("", "n").unwrap()
    }

    /// Locks the row of `user` (on SQLite: the database), making it first, until the lock is released.
    pub async fn lock_user(&self, user: &str) -> Lock {
        self.sql(&format!("INSERT INTO users (user_id) VALUES ('{user}') ON CONFLICT DO NOTHING")).await;
        let connection = self.database().await;
        if self.url.starts_with("sqlite") {
            connection.execute_unprepared("BEGIN IMMEDIATE").await.unwrap();
        } else {
            connection.execute_unprepared("BEGIN").await.unwrap();
            // Whoever waits for a row lock gets it in the order of asking.
            let lock = format!("SELECT FROM users WHERE user_id = '{user}' FOR UPDATE");
            connection.execute_unprepared(&lock).await.unwrap();
        }
        Lock(connection)
    }
}

/// The URL of a new database, and a folder, which a file of it is in.
async fn new_database(database: Database) -> (String, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let url = match database {
        Sqlite => format!("sqlite://{}", folder.path().join("test.db").display()),
        Database::Postgres => Postgres::shared().create_database().await,
    };
    (url, folder)
}

/// A lock held by a test.
pub struct Lock(pub DatabaseConnection);

impl Lock {
    /// Lets go of it, undoing what was done under it.
    pub async fn release(self) {
        self.0.execute_unprepared("ROLLBACK").await.unwrap();
        self.0.close().await.unwrap();
    }
}

/// A client of the service at `url`.
pub async fn connect(url: &str) -> TokenServiceClient<Channel> {
    let endpoint = Channel::from_shared(url.to_owned()).unwrap().connect_timeout(Duration::from_secs(10));
    TokenServiceClient::new(endpoint.connect().await.unwrap())
}

/// The details of google.rpc in a status.
pub fn details(status: &Status) -> ErrorDetails {
    status.check_error_details().unwrap()
}

/// The fields that a status finds fault with, each with what it says.
pub fn violations(status: &Status) -> Vec<(String, String)> {
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    let request = details(status).bad_request().cloned().unwrap();
    request.field_violations.into_iter().map(|fault| (fault.field, fault.description)).collect()
}

/// The reason in the ErrorInfo of a status.
pub fn reason(status: &Status) -> String {
    let details = details(status);
    let info = details.error_info().unwrap();
    assert_eq!(info.domain, "latchkey.v1");
    info.reason.clone()
}
