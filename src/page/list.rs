//! The list of a user's tokens.

use axum::{
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    NEW, PATH, Page,
    deletion::dialog,
    html::{View, Width},
    icons::{BACK, CHECK, FORWARD, KEY, PLUS, icon},
    person::Person,
    texts::{ENGLISH as TEXTS, fill},
    times::{expiry, last_used, moment},
};
use crate::token::{PageSize, Token, parse_hyphenated};

#[derive(Deserialize)]
pub(super) struct Shown {
    /// The id below which the list begins.
    before: Option<String>,
    /// Whether a token was just deleted.
    deleted: Option<String>,
}

pub(super) async fn show(
    State(Page(state)): State<Page>,
    Query(shown): Query<Shown>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let person = Person::or_sign_in(&state, &headers, "").await?;
    let view = View::new(&state, &headers, Some(&person));
    let before = shown.before.as_deref().and_then(parse_hyphenated);
    let Ok(page) = state.registry.list(&person.caller, &person.user, before, PageSize::default()).await
    else {
        return Err(view.message(StatusCode::SERVICE_UNAVAILABLE, TEXTS.unavailable));
    };
    let is_empty = page.tokens.is_empty();
    let now = state.registry.clock().now();
    let content = html! {
        div.head {
            div { h1 { (TEXTS.title) } p.lead { (TEXTS.intro) } }
            @if !is_empty || before.is_some() { (add(TEXTS.add)) }
        }
        @if shown.deleted.is_some() {
            p.notice.success role="status" tabindex="-1" autofocus data-focus { (icon(CHECK)) (TEXTS.deleted) }
        }
        @if !is_empty {
            (table(&view, &page.tokens, now))
            (dialog(&view))
        } @else if before.is_some() {
            p.card.empty { (TEXTS.no_older) }
        } @else {
            (no_tokens())
        }
        (pages(before, page.next))
    };
    Ok(view.page(StatusCode::OK, Width::Wide, TEXTS.title, content))
}

fn add(label: &str) -> Markup {
    html! { a.button.primary href=(NEW) { (icon(PLUS)) (label) } }
}

fn no_tokens() -> Markup {
    html! {
        div.card.empty {
            span.medallion { (icon(KEY)) }
            h2 { (TEXTS.empty_title) }
            p.soft { (TEXTS.empty_help) }
            (add(TEXTS.create))
        }
    }
}

/// Safari drops the semantics of a table whose `display` is changed, as on small screens. The roles restore them.
fn table(view: &View<'_>, tokens: &[Token], now: DateTime<Utc>) -> Markup {
    let columns = [TEXTS.name, TEXTS.token, TEXTS.scopes, TEXTS.created, TEXTS.expires, TEXTS.last_used];
    html! {
        table.card.tokens role="table" {
            caption.hidden { (TEXTS.title) }
            thead role="rowgroup" {
                tr role="row" {
                    @for column in columns { th scope="col" role="columnheader" { (column) } }
                    th scope="col" role="columnheader" { span.hidden { (TEXTS.actions) } }
                }
            }
            tbody role="rowgroup" { @for token in tokens { (row(view, token, now)) } }
        }
    }
}

fn row(view: &View<'_>, token: &Token, now: DateTime<Utc>) -> Markup {
    let name = token.name.as_str();
    html! {
        tr.expired[token.is_expired(now)] role="row" {
            th.name scope="row" role="rowheader" data-cell="name" { bdi { (name) } }
            td role="cell" data-label=(TEXTS.token) data-cell="hint" {
                code translate="no" { (token.hint(view.state.registry.prefix())) }
            }
            td.scopes role="cell" data-label=(TEXTS.scopes) { (scopes(token)) }
            td role="cell" data-label=(TEXTS.created) { (moment(token.created_at)) }
            td role="cell" data-label=(TEXTS.expires) { (expiry(token.expires_at, now)) }
            td role="cell" data-label=(TEXTS.last_used) data-cell="last-used" { (last_used(token.last_used_at)) }
            td.action role="cell" {
                a.button.quiet href={ (PATH) "/" (token.id.hyphenated()) "/delete" } data-delete
                    aria-label=(fill(TEXTS.delete_named, name)) { (TEXTS.delete) }
            }
        }
    }
}

/// How many scopes are shown at once; nothing is hidden to save one line.
const SHOWN: usize = 3;

fn scopes(token: &Token) -> Markup {
    let all: Vec<_> = token.scopes.iter().collect();
    let (shown, more) = all.split_at(if all.len() <= SHOWN + 1 { all.len() } else { SHOWN });
    let chips = |scopes: &[_]| {
        html! { @for scope in scopes { code.scope translate="no" { (scope) } " " } }
    };
    html! {
        @if shown.is_empty() { span.soft { (TEXTS.no_scopes) } }
        (chips(shown))
        @if !more.is_empty() {
            details { summary { (fill(TEXTS.more_scopes, more.len())) } (chips(more)) }
        }
    }
}

fn pages(before: Option<Uuid>, next: Option<Uuid>) -> Markup {
    html! {
        @if before.is_some() || next.is_some() {
            nav.pages aria-label=(TEXTS.pages) {
                @if before.is_some() { a.button href=(PATH) { (icon(BACK)) (TEXTS.newest) } }
                @if let Some(next) = next {
                    a.button.older href={ (PATH) "?before=" (next.hyphenated()) } { (TEXTS.older) (icon(FORWARD)) }
                }
            }
        }
    }
}
