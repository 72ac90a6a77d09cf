//! The handler to compare with: it uses the same messages, and does nothing but, optionally, one SELECT of a token
//! and its account by their primary keys.

use axum::{
    Router,
    body::Bytes,
    http::HeaderMap,
    routing::{any, post},
    serve::ListenerExt as _,
};
use latchkey::{
    proto::envoy::{
        config::core::v3::{HeaderValue, HeaderValueOption},
        service::auth::v3::{
            CheckRequest, CheckResponse, OkHttpResponse,
            authorization_server::{Authorization, AuthorizationServer},
            check_response::HttpResponse,
        },
    },
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
    let checks = AuthorizationServer::new(Checks);
    let service = TokenServiceServer::new(Bare { table, prefix: "pat".parse().unwrap() });
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let mut server = tonic::transport::Server::builder();
    if let Some(folder) = tls {
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        let own = Identity::from_pem(read("tls.crt"), read("tls.key"));
        let clients = Certificate::from_pem(read("ca.crt"));
        server = server.tls_config(ServerTlsConfig::new().identity(own).client_ca_root(clients)).unwrap();
    }
    server.add_service(service).add_service(checks).serve_with_incoming(incoming).await.unwrap();
}

/// Serves empty handlers over HTTP/1.1, with axum's defaults.
pub async fn serve_http() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("listens on {}", listener.local_addr().unwrap());
    const IDENTITY: [(&str, &str); 3] = [
        ("x-latchkey-user-id", "user 0"),
        ("x-latchkey-token-id", "0193e4a0-0000-7000-8000-000000000000"),
        ("x-latchkey-scopes", ""),
    ];
    let verify = any(|headers: HeaderMap| async move {
        assert!(headers.contains_key("authorization"));
        IDENTITY
    });
    let introspect = post(|body: Bytes| async move {
        assert!(!body.is_empty());
        let json = r#"{"active":true,"iat":1795603520,"jti":"01a2124f-5ad8-76b6-9571-1ea0ebb0a674","scope":"","sub":"user 0","token_type":"Bearer"}"#;
        ([("content-type", "application/json")], json)
    });
    let router = Router::new().route("/verify", verify).route("/oauth2/introspect", introspect);
    axum::serve(listener.tap_io(|tcp| tcp.set_nodelay(true).unwrap()), router).await.unwrap();
}

/// Lets every request through.
struct Checks;

#[tonic::async_trait]
impl Authorization for Checks {
    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let names = ["x-latchkey-user-id", "x-latchkey-token-id", "x-latchkey-scopes"];
        let headers = names.map(|name| HeaderValueOption {
            header: Some(HeaderValue { key: name.into(), value: "user 0".into(), raw_value: Vec::new() }),
            ..Default::default()
        });
        let ok = OkHttpResponse { headers: headers.into(), headers_to_remove: Vec::new() };
        let http_response = Some(HttpResponse::OkResponse(ok));
        Ok(Response::new(CheckResponse { http_response, ..Default::default() }))
    }
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
