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
    PATH, Page,
    deletion::confirmation,
    html::{View, time},
    person::Person,
    texts::{ENGLISH as TEXTS, fill},
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
    let person = Person::of(&state, &headers, Some("")).await?;
    let view = View::new(&state, &headers, Some(&person));
    let before = shown.before.as_deref().and_then(parse_hyphenated);
    let Ok(page) = state.registry.list(&person.caller, &person.user, before, PageSize::default()).await
    else {
        return Err(view.message(StatusCode::SERVICE_UNAVAILABLE, TEXTS.unavailable));
    };
    let now = state.registry.clock().now();
    let content = html! {
        div.title {
            div { h1 { (TEXTS.title) } p.help { (TEXTS.intro) } }
            @if !page.tokens.is_empty() || before.is_some() {
                a.button.primary href={ (PATH) "/new" } { (TEXTS.add) }
            }
        }
        p.status role="status" { @if shown.deleted.is_some() { (TEXTS.deleted) } }
        @if page.tokens.is_empty() && before.is_none() {
            div.empty {
                p { (TEXTS.empty) }
                a.button.primary href={ (PATH) "/new" } { (TEXTS.create) }
            }
        } @else {
            (table(&view, &page.tokens, now))
            (pages(before, page.next))
        }
        (confirmation(&view))
    };
    Ok(view.page(StatusCode::OK, TEXTS.title, content))
}

fn table(view: &View<'_>, tokens: &[Token], now: DateTime<Utc>) -> Markup {
    html! {
        table {
            caption.hidden { (TEXTS.title) }
            thead { tr {
                th scope="col" { (TEXTS.name) }
                th scope="col" { (TEXTS.token) }
                th scope="col" { (TEXTS.scopes) }
                th scope="col" { (TEXTS.created) }
                th scope="col" { (TEXTS.expires) }
                th scope="col" { (TEXTS.last_used) }
                th scope="col" { span.hidden { (TEXTS.actions) } }
            } }
            tbody { @for token in tokens { (row(view, token, now)) } }
        }
    }
}

fn row(view: &View<'_>, token: &Token, now: DateTime<Utc>) -> Markup {
    let name = token.name.as_str();
    html! {
        tr.expired[token.is_expired(now)] {
            th scope="row" dir="auto" { (name) }
            td data-label=(TEXTS.token) { code { (token.hint(view.state.registry.prefix())) } }
            td data-label=(TEXTS.scopes) { (scopes(token)) }
            td data-label=(TEXTS.created) { (time(token.created_at)) }
            td data-label=(TEXTS.expires) { (expires(token, now)) }
            td data-label=(TEXTS.last_used) {
                @match token.last_used_at { Some(at) => (time(at)), None => (TEXTS.not_used) }
            }
            td.action {
                a.button.danger href={ (PATH) "/" (token.id.hyphenated()) "/delete" } data-delete=(name)
                    aria-label=(fill(TEXTS.delete_label, name)) { (TEXTS.delete) }
            }
        }
    }
}

fn scopes(token: &Token) -> Markup {
    html! {
        @if token.scopes.iter().next().is_none() { span.soft { (TEXTS.no_scopes) } }
        @for scope in token.scopes.iter() { span.scope { (scope) } " " }
    }
}

fn expires(token: &Token, now: DateTime<Utc>) -> Markup {
    let Some(at) = token.expires_at else { return html! { span.soft { (TEXTS.never) } } };
    if at <= now {
        return html! { span.badge { (TEXTS.expired) } " " (time(at)) };
    }
    // Rounded up, so that a token for 30 days does not begin with 29.
    let soon = match (at - now).num_seconds().unsigned_abs().div_ceil(86_400) {
        0 | 1 => TEXTS.today.to_owned(),
        days => fill(TEXTS.in_days, days),
    };
    html! { (time(at)) " " span.soft.soon { (soon) } }
}

fn pages(before: Option<Uuid>, next: Option<Uuid>) -> Markup {
    html! {
        @if before.is_some() || next.is_some() {
            nav.pages aria-label=(TEXTS.title) {
                @if before.is_some() { a href=(PATH) { (TEXTS.newest) } }
                @if let Some(next) = next { a href={ (PATH) "?before=" (next.hyphenated()) } { (TEXTS.older) } }
            }
        }
    }
}
