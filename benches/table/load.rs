//! Generates load: a fixed number of callers, each with one call in flight.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use latchkey::proto::latchkey::{
    CreateTokenRequest, ListTokensRequest, ValidateTokenRequest, token_service_client::TokenServiceClient,
    validate_token_response::Outcome,
};
use tonic::transport::Channel;

use super::server::Server;

/// How many calls are in flight, and how many connections they share.
#[derive(Clone, Copy)]
pub struct Load {
    pub calls: usize,
    pub connections: usize,
}

/// The load of every row that does not name another.
pub const LOAD: Load = Load { calls: 32, connections: 4 };
/// Calls in flight when the latency of each call is measured, and the pause of a caller between calls. The load is so
/// low that calls do not queue.
const MEASURED: usize = 4;
const REST: Duration = Duration::from_millis(2);
/// Calls per second of a flood, answered or not.
const FLOOD: usize = 4_000;

/// Number of the next user without a token.
static NEWCOMERS: AtomicUsize = AtomicUsize::new(0);

/// A kind of call.
#[derive(Clone)]
pub enum Call {
    /// Validates these tokens in turn. All are valid.
    Validate(Arc<[String]>),
    /// Validates these tokens in turn. None is valid, and some calls may be refused.
    Flood(Arc<[String]>),
    /// Lists the first page of a user's tokens.
    List { users: usize },
    /// Creates a token for a user who has none.
    Create,
}

impl Call {
    async fn send(&self, client: &mut TokenServiceClient<Channel>, n: usize) {
        match self {
            Self::Validate(bearers) => assert!(is_valid(client, &bearers[n % bearers.len()]).await),
            Self::Flood(bearers) => {
                let bearer = bearers[n % bearers.len()].clone();
                let request = ValidateTokenRequest { secret: bearer.into(), ..Default::default() };
                if let Ok(answer) = client.validate_token(request).await {
                    assert!(matches!(answer.into_inner().outcome, Some(Outcome::Invalid(_))));
                }
            }
            Self::List { users } => {
                // A step that is coprime to the number of users visits all of them, out of order.
                let user_id = format!("user {}", n * 7_919 % users);
                let request = ListTokensRequest { user_id, ..Default::default() };
                assert!(!client.list_tokens(request).await.unwrap().into_inner().tokens.is_empty());
            }
            Self::Create => {
                let user_id = format!("newcomer {}", NEWCOMERS.fetch_add(1, Ordering::Relaxed));
                let request = CreateTokenRequest { user_id, name: "token".into(), ..Default::default() };
                client.create_token(request).await.unwrap();
            }
        }
    }
}

pub async fn is_valid(client: &mut TokenServiceClient<Channel>, bearer: &str) -> bool {
    let request = ValidateTokenRequest { secret: bearer.into(), ..Default::default() };
    let answer = client.validate_token(request).await.unwrap().into_inner();
    matches!(answer.outcome, Some(Outcome::Valid(_)))
}

/// The result of a round.
#[derive(Clone, Copy)]
pub struct Figure {
    pub calls_per_second: f64,
    pub server_micros_per_call: f64,
}

/// When a round ends.
#[derive(Clone, Copy)]
pub enum Until {
    Time(Duration),
    Calls(usize),
}

/// Sends calls as fast as they are answered.
pub async fn round(server: &Server, call: &Call, until: Until) -> Figure {
    round_of(server, call, until, LOAD).await
}

/// As [`round`], with another load.
pub async fn round_of(server: &Server, call: &Call, until: Until, load: Load) -> Figure {
    let clients = server.clients(load.connections).await;
    let begun = Arc::new(AtomicUsize::new(0));
    let (cpu, start) = (server.cpu(), Instant::now());
    let more = move |n: usize| match until {
        Until::Time(time) => start.elapsed() < time,
        Until::Calls(calls) => n < calls,
    };
    let callers: Vec<_> = (0..load.calls)
        .map(|caller| {
            let mut client = clients[caller % clients.len()].clone();
            let (call, begun) = (call.clone(), Arc::clone(&begun));
            tokio::spawn(async move {
                let mut calls = 0;
                loop {
                    let n = begun.fetch_add(1, Ordering::Relaxed);
                    if !more(n) {
                        return calls;
                    }
                    call.send(&mut client, n).await;
                    calls += 1;
                }
            })
        })
        .collect();
    let mut calls = 0;
    for caller in callers {
        calls += caller.await.unwrap();
    }
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), server.cpu() - cpu);
    Figure {
        calls_per_second: calls as f64 / seconds,
        server_micros_per_call: cpu.as_secs_f64() * 1e6 / calls as f64,
    }
}

/// Returns the latencies of hot calls at low load, in microseconds, and the answered calls of the flood per second.
pub async fn latencies(
    server: &Server,
    hot: &Arc<[String]>,
    flood: Option<&Call>,
    time: Duration,
) -> (Vec<f64>, f64) {
    let answered = Arc::new(AtomicUsize::new(0));
    let flooding =
        flood.map(|flood| tokio::spawn(pour(server.lazy_client(), flood.clone(), Arc::clone(&answered))));
    let clients = server.clients(MEASURED).await;
    let start = Instant::now();
    let callers: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(caller, mut client)| {
            let call = Call::Validate(Arc::clone(hot));
            tokio::spawn(async move {
                let mut micros = Vec::new();
                while start.elapsed() < time {
                    let began = Instant::now();
                    call.send(&mut client, caller + micros.len() * MEASURED).await;
                    micros.push(began.elapsed().as_secs_f64() * 1e6);
                    tokio::time::sleep(REST).await;
                }
                micros
            })
        })
        .collect();
    let mut micros = Vec::new();
    for caller in callers {
        micros.extend(caller.await.unwrap());
    }
    let answered = answered.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
    if let Some(flooding) = flooding {
        flooding.abort();
    }
    (micros, answered)
}

/// Sends calls at a steady rate, until it is aborted.
async fn pour(client: TokenServiceClient<Channel>, call: Call, answered: Arc<AtomicUsize>) {
    let mut calls = tokio::task::JoinSet::new();
    let mut sent = 0;
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    loop {
        ticks.tick().await;
        for _ in 0..FLOOD / 1_000 {
            let (mut client, call, answered) = (client.clone(), call.clone(), Arc::clone(&answered));
            let n = sent;
            calls.spawn(async move {
                call.send(&mut client, n).await;
                answered.fetch_add(1, Ordering::Relaxed);
            });
            sent += 1;
        }
        while calls.try_join_next().is_some() {}
    }
}
