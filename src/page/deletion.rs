//! Deleting a token: a question first, as a page or, with the script, as a dialog in the list.

use axum::{
    Form,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use maud::{Markup, html};
use uuid::Uuid;

use super::{
    PATH, Page, PageState,
    forgery::{Bare, is_own},
    html::{View, Width},
    person::{Person, Unknown},
    response::see_other,
    texts::ENGLISH as TEXTS,
    times::last_used,
};
use crate::{
    registry::RegistryError,
    token::{PageSize, Token, parse_hyphenated},
};

/// Asks whether a token is to be deleted.
pub(super) async fn ask(
    State(Page(state)): State<Page>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let person = Person::or_sign_in(&state, &headers, "").await?;
    let view = View::new(&state, &headers, Some(&person));
    Ok(match find(&state, &person, &id).await {
        Err(_) => view.message(StatusCode::SERVICE_UNAVAILABLE, TEXTS.unavailable),
        Ok(None) => view.message(StatusCode::NOT_FOUND, TEXTS.gone),
        Ok(Some(token)) => {
            let no = html! { a.button href=(PATH) { (TEXTS.no) } };
            let content = html! {
                div.card.form.confirm { h1 { (TEXTS.confirm_title) } (question(&view, Some(&token), no)) }
            };
            view.page(StatusCode::OK, Width::Small, TEXTS.confirm_title, content)
        }
    })
}

/// The dialog that the script fills with what the row of a token says, and opens.
pub(super) fn dialog(view: &View<'_>) -> Markup {
    // The safe answer has the focus.
    let no = html! { button.button type="button" data-close autofocus { (TEXTS.no) } };
    html! {
        dialog.card id="confirm" aria-labelledby="confirm-title" aria-describedby="confirm-text" closedby="any" {
            h2 id="confirm-title" { (TEXTS.confirm_title) }
            (question(view, None, no))
        }
    }
}

fn question(view: &View<'_>, token: Option<&Token>, no: Markup) -> Markup {
    let hint = token.map(|token| token.hint(view.state.registry.prefix()));
    let action = token.map(|token| format!("{PATH}/{}/delete", token.id.hyphenated()));
    html! {
        p id="confirm-text" { (TEXTS.confirm) }
        dl.facts {
            div { dt { (TEXTS.name) } dd { strong data-fill="name" {
                @if let Some(token) = token { bdi { (token.name.as_str()) } }
            } } }
            div { dt { (TEXTS.token) } dd data-fill="hint" {
                @if let Some(hint) = hint { code translate="no" { (hint) } }
            } }
            div { dt { (TEXTS.last_used) } dd data-fill="last-used" {
                @if let Some(token) = token { (last_used(token.last_used_at)) }
            } }
        }
        form.buttons method="post" action=[action] {
            (view.key_fields())
            button.button.danger { (TEXTS.yes) }
            (no)
        }
    }
}

/// Deletes a token, and goes back to the list. One that is gone already counts as deleted.
pub(super) async fn delete(
    State(Page(state)): State<Page>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Form(sent): Form<Bare>,
) -> Result<Response, Response> {
    let answer = |unknown: Unknown| unknown.answer(&state, &headers);
    let person = Person::of(&state, &headers).await.map_err(answer)?;
    let view = View::new(&state, &headers, Some(&person));
    if !is_own(&state, &headers, &sent.key) {
        return Err(view.message(StatusCode::FORBIDDEN, TEXTS.forged));
    }
    if !person.is_shown(&sent.shown_to) {
        return Err(view.message(StatusCode::CONFLICT, TEXTS.other_user));
    }
    let Some(id) = parse_hyphenated(&id) else { return Err(view.message(StatusCode::NOT_FOUND, TEXTS.gone)) };
    match state.registry.revoke(&person.caller, &person.user, id, true).await {
        Ok(()) => Ok(see_other(&format!("{PATH}?deleted=1"))),
        Err(_) => Err(view.message(StatusCode::SERVICE_UNAVAILABLE, TEXTS.unavailable)),
    }
}

/// Returns the user's token with this id, if it is in the list.
async fn find(state: &PageState, person: &Person, id: &str) -> Result<Option<Token>, RegistryError> {
    let Some(id) = parse_hyphenated(id) else { return Ok(None) };
    // The list begins below an id.
    let before = id.as_u128().checked_add(1).map(Uuid::from_u128);
    let page = state.registry.list(&person.caller, &person.user, before, PageSize::ONE).await?;
    Ok(page.tokens.into_iter().find(|token| token.id == id))
}
