//! The SQL statements that a service in this process makes, taken from the spans of sea-orm.

use std::sync::{Arc, LazyLock, Mutex};

use tracing::{
    Dispatch, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
};

/// As long as there is only one dispatcher, `tracing` disables a span for good if a thread without a subscriber is the
/// first to enter it, as threads of other tests are. With two it asks both.
static SECOND_DISPATCHER: LazyLock<Dispatch> =
    LazyLock::new(|| Dispatch::new(tracing_subscriber::registry()));

/// The statements of this thread, in the order in which they began. The runtime of the test must have one thread.
#[derive(Clone, Default)]
pub struct Statements(Arc<Mutex<Vec<String>>>);

impl Statements {
    /// Records statements until the guard is dropped.
    pub fn record() -> (Self, DefaultGuard) {
        LazyLock::force(&SECOND_DISPATCHER);
        let statements = Self::default();
        let subscriber = tracing_subscriber::registry().with(statements.clone());
        (statements, tracing::subscriber::set_default(subscriber))
    }

    /// Returns the statements since the last call.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn push(&self, statement: &str) {
        self.0.lock().unwrap().push(statement.to_owned());
    }
}

impl Visit for &Statements {
    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "db.statement" {
            self.push(value);
        }
    }
}

impl<S: Subscriber> Layer<S> for Statements {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        match attributes.metadata().name() {
            "sea_orm.begin" => self.push("BEGIN"),
            "sea_orm.commit" => self.push("COMMIT"),
            "sea_orm.rollback" => self.push("ROLLBACK"),
            _ => attributes.record(&mut &*self),
        }
    }

    fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, S>) {
        values.record(&mut &*self);
    }
}
