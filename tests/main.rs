//! What Latchkey promises, a file a promise. The same tests run on SQLite and on PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

/// Alerts fire when they should, and the dashboard asks for what is there.
mod alerts;
/// The chart: what Kubernetes takes, every setting within reach, nonsense refused, strangers kept out.
mod chart;
/// Expiry is judged by the database's clock, however wrong a replica's is.
mod clocks;
/// `latchkey token …` for people and for programs.
mod command_line;
/// Names stay unique and limits hold, however many ask at once.
mod concurrency;
/// CreateToken: what it refuses, and in which words.
mod create_token;
/// Cancelled calls, hangs, outages, and databases that cannot be used.
mod database_faults;
/// DeleteToken: for good, and only one's own.
mod delete_token;
/// Reflection and health, for tools that know nothing of the service.
mod discovery;
/// Variables of the environment: mistyped ones are refused, switches are understood in every usual form.
mod environment;
/// UserDeleted by HTTP: 202 once it is committed, 400 for ever, 503 for now.
mod events_by_http;
/// UserDeleted by NATS: in every form, attached when it can be, nothing lost.
mod events_by_nats;
/// UserDeleted under every fault: killed services, lost brokers, lost databases.
mod events_under_faults;
/// UserDeleted with headers that no client library can read: handled or a dead letter, never stuck.
mod events_with_damaged_headers;
/// A standby is never read, and a failover that lost commits leaves nothing in memory.
mod failover;
/// The first start makes everything; the second finds it again.
mod first_start;
/// What was acknowledged is committed, whatever the disk did before.
mod full_disk;
/// `latchkey health`: 0 for a service that serves, 1 for any other.
mod health_command;
/// A token proven once is answered from memory: no database, no argon2.
mod hot_path;
/// The image: clean, pinned, not root; its program is all that it needs.
mod image;
/// An INTERNAL answer has one line in the log, which says what failed and shows no secret.
mod internal_errors;
/// `latchkey keys …`: a ring is rotated step by step, and no replica meets a tag whose key it lacks.
mod key_rotation;
/// When tokens were last used is noted, and outlives a stop.
mod last_used;
/// ListTokens: newest first, page by page, nobody else's.
mod list_tokens;
/// The log: nothing twice, nothing needless, and never in the way of the service.
mod log;
/// Requests that cannot be read: answered with the caller's error, never as a failure of the service.
mod malformed_requests;
/// Memory stays within what docs/operations.md states.
mod memory;
/// What happens is counted, by a closed list of labels.
mod metrics;
/// Databases are brought up to date, by however many at once.
mod migrations;
/// The subscriber proves who it is, and to whom it talks.
mod nats_security;
/// What docs/operations.md tells an operator to do, done as it stands there.
mod operations;
/// Too many, too slow, too large: refused at once, in words a program understands.
mod overload;
/// Argon2 runs only where no key is at hand, and then once.
mod proofs;
/// No query reads a whole table.
mod query_plans;
/// Alive is not ready: /livez, /readyz and their like in gRPC.
mod readiness;
/// The README says what is true.
mod readme;
/// A revocation is seen by every replica, within a bound, or nothing is answered from memory.
mod revocations;
/// No secret, hash, tag, key or password is ever emitted.
mod secrecy;
/// SIGTERM lets calls finish, within a bound.
mod shutdown;
/// Traces: from whoever called to the commit, and never at the cost of the service.
mod traces;
/// With the database away the service says so, and recovers by itself.
mod unhealthy_database;
/// A deleted account's tokens never work again, and it gets no new ones.
mod user_deleted;
/// ValidateToken: whose token it is, or why it is not good.
mod validate_token;
