use std::sync::Arc;

use rstest_reuse::apply;
use tonic::{Code, Status};

use crate::support::{
    App, Database, on_both_databases,
    status::{details, reason},
};

/// Creates tokens of one user with these names, all at once, through two replicas.
async fn create_at_once(database: Database, names: Vec<String>) -> (App, Vec<Result<(), Status>>) {
    let app = Arc::new(App::start(database).await);
    let replica = Arc::new(app.replica().await);
    let calls: Vec<_> = names
        .into_iter()
        .enumerate()
        .map(|(n, name)| {
            let app = Arc::clone(if n % 2 == 0 { &app } else { &replica });
            tokio::spawn(async move { app.create("alice", &name).await.map(drop) })
        })
        .collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    (Arc::into_inner(app).unwrap(), answers)
}

#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_creations_of_one_name_at_once_one_succeeds(database: Database) {
    let (app, answers) = create_at_once(database, vec!["same name".to_owned(); 64]).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!((refused.code(), &*reason(refused)), (Code::AlreadyExists, "NAME_TAKEN"));
    }
    assert_eq!(app.count("tokens").await, 1);
    assert_eq!(app.names("alice").await, ["same name"]);
}

#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_200_creations_at_once_50_succeed(database: Database) {
    let names = (0..200).map(|n| format!("token {n}")).collect();
    let (app, answers) = create_at_once(database, names).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 50);
    for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(details(refused).quota_failure().is_some(), "{refused}");
    }
    assert_eq!(app.count("tokens").await, 50);
}
