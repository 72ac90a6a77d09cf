use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::support::{latchkey::Process, soon};

/// The defaults, which other tests replace by cheap values.
const ARGON2: [&str; 4] = ["--argon2-memory-kib", "19456", "--argon2-iterations", "2"];
const ARGON2_BYTES: u64 = 19_456 * 1024;

const CALLS: usize = 300;
const CALLS_AT_ONCE: usize = 32;
/// What so many calls at once need in addition: connections, statements, threads.
const MARGIN: u64 = 12_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_creations_at_once_need_only_the_memory_of_argon2() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &ARGON2);
    let client = process.client().await;
    let idle = process.memory("VmRSS");
    let at_once = Arc::new(Semaphore::new(CALLS_AT_ONCE));
    let calls: Vec<_> = (0..CALLS)
        .map(|n| {
            let (client, at_once) = (client.clone(), Arc::clone(&at_once));
            tokio::spawn(async move {
                let _permit = at_once.acquire().await.unwrap();
                client.issue(&format!("user {n}"), "token").await;
            })
        })
        .collect();
    for call in calls {
        soon("creation", call).await.unwrap();
    }
    // By default as many runs at once as there are cores.
    let runs_at_once = std::thread::available_parallelism().unwrap().get() as u64;
    let allowed = idle + runs_at_once * ARGON2_BYTES + MARGIN;
    for field in ["VmRSS", "VmHWM"] {
        let used = process.memory(field);
        assert!(used <= allowed, "{field} is {used}; when idle it was {idle}; at most {allowed} is allowed");
    }
    process.stop().await;
}
