use std::sync::Arc;

use latchkey::proto::latchkey::CreateTokenRequest;
use tokio::sync::Semaphore;

use crate::support::{latchkey::Process, soon};

/// The defaults, which the tests otherwise replace by cheap ones.
const ARGON2: [&str; 4] = ["--argon2-memory-kib", "19456", "--argon2-iterations", "2"];
const ARGON2_BYTES: u64 = 19_456 * 1024;
/// For everything else that 32 calls at once need: connections, statements, threads.
const MARGIN: u64 = 12_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_creations_leaves_only_the_memory_of_argon2() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &ARGON2);
    let client = crate::support::app::connect(&process.url()).await;
    let idle = process.memory("VmRSS");
    let at_once = Arc::new(Semaphore::new(32));
    let calls: Vec<_> = (0..300)
        .map(|n| {
            let (mut client, at_once) = (client.clone(), Arc::clone(&at_once));
            tokio::spawn(async move {
                let _permit = at_once.acquire().await.unwrap();
                let user_id = format!("user {n}");
                let request = CreateTokenRequest { user_id, name: "token".into(), ..Default::default() };
                client.create_token(request).await.unwrap();
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
        assert!(used <= allowed, "{field} is {used}; idle it was {idle}; at most {allowed} are expected");
    }
    process.stop().await;
}
