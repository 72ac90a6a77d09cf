//! Latchkey: personal API tokens as a gRPC service.
//!
//! The modules form layers. A module imports only from its own layer and those below. ARCHITECTURE.md shows how a call
//! flows through them.
//!
//! | layer | module | purpose |
//! | --- | --- | --- |
//! | program | [`cli`] | the command line: `serve` (default), `migrate`, `token`, `health`, `keys` |
//! | | [`server`] | wires the service, watches its readiness, shuts it down |
//! | | [`config`] | the settings |
//! | transports | [`grpc`] | `latchkey.v1.TokenService`, the audit log, Envoy's external authorization, health, reflection |
//! | | [`http`] | `POST /events`, metrics, liveness and readiness, the list of replicas |
//! | | `gateway` | what API gateways ask: the decision about a request, and `/verify` |
//! | | `oauth` | token introspection and revocation, and their metadata (RFC 7662, 7009, 8414) |
//! | | `kubernetes` | TokenReviews |
//! | | [`page`] | the web page for people |
//! | | [`nats`] | the subscriber to account events on NATS JetStream, and their replay |
//! | | [`account_events`] | decodes account events, whatever their transport |
//! | domain | [`registry`] | the rules: issue, list, revoke, validate and purge tokens |
//! | | [`validation`] | from a bearer token to its stored token: cache, lease, revocation log, other replicas, last use |
//! | foundations | [`listener`] | accepts the connections of both listeners |
//! | | `outgoing` | requests to other services over HTTP |
//! | | [`caller`] | who is calling, and what that caller may do |
//! | | [`store`] | the only SQL; the schema is in the `migrations` crate |
//! | | [`credentials`] | argon2id and the key ring: hashes secrets and verifies them |
//! | | [`token`] | pure types: bearer token, name, scopes, user id, expiry |
//! | | `deadline` | bounds how long an answer may take |
//! | | [`clock`] | the current time, which tests can set |
//! | | [`telemetry`] | the log, traces, trace context, metrics of calls |
//! | | [`proto`] | the generated protobuf messages and stubs |

pub mod account_events;
pub mod caller;
pub mod cli;
pub mod clock;
pub mod config;
pub mod credentials;
mod deadline;
mod gateway;
pub mod grpc;
pub mod http;
mod kubernetes;
pub mod listener;
pub mod nats;
mod oauth;
mod outgoing;
pub mod page;
pub mod proto;
pub mod registry;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod token;
pub mod validation;
