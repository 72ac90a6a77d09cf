//! What each kind of caller may do: one table, deny by default.

use axum::http::{HeaderName, header::AUTHORIZATION};
use serde::Deserialize;

/// What a caller of the callers file may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Validates bearer tokens.
    Validator,
    /// Creates, lists and deletes tokens of any user.
    Manager,
    /// Publishes account events over HTTP.
    Publisher,
    /// Reads the audit log.
    Admin,
}

impl Role {
    /// Every role, in the order of the columns of the table in docs/security.md.
    pub const ALL: [Self; 4] = [Self::Validator, Self::Manager, Self::Publisher, Self::Admin];

    /// Returns the name in the callers file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Validator => "validator",
            Self::Manager => "manager",
            Self::Publisher => "publisher",
            Self::Admin => "admin",
        }
    }
}

/// Who may use an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everyone, without credentials.
    Everyone,
    /// Every caller that is recognised.
    EveryCaller,
    /// The callers that have a role.
    Only(Role),
    /// The callers that have a role; and each user, for their own tokens.
    OnlyAndSelf(Role),
}

/// An RPC or an HTTP route, and who may use it.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// The path of its requests; `*` at the end stands for everything that may follow.
    pub name: &'static str,
    /// Who may use it.
    pub access: Access,
}

/// Every endpoint. One that is not here is refused.
///
/// A personal API token is no credential here: its holder acts as its user towards the product, and cannot make, list or delete
/// tokens, but for revoking that one.
pub const POLICY: &[Endpoint] = &[
    endpoint("/latchkey.v1.TokenService/ValidateToken", Access::Only(Role::Validator)),
    endpoint("/latchkey.v1.TokenService/CreateToken", Access::OnlyAndSelf(Role::Manager)),
    endpoint("/latchkey.v1.TokenService/ListTokens", Access::OnlyAndSelf(Role::Manager)),
    endpoint("/latchkey.v1.TokenService/DeleteToken", Access::OnlyAndSelf(Role::Manager)),
    endpoint("/latchkey.v1.AuditService/ListEvents", Access::Only(Role::Admin)),
    endpoint("/envoy.service.auth.v3.Authorization/Check", Access::Only(Role::Validator)),
    endpoint("/verify", Access::Only(Role::Validator)),
    endpoint("/verify/*", Access::Only(Role::Validator)),
    endpoint("/oauth2/introspect", Access::Only(Role::Validator)),
    // The token in the request is the credential (RFC 7009 calls such a client public).
    endpoint("/oauth2/revoke", Access::Everyone),
    endpoint("/.well-known/oauth-authorization-server", Access::Everyone),
    endpoint("/.well-known/oauth-authorization-server/*", Access::Everyone),
    endpoint("/kubernetes/token-review", Access::Only(Role::Validator)),
    endpoint("/events", Access::Only(Role::Publisher)),
    // The page recognises its users itself, and calls the registry as them.
    endpoint("/personal-api-tokens", Access::Everyone),
    endpoint("/personal-api-tokens/*", Access::Everyone),
    endpoint("/grpc.health.v1.Health/Check", Access::Everyone),
    endpoint("/grpc.health.v1.Health/Watch", Access::Everyone),
    endpoint("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Access::EveryCaller),
    endpoint("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Access::EveryCaller),
];

const fn endpoint(name: &'static str, access: Access) -> Endpoint {
    Endpoint { name, access }
}

/// Returns who may use an endpoint; `None` for one that does not exist, which nobody may.
pub(super) fn access(endpoint: &str) -> Option<Access> {
    find(endpoint).map(|entry| entry.access)
}

/// Returns the name of an endpoint in the policy.
pub fn endpoint_name(endpoint: &str) -> Option<&'static str> {
    find(endpoint).map(|entry| entry.name)
}

fn find(endpoint: &str) -> Option<&'static Endpoint> {
    let is = |name: &str| {
        name == endpoint || name.strip_suffix('*').is_some_and(|begin| endpoint.starts_with(begin))
    };
    POLICY.iter().find(|entry| is(entry.name))
}

/// Returns the header with a caller's credential: at `/verify` the usual one is that of the request which is verified.
pub(super) fn credential_header(endpoint: &str) -> HeaderName {
    if endpoint.starts_with("/verify") { VERIFY_CREDENTIAL } else { AUTHORIZATION }
}

const VERIFY_CREDENTIAL: HeaderName = HeaderName::from_static("x-latchkey-authorization");

/// Returns the table of POLICY in Markdown, for docs/security.md.
pub fn table() -> String {
    let mut text = String::from("| RPC or route | no credentials |");
    text.extend(Role::ALL.map(|role| format!(" {} |", role.name())));
    text.push_str(" self |\n| --- | --- |");
    text.extend(Role::ALL.map(|_| " --- |"));
    text.push_str(" --- |\n");
    for Endpoint { name, access } in POLICY {
        let cell = |allowed| if allowed { " yes |" } else { " |" };
        text.push_str(&format!("| `{name}` |{}", cell(*access == Access::Everyone)));
        text.extend(Role::ALL.map(|role| cell(access.allows(&[role]))));
        text.push_str(match access {
            Access::OnlyAndSelf(_) => " own tokens |\n",
            Access::Everyone | Access::EveryCaller => " yes |\n",
            Access::Only(_) => " |\n",
        });
    }
    text
}

impl Access {
    /// Returns whether a caller of the callers file with these roles may use the endpoint.
    pub(super) fn allows(self, roles: &[Role]) -> bool {
        match self {
            Self::Everyone | Self::EveryCaller => true,
            Self::Only(role) | Self::OnlyAndSelf(role) => roles.contains(&role),
        }
    }

    /// Returns whether a user may use the endpoint.
    pub(super) fn allows_self(self) -> bool {
        !matches!(self, Self::Only(_))
    }
}
