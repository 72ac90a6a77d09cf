//! The schema of Latchkey, one file a step. Steps are additive within a minor version: the release before must be
//! able to run on the schema of the release after it.

use std::collections::HashSet;

pub use sea_orm_migration::MigratorTrait;
use sea_orm_migration::{
    IntoSchemaManagerConnection, MigrationTrait, SchemaManager, async_trait,
    sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait as _},
    seaql_migrations,
};

mod m20261123_000001_tokens;

/// Every step, in the order in which they are applied.
#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(m20261123_000001_tokens::Migration)]
    }
}

/// Applies the steps that the database lacks. A database that is ahead of this version is left as it is.
///
/// # Errors
///
/// A step failed.
pub async fn bring_up_to_date(database: &DatabaseTransaction) -> Result<(), DbErr> {
    if is_up_to_date(database).await? { Ok(()) } else { Migrator::up(database, None).await }
}

/// Whether the database lacks none of the steps; it may have further ones.
///
/// # Errors
///
/// The database cannot be asked.
pub async fn is_up_to_date<'c, C>(database: &'c C) -> Result<bool, DbErr>
where
    C: ConnectionTrait,
    &'c C: IntoSchemaManagerConnection<'c>,
{
    if !SchemaManager::new(database).has_table("seaql_migrations").await? {
        return Ok(false);
    }
    let applied = seaql_migrations::Entity::find().all(database).await?;
    let applied: HashSet<String> = applied.into_iter().map(|step| step.version).collect();
    Ok(Migrator::migrations().iter().all(|step| applied.contains(step.name())))
}
