//! The steps of a validation from memory, each measured alone.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use divan::{Bencher, black_box};
use latchkey::{
    caller::Caller,
    credentials::{HashLimits, Hasher, KeyRing, SecretVerifier},
    registry::{CreationRates, NewToken, OnRepeat, TokenRegistry, Transport},
    store::{PoolLimits, Store},
    token::{BearerToken, Prefix, Scopes, TokenName},
    validation::{Authenticator, ValidationLimits},
};
use secrecy::ExposeSecret as _;

const LIMITS: ValidationLimits = ValidationLimits {
    cache_entries: 100_000,
    cold_lookups: 16,
    // Polled once at the start, and trusted for the whole run.
    max_staleness: Duration::from_secs(3_600),
    poll_timeout: Duration::from_secs(5),
};

fn main() {
    divan::main();
}

fn prefix() -> Prefix {
    "pat".parse().unwrap()
}

fn verifier() -> SecretVerifier {
    let cheap = HashLimits { memory_kib: 8, iterations: 1, parallelism: 1, concurrency: 2, queue: 10 };
    SecretVerifier::new(Hasher::new(cheap).unwrap(), KeyRing::empty())
}

#[divan::bench]
fn parse_with_checksum(bencher: Bencher<'_, '_>) {
    let prefix = prefix();
    let text = BearerToken::generate().unwrap().reveal(&prefix);
    bencher.bench(|| BearerToken::parse(&prefix, black_box(text.expose_secret()).as_bytes()).unwrap());
}

#[divan::bench]
fn digest(bencher: Bencher<'_, '_>) {
    let bearer = BearerToken::generate().unwrap();
    bencher.bench(|| black_box(&bearer).digest());
}

#[divan::bench]
fn compare_digests(bencher: Bencher<'_, '_>) {
    let bearer = BearerToken::generate().unwrap();
    let (one, two) = (bearer.digest(), bearer.digest());
    bencher.bench(|| black_box(&one) == black_box(&two));
}

#[divan::bench]
fn authenticate_from_memory(bencher: Bencher<'_, '_>) {
    let memory = Memory::new();
    let bearer = BearerToken::parse(&prefix(), memory.bearer.as_bytes()).unwrap();
    let authenticate =
        || memory.runtime.block_on(memory.authenticator.authenticate(black_box(&bearer))).unwrap();
    assert!(authenticate().is_some());
    bencher.bench(authenticate);
}

#[divan::bench]
fn validate_from_memory(bencher: Bencher<'_, '_>) {
    let memory = Memory::new();
    let (caller, none) = (Caller::unchecked(), Scopes::default());
    let validate = || {
        memory
            .runtime
            .block_on(memory.registry.validate(
                &caller,
                Transport::Grpc,
                black_box(memory.bearer.as_bytes()),
                &none,
            ))
            .unwrap()
    };
    bencher.bench(validate);
}

/// The cost of an empty future, which the two above include.
#[divan::bench]
fn block_on_nothing(bencher: Bencher<'_, '_>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    bencher.bench(|| runtime.block_on(async { black_box(()) }));
}

/// A registry and an authenticator with one token in memory. Their database is closed.
struct Memory {
    runtime: tokio::runtime::Runtime,
    registry: TokenRegistry,
    authenticator: Authenticator,
    bearer: String,
}

impl Memory {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (registry, authenticator, bearer) = runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let url = format!("sqlite://{}", folder.path().join("bench.db").display()).parse().unwrap();
            let limits = PoolLimits { connections: 1, timeout: Duration::from_secs(5) };
            let store = Store::open(&url, limits).await.unwrap();
            store.prepare().await.unwrap();
            let registry = TokenRegistry::new(
                store.clone(),
                latchkey::clock::Clock::system(),
                verifier(),
                prefix(),
                50,
                CreationRates::new(NonZeroU32::MAX, NonZeroU32::MAX),
                LIMITS,
            );
            let authenticator = Authenticator::new(store.clone(), Arc::new(verifier()), LIMITS);
            registry.revocation_tail().poll_once().await.unwrap();
            authenticator.revocation_tail(latchkey::clock::Clock::system()).poll_once().await.unwrap();
            let new_token = NewToken {
                user_id: "alice".parse().unwrap(),
                name: TokenName::parse("one").unwrap(),
                scopes: Scopes::default(),
                expiry: None,
                request_id: None,
                on_repeat: OnRepeat::ReplaceSecret,
            };
            let bearer = registry
                .issue(&Caller::unchecked(), new_token)
                .await
                .unwrap()
                .secret
                .expose_secret()
                .to_owned();
            let parsed = BearerToken::parse(&prefix(), bearer.as_bytes()).unwrap();
            registry
                .validate(&Caller::unchecked(), Transport::Grpc, bearer.as_bytes(), &Scopes::default())
                .await
                .unwrap();
            authenticator.authenticate(&parsed).await.unwrap();
            store.close().await.unwrap();
            (registry, authenticator, bearer)
        });
        Self { runtime, registry, authenticator, bearer }
    }
}
