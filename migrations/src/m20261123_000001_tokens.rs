//! Users, tokens, token events, replicas, and the epochs of the database.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, string, text, text_null, timestamp_with_time_zone, uuid, uuid_null},
    schema::{binary, binary_null, timestamp_with_time_zone_null},
    sea_orm::DbBackend,
};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[derive(DeriveIden)]
enum Users {
    Table,
    UserId,
    DeletedAt,
    TokensPurgedAt,
}

#[derive(DeriveIden)]
enum Tokens {
    Table,
    Id,
    UserId,
    Name,
    SecretHash,
    TagKeyId,
    Tag,
    Scopes,
    CreatedAt,
    ExpiresAt,
    LastUsedAt,
    RevokedAt,
    RevokeReason,
}

#[derive(DeriveIden)]
enum CreateRequests {
    Table,
    UserId,
    RequestId,
    TokenId,
    Content,
    CreatedAt,
}

#[derive(DeriveIden)]
enum TokenEvents {
    Table,
    Id,
    At,
    Kind,
    TokenId,
    UserId,
    Actor,
    Reason,
    TraceId,
    Xid,
}

#[derive(DeriveIden)]
enum Replicas {
    Table,
    Id,
    Epoch,
    LeaseMillis,
}

#[derive(DeriveIden)]
enum ReplicaStates {
    Table,
    Id,
    Renewals,
    Seen,
    RenewedAt,
}

#[derive(DeriveIden)]
enum AccountEventReplays {
    Table,
    Epoch,
    DoneAt,
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(users()).await?;
        manager.create_index(users_to_purge()).await?;
        manager.create_table(tokens()).await?;
        manager.create_index(tokens_name()).await?;
        manager.create_index(tokens_page()).await?;
        manager.create_table(create_requests()).await?;
        manager.create_index(create_requests_created_at()).await?;
        manager.create_index(tokens_revoked()).await?;
        manager.create_index(tokens_expiry()).await?;
        manager.create_table(token_events()).await?;
        manager.create_index(token_events_at()).await?;
        manager.create_index(token_events_user()).await?;
        create_epoch(manager).await?;
        manager.create_table(replicas()).await?;
        manager.create_table(replica_states()).await?;
        manager.create_table(account_event_replays()).await?;
        if manager.get_database_backend() == DbBackend::Postgres {
            let with_xid = Table::alter().table(TokenEvents::Table).add_column(xid()).to_owned();
            manager.alter_table(with_xid).await?;
            manager.create_index(token_events_xid()).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let tables = [
            ReplicaStates::Table.into_iden(),
            Replicas::Table.into_iden(),
            Alias::new("epoch").into_iden(),
            AccountEventReplays::Table.into_iden(),
            TokenEvents::Table.into_iden(),
            CreateRequests::Table.into_iden(),
            Tokens::Table.into_iden(),
            Users::Table.into_iden(),
        ];
        for table in tables {
            manager.drop_table(Table::drop().table(table).to_owned()).await?;
        }
        Ok(())
    }
}

fn users() -> TableCreateStatement {
    Table::create()
        .table(Users::Table)
        .col(text(Users::UserId).primary_key())
        .col(timestamp_with_time_zone_null(Users::DeletedAt))
        .col(timestamp_with_time_zone_null(Users::TokensPurgedAt))
        .to_owned()
}

/// Finds the deleted accounts that still have tokens to purge. Each leaves the index when its tokens are gone, so that
/// tombstones, which stay for good, cost a purge nothing.
fn users_to_purge() -> IndexCreateStatement {
    Index::create()
        .name("users_to_purge")
        .table(Users::Table)
        .col(Users::DeletedAt)
        .and_where(Expr::col(Users::DeletedAt).is_not_null())
        .and_where(Expr::col(Users::TokensPurgedAt).is_null())
        .to_owned()
}

fn tokens() -> TableCreateStatement {
    Table::create()
        .table(Tokens::Table)
        .col(uuid(Tokens::Id).primary_key())
        .col(text(Tokens::UserId))
        .col(text(Tokens::Name))
        .col(text(Tokens::SecretHash))
        .col(text_null(Tokens::TagKeyId))
        .col(binary_null(Tokens::Tag))
        .col(text(Tokens::Scopes))
        .col(timestamp_with_time_zone(Tokens::CreatedAt))
        .col(timestamp_with_time_zone_null(Tokens::ExpiresAt))
        .col(timestamp_with_time_zone_null(Tokens::LastUsedAt))
        .col(timestamp_with_time_zone_null(Tokens::RevokedAt))
        .col(text_null(Tokens::RevokeReason))
        .foreign_key(ForeignKey::create().from(Tokens::Table, Tokens::UserId).to(Users::Table, Users::UserId))
        .to_owned()
}

fn tokens_name() -> IndexCreateStatement {
    Index::create()
        .name("tokens_name")
        .table(Tokens::Table)
        .col(Tokens::UserId)
        .col(Tokens::Name)
        .unique()
        .and_where(Expr::col(Tokens::RevokedAt).is_null())
        .to_owned()
}

/// Lists a page of a user's tokens from one index range. Partial, so that deleted tokens cost nothing.
fn tokens_page() -> IndexCreateStatement {
    Index::create()
        .name("tokens_page")
        .table(Tokens::Table)
        .col(Tokens::UserId)
        .col(Tokens::Id)
        .and_where(Expr::col(Tokens::RevokedAt).is_null())
        .to_owned()
}

/// The requests to create tokens that can be repeated. Without foreign keys: a row is of use for an hour, and what it
/// refers to may be purged before it.
fn create_requests() -> TableCreateStatement {
    Table::create()
        .table(CreateRequests::Table)
        .col(text(CreateRequests::UserId))
        .col(uuid(CreateRequests::RequestId))
        .col(uuid(CreateRequests::TokenId))
        .col(binary(CreateRequests::Content))
        .col(timestamp_with_time_zone(CreateRequests::CreatedAt))
        .primary_key(Index::create().col(CreateRequests::UserId).col(CreateRequests::RequestId))
        .to_owned()
}

/// Finds the rows to purge.
fn create_requests_created_at() -> IndexCreateStatement {
    Index::create()
        .name("create_requests_created_at")
        .table(CreateRequests::Table)
        .col(CreateRequests::CreatedAt)
        .to_owned()
}

/// Finds the revoked tokens to purge.
fn tokens_revoked() -> IndexCreateStatement {
    Index::create()
        .name("tokens_revoked")
        .table(Tokens::Table)
        .col(Tokens::RevokedAt)
        .and_where(Expr::col(Tokens::RevokedAt).is_not_null())
        .to_owned()
}

/// Finds the expired tokens to purge.
fn tokens_expiry() -> IndexCreateStatement {
    Index::create()
        .name("tokens_expiry")
        .table(Tokens::Table)
        .col(Tokens::ExpiresAt)
        .and_where(Expr::col(Tokens::ExpiresAt).is_not_null())
        .to_owned()
}

/// On SQLite, which has one writer at a time, `id` is in commit order, and replicas read the log by it.
fn token_events() -> TableCreateStatement {
    Table::create()
        .table(TokenEvents::Table)
        .col(big_integer(TokenEvents::Id).auto_increment().primary_key())
        .col(timestamp_with_time_zone(TokenEvents::At))
        .col(string(TokenEvents::Kind))
        .col(uuid_null(TokenEvents::TokenId))
        .col(text(TokenEvents::UserId))
        .col(text(TokenEvents::Actor))
        .col(text_null(TokenEvents::Reason))
        .col(text_null(TokenEvents::TraceId))
        .to_owned()
}

/// Finds the events to purge.
fn token_events_at() -> IndexCreateStatement {
    Index::create().name("token_events_at").table(TokenEvents::Table).col(TokenEvents::At).to_owned()
}

/// Lists a page of a user's events.
fn token_events_user() -> IndexCreateStatement {
    Index::create()
        .name("token_events_user")
        .table(TokenEvents::Table)
        .col(TokenEvents::UserId)
        .col(TokenEvents::Id)
        .to_owned()
}

/// The id of the transaction that wrote the event. On PostgreSQL `id` is not in commit order, so replicas read the
/// events of the transactions that were not visible to their last read.
fn xid() -> ColumnDef {
    let mut column = ColumnDef::new_with_type(TokenEvents::Xid, ColumnType::custom("xid8"));
    column.not_null().default(Expr::cust("pg_current_xact_id()"));
    column
}

fn token_events_xid() -> IndexCreateStatement {
    Index::create().name("token_events_xid").table(TokenEvents::Table).col(TokenEvents::Xid).to_owned()
}

/// One row: the epoch of the database, a random id. On PostgreSQL it belongs to one server since its start, and to this
/// table: elsewhere, the next replica that registers begins a new epoch. There the table is also unlogged, so that it is
/// empty after the crash of a single process of the server, and cannot be read on a standby.
async fn create_epoch(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let statements = match manager.get_database_backend() {
        DbBackend::Sqlite => [
            "CREATE TABLE epoch \
             (single boolean PRIMARY KEY DEFAULT TRUE CHECK (single), id uuid_text NOT NULL)",
            "INSERT INTO epoch (id) VALUES (randomblob(16))",
        ],
        _ => [
            "CREATE UNLOGGED TABLE epoch (single boolean PRIMARY KEY DEFAULT TRUE CHECK (single), \
             id uuid NOT NULL, started_at timestamptz NOT NULL, file text NOT NULL)",
            "INSERT INTO epoch (id, started_at, file) \
             VALUES (gen_random_uuid(), pg_postmaster_start_time(), pg_relation_filepath('epoch'))",
        ],
    };
    for sql in statements {
        manager.get_connection().execute_unprepared(sql).await?;
    }
    Ok(())
}

/// The running replicas. A revocation is complete when each of them has seen it, or its lease has ended.
fn replicas() -> TableCreateStatement {
    Table::create()
        .table(Replicas::Table)
        .col(uuid(Replicas::Id).primary_key())
        .col(uuid(Replicas::Epoch))
        .col(big_integer(Replicas::LeaseMillis))
        .to_owned()
}

/// How far each replica is: one row each. The number of its last renewal or report is in the key so that the newest version
/// of a row is found at once, however many versions of it are kept for a long transaction somewhere in the cluster.
fn replica_states() -> TableCreateStatement {
    Table::create()
        .table(ReplicaStates::Table)
        .col(uuid(ReplicaStates::Id))
        .col(big_integer(ReplicaStates::Renewals))
        .col(text(ReplicaStates::Seen))
        .col(timestamp_with_time_zone(ReplicaStates::RenewedAt))
        .primary_key(Index::create().col(ReplicaStates::Id).col(ReplicaStates::Renewals))
        .foreign_key(
            ForeignKey::create()
                .from(ReplicaStates::Table, ReplicaStates::Id)
                .to(Replicas::Table, Replicas::Id)
                .on_delete(ForeignKeyAction::Cascade),
        )
        .to_owned()
}

/// The epochs of the database in which no account event is missing that NATS holds. Empty on SQLite,
/// where the epoch never changes.
fn account_event_replays() -> TableCreateStatement {
    Table::create()
        .table(AccountEventReplays::Table)
        .col(uuid(AccountEventReplays::Epoch).primary_key())
        .col(timestamp_with_time_zone(AccountEventReplays::DoneAt))
        .to_owned()
}
