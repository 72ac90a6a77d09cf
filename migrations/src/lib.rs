//! The schema of Latchkey, one file per migration. Within a minor version migrations only add: each release must run on
//! the schema of the next.

use std::collections::HashSet;

pub use sea_orm_migration::MigratorTrait;
use sea_orm_migration::{
    IntoSchemaManagerConnection, MigrationTrait, SchemaManager, async_trait,
    sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait as _},
    seaql_migrations,
};

mod m20261123_000001_tokens;

/// The list of all migrations, in the order in which they are applied.
#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(m20261123_000001_tokens::Migration)]
    }
}

/// Applies the migrations that the database lacks. Leaves a database of a newer version as it is.
///
/// # Errors
///
/// A migration failed.
pub async fn bring_up_to_date(database: &DatabaseTransaction) -> Result<(), DbErr> {
    if is_up_to_date(database).await? { Ok(()) } else { Migrator::up(database, None).await }
}

/// Returns whether every migration is applied. The database may also have newer ones.
///
/// # Errors
///
/// The query failed.
pub async fn is_up_to_date<'c, C>(database: &'c C) -> Result<bool, DbErr>
where
    C: ConnectionTrait,
    &'c C: IntoSchemaManagerConnection<'c>,
{
    if !SchemaManager::new(database).has_table("seaql_migrations").await? {
        return Ok(false);
    }
    has_every_migration(database).await
}

/// Returns the same in one query, for a database that was migrated at least once.
///
/// # Errors
///
/// The query failed, because the table of the migrations is gone or for another reason.
pub async fn has_every_migration(database: &impl ConnectionTrait) -> Result<bool, DbErr> {
    let applied = seaql_migrations::Entity::find().all(database).await?;
    let applied: HashSet<String> = applied.into_iter().map(|migration| migration.version).collect();
    Ok(Migrator::migrations().iter().all(|migration| applied.contains(migration.name())))
}
