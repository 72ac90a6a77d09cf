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
    html::View,
    person::Person,
    response::see_other,
    texts::{ENGLISH as TEXTS, fill},
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
    let person = Person::of(&state, &headers, Some("")).await?;
    let view = View::new(&state, &headers, Some(&person));
    Ok(match find(&state, &person, &id).await {
        Err(_) => view.message(StatusCode::SERVICE_UNAVAILABLE, TEXTS.unavailable),
        Ok(None) => view.message(StatusCode::NOT_FOUND, TEXTS.gone),
        Ok(Some(token)) => {
            let title = fill(TEXTS.confirm_title, token.name.as_str());
            let content = html! {
                h1 dir="auto" { (title) }
                form.card method="post" action={ (PATH) "/" (token.id.hyphenated()) "/delete" } {
                    (view.key_field())
                    p { code { (token.hint(state.registry.prefix())) } }
                    p { (TEXTS.confirm) }
                    div.buttons {
                        button.primary.danger type="submit" { (TEXTS.yes) }
                        a.button href=(PATH) { (TEXTS.no) }
                    }
                }
            };
            view.page(StatusCode::OK, &title, content)
        }
    })
}

/// The dialog that the script fills with a token's name and opens.
pub(super) fn confirmation(view: &View<'_>) -> Markup {
    html! {
        dialog id="confirm" aria-labelledby="confirm-title" aria-describedby="confirm-text" data-title=(TEXTS.confirm_title) {
            form method="post" {
                (view.key_field())
                h2 id="confirm-title" dir="auto" {}
                p id="confirm-text" { (TEXTS.confirm) }
                div.buttons {
                    button.primary.danger type="submit" { (TEXTS.yes) }
                    button type="button" data-close { (TEXTS.no) }
                }
            }
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
    let person = Person::of(&state, &headers, None).await?;
    let view = View::new(&state, &headers, Some(&person));
    if !is_own(&state, &headers, &sent.key) {
        return Err(view.message(StatusCode::FORBIDDEN, TEXTS.forged));
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
