//! The handler to compare with: it uses the same messages, and does nothing but, optionally, one SELECT of a token
//! and its account by their primary keys.

use latchkey::{
    proto::latchkey::{
        CreateTokenRequest, CreateTokenResponse, DeleteTokenRequest, DeleteTokenResponse, ListTokensRequest,
        ListTokensResponse, Token, ValidateTokenRequest, ValidateTokenResponse,
        token_service_server::{TokenService, TokenServiceServer},
        validate_token_response::Outcome,
    },
    telemetry::{LogFormat, Telemetry},
    token::{BearerToken, Prefix},
};
use sea_orm::sqlx::{self, PgPool, Row as _, SqlitePool};
use std::path::Path;
use tonic::{
    Request, Response, Status,
    transport::{Certificate, Identity, ServerTlsConfig, server::TcpIncoming},
};
use uuid::Uuid;

struct Bare {
    table: Table,
    prefix: Prefix,
}

enum Table {
    None,
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

pub async fn serve(database: Option<&str>, tls: Option<&Path>) {
    // The service's log. Without one, tracing hands each event to the crate `log`, which sqlx asks it to do.
    let _telemetry = Telemetry::init("warn", LogFormat::Json, false).unwrap();
    let table = match database {
        None => Table::None,
        Some(url) if url.starts_with("sqlite:") => Table::Sqlite(SqlitePool::connect(url).await.unwrap()),
        Some(url) => Table::Postgres(PgPool::connect(url).await.unwrap()),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("listens on {}", listener.local_addr().unwrap());
    let service = TokenServiceServer::new(Bare { table, prefix: "pat".parse().unwrap() });
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let mut server = tonic::transport::Server::builder();
    if let Some(folder) = tls {
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        let own = Identity::from_pem(read("tls.crt"), read("tls.key"));
        let clients = Certificate::from_pem(read("ca.crt"));
        server = server.tls_config(ServerTlsConfig::new().identity(own).client_ca_root(clients)).unwrap();
    }
    server.add_service(service).serve_with_incoming(incoming).await.unwrap();
}

/// The query of a cold lookup, without what guards against a standby.
const SELECT: &str = "SELECT tokens.user_id, name, secret_hash, tag_key_id, tag, scopes, created_at, expires_at, \
                      last_used_at, revoked_at, revoke_reason, users.deleted_at \
                      FROM tokens JOIN users ON users.user_id = tokens.user_id WHERE tokens.id = $1";

impl Table {
    async fn user_and_name(&self, id: Uuid) -> (String, String) {
        match self {
            Self::None => unreachable!("called only with a table"),
            Self::Sqlite(pool) => {
                let query = sqlx::query(SELECT).bind(id);
                let row = query.fetch_one(pool).await.unwrap();
                (row.get(0), row.get(1))
            }
            Self::Postgres(pool) => {
                let query = sqlx::query(SELECT).bind(id);
                let row = query.fetch_one(pool).await.unwrap();
                (row.get(0), row.get(1))
            }
        }
    }
}

#[tonic::async_trait]
impl TokenService for Bare {
    async fn validate_token(
        &self,
        request: Request<ValidateTokenRequest>,
    ) -> Result<Response<ValidateTokenResponse>, Status> {
        let (user_id, name) = match &self.table {
            Table::None => ("user 0".to_owned(), "token 0".to_owned()),
            table => {
                let bearer = BearerToken::parse(&self.prefix, &request.get_ref().secret).unwrap();
                table.user_and_name(bearer.id()).await
            }
        };
        let token = Token {
            id: "0193e4a0-0000-7000-8000-000000000000".into(),
            user_id,
            name,
            hint: "pat_0193...0000".into(),
            create_time: Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 1_000 }),
            ..Default::default()
        };
        Ok(Response::new(ValidateTokenResponse { outcome: Some(Outcome::Valid(token)) }))
    }

    async fn create_token(
        &self,
        _: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_tokens(
        &self,
        _: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete_token(
        &self,
        _: Request<DeleteTokenRequest>,
    ) -> Result<Response<DeleteTokenResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}
