//! Latchkey: personal API tokens as a gRPC service.
//!
//! The house, from the top down. A module imports only what stands below it.
//!
//! | where | what |
//! | --- | --- |
//! | `main.rs` | the command line: `serve` (default), `migrate`, `token …`, `health`, `keys …` |
//! | [`health`] | `latchkey health`: asks a running service whether it serves |
//! | [`keys`] | `latchkey keys …`: makes a key ring, and rotates its keys a step at a time |
//! | [`client`] | `latchkey token …`: the command line as a client of a running service |
//! | [`server`] | wires the parts, opens the listeners, shuts down in order |
//! | [`signals`] | the signals that end the service |
//! | [`telemetry`] | the log, traces |
//! | [`config`] | every setting |
//! | **doors** | translate a protocol, hold no rules |
//! | [`grpc`] | `latchkey.v1.TokenService`, health, reflection |
//! | [`http`] | `POST /events`, metrics, liveness and readiness |
//! | [`events`] | UserDeleted: its forms, and the subscriber on NATS JetStream |
//! | **rules** | |
//! | [`registry`] | issue, list, revoke, validate |
//! | [`validation`] | from a secret to its token: memory, the tail of the revocations, notes of last use |
//! | **ground** | |
//! | [`store`] | the database; the only place that knows SQL (its schema: the `migrations` crate) |
//! | [`token`] | what a token is: secret, checksum, proofs, name, scopes |
//! | [`instrumentation`] | durations of calls, and where a trace comes in and goes on |
//! | [`proto`] | the generated messages and stubs |

pub mod account_events;
pub mod cli;
pub mod clock;
pub mod config;
pub mod credentials;
pub mod grpc;
pub mod http;
pub mod nats;
pub mod proto;
pub mod registry;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod token;
pub mod validation;
