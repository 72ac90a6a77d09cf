//! The schema of Latchkey, one file a step. Steps are additive within a minor version: the release before must be
//! able to run on the schema of the release after it.

pub use sea_orm_migration::MigratorTrait;
use sea_orm_migration::{MigrationTrait, async_trait};

mod m20261123_000001_tokens;

/// Every step, in the order in which they are applied.
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(m20261123_000001_tokens::Migration)]
    }
}
