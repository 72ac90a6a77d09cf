//! What Latchkey promises: one file per promise. The same tests run on SQLite and on PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

/// "It is gone already" is a promise like any other: no replica accepts the token any more.
mod acknowledgements;
/// Alerts fire when they should, and the dashboard shows metrics that exist.
mod alerts;
/// Who may call, and what each caller may do: the callers file, roles, limits, and the audit log.
mod callers;
/// The chart: Kubernetes accepts its objects, pods have no privileges, and only named peers may connect.
mod chart;
/// The values of the chart: every setting can be set, and wrong values are refused by name.
mod chart_values;
/// The client programs in examples/clients, and independent clients of OAuth, get what they expect.
mod client_programs;
/// Expiry is judged by the database's clock, however wrong a replica's clock is.
mod clocks;
/// `latchkey token …` for people and for programs.
mod command_line;
/// When a call that takes access away returns, no replica accepts the token any more, whatever fails meanwhile.
mod complete_revocations;
/// Names stay unique and limits hold, however many calls come at once.
mod concurrency;
/// The pages and the file that list the settings are those of the code.
mod configuration;
/// Connections, requests and answers of one peer keep nobody else out.
mod connections;
/// CreateToken: what it refuses, and the reasons it gives.
mod create_token;
/// Cancelled calls, hangs, outages, and databases that cannot be used.
mod database_faults;
/// A message that can never be read is kept as a dead letter, and does not hold up those behind it.
mod dead_letters;
/// DeleteToken: a token is deleted for good, and only by its user.
mod delete_token;
/// Reflection, health and the details of errors, for generic tools.
mod discovery;
/// Environment variables: mistyped ones are refused, and switches are understood in every usual form.
mod environment;
/// A database that crashed, was started anew or was copied hides no revocation.
mod epochs;
/// UserDeleted over HTTP: 202 when it is committed, 400 if it can never be, 503 if it cannot be now.
mod events_by_http;
/// UserDeleted over NATS: every form of the message is handled, and none is lost.
mod events_by_nats;
/// UserDeleted while services, brokers and databases fail: nothing is lost, and nothing is done twice.
mod events_under_faults;
/// UserDeleted with headers that the client library cannot read: handled, or kept as a dead letter.
mod events_with_damaged_headers;
/// Envoy's external authorization: each request has its answer, and what is unknown is let through by nobody.
mod ext_authz;
/// A standby is never read, and a failover that lost commits leaves nothing in memory.
mod failover;
/// The first start creates everything, and the second uses it.
mod first_start;
/// A flood of made-up tokens does not keep real ones from being looked up.
mod floods;
/// `/verify` and the gateways that ask it let only good tokens through.
mod forward_auth;
/// What was acknowledged is committed, also on a full or broken disk.
mod full_disk;
/// `latchkey health`: exit status 0 for a service that serves, 1 for any other.
mod health_command;
/// Whatever fails, no validation that begins after an acknowledged revocation accepts the token.
mod history;
/// Text that a caller chose is neither logged nor answered at length, and forges no line of the log.
mod hostile_text;
/// A cached token is validated in memory: no database, no argon2.
mod hot_path;
/// The image: clean, pinned, not root; its program needs nothing else.
mod image;
/// An INTERNAL error has one line in the log, which says what failed and contains no secret.
mod internal_errors;
/// Token introspection (RFC 7662): a good token is described, any other is inactive, and what is unknown is neither.
mod introspection;
/// Callers by JWT: only good ones are accepted, whatever happens to the keys of their issuer.
mod jwt_callers;
/// `latchkey keys …`: a key ring is rotated step by step, and no replica meets a tag whose key it lacks.
mod key_rotation;
/// The last use of a token is written in time, and at the stop.
mod last_used;
/// ListTokens: the user's own tokens, newest first, page by page.
mod list_tokens;
/// The log: no key twice, no noise, and never in the way of the service.
mod log;
/// Requests that cannot be read are the caller's error, never the service's.
mod malformed_requests;
/// Memory stays within the bound in docs/operations.md.
mod memory;
/// Calls, events and resources are counted, by a closed list of labels.
mod metrics;
/// Databases are migrated from every earlier state, also by many processes at once.
mod migrations;
/// The subscriber and the broker authenticate each other.
mod nats_security;
/// OAuth 2.0: revocation by the holder of the token, and the metadata of the endpoints.
mod oauth;
/// The instructions in docs/operations.md work as they stand there.
mod operations;
/// Too many calls, too slow or too large ones, are refused with a status that programs understand.
mod overload;
/// The web page: a person creates a token, sees it once and deletes it, by mouse, by keyboard and without JavaScript.
mod page;
/// No query reads a whole table, and each call makes a known list of statements.
mod query_plans;
/// Alive is not ready: /livez, /readyz and their equivalents in gRPC.
mod readiness;
/// The README is true.
mod readme;
/// Replicas register and leave so that revocations wait for those that may accept a token, and for no others.
mod registrations;
/// Deletions of accounts that a failover or a restore has lost are applied again.
mod replay;
/// What replicas cost the database: few statements and connections each, however many there are.
mod replica_costs;
/// What is older than its retention is purged, in batches between calls; nothing else is.
mod retention;
/// A call whose answer was lost can be repeated.
mod retried_calls;
/// The protocol of revocations holds over all interleavings, and not without any one of its rules.
mod revocation_model;
/// A revocation reaches every replica within a bound, or nothing is answered from memory.
mod revocations;
/// No secret, hash, tag, key or password is ever emitted.
mod secrecy;
/// SIGTERM lets calls finish, within a bound.
mod shutdown;
/// Connections that hang, and commits that never end, cost neither answers nor the connections of others.
mod stuck_connections;
/// Both listeners are encrypted, certificates are renewed without a restart, and callers are recognised by theirs.
mod tls;
/// Kubernetes' webhook for bearer tokens.
mod token_review;
/// Traces go from the caller to the commit, and never cost the service its availability.
mod traces;
/// Without its database the service says so, and recovers with it.
mod unhealthy_database;
/// A consumer that would lose messages, or deliver others, is not used.
mod unsuitable_consumers;
/// The tokens of a deleted account never work again, and it gets no new ones.
mod user_deleted;
/// ValidateToken: whose token it is, or why it is not valid.
mod validate_token;
/// Argon2 runs once for a token whose key is missing, and never for others.
mod verification;
