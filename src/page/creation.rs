//! Making a token: a form, and the token, once.

use axum::{
    Form,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use chrono::NaiveDate;
use maud::{Markup, html};
use secrecy::ExposeSecret as _;

use super::{
    PATH, Page, PageState,
    forgery::{has_key, is_same_origin},
    form::{self, Entered, NEVER, ON_DATE, Problems, after},
    html::{Link, View, Width},
    icons::{ALERT, CHECK, COPY, icon},
    person::{Person, Unknown},
    session::{not_recent, sign_in},
    texts::{ENGLISH as TEXTS, fill},
    times,
};
use crate::{
    registry::{Issued, NewToken, OnRepeat, RegistryError},
    token::{Expiry, NameError, RequestId, Scopes, TokenName},
};

/// Shows the empty form.
pub(super) async fn form(State(Page(state)): State<Page>, headers: HeaderMap) -> Result<Response, Response> {
    let person = Person::or_sign_in(&state, &headers, "/new").await?;
    if let Some(oidc) = not_recent(&state, &person, false) {
        return Err(sign_in(&state, oidc, &headers, "/new", true).await);
    }
    let view = View::new(&state, &headers, Some(&person));
    Ok(form::show(view, StatusCode::OK, &Entered::nothing(), &Problems::default()))
}

/// Creates the token and shows it. If the user can correct the problem or retry, the form is shown again with what was entered.
///
/// A form that is sent again makes no second token and shows nothing: its token may be in use.
pub(super) async fn create(
    State(Page(state)): State<Page>,
    headers: HeaderMap,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Result<Response, Response> {
    let entered = Entered::read(pairs);
    let person = Person::of(&state, &headers).await;
    let view = View::new(&state, &headers, person.as_ref().ok());
    if !is_same_origin(&headers) {
        return Err(view.message(StatusCode::FORBIDDEN, TEXTS.forged));
    }
    let again = |view, (status, problems)| form::show(view, status, &entered, &problems);
    let person = match &person {
        Ok(person) => person,
        Err(unknown @ (Unknown::Off | Unknown::NotLoopback)) => return Err(unknown.answer(&state, &headers)),
        Err(unknown) => return Err(again(view, not_known(unknown))),
    };
    if !has_key(&state, &headers, &entered.key) {
        return Err(again(view, (StatusCode::FORBIDDEN, Problems::general(TEXTS.out_of_date))));
    }
    if !person.is_shown(&entered.shown_to) {
        return Err(again(view, (StatusCode::CONFLICT, Problems::general(TEXTS.other_user))));
    }
    if not_recent(&state, person, true).is_some() {
        return Err(again(view, (StatusCode::UNAUTHORIZED, with_sign_in(TEXTS.not_recent))));
    }
    let new = match check(&state, person, &entered) {
        Ok(new) => new,
        Err(problems) => return Err(again(view, (StatusCode::UNPROCESSABLE_ENTITY, *problems))),
    };
    match state.registry.issue(&person.caller, new).await {
        Ok(issued) => Ok(show_token(view, &issued)),
        Err(RegistryError::RequestDone { .. } | RegistryError::RequestIdReused) => {
            Err(view.message(StatusCode::CONFLICT, TEXTS.already_created))
        }
        Err(error) => Err(again(view, problems_of(&error))),
    }
}

/// Returns the status and the problem to show when the user is not known.
fn not_known(unknown: &Unknown) -> (StatusCode, Problems) {
    match unknown {
        Unknown::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, Problems::general(TEXTS.unavailable)),
        _ => (StatusCode::UNAUTHORIZED, with_sign_in(TEXTS.session_ended)),
    }
}

fn with_sign_in(text: &str) -> Problems {
    Problems { link: Some(Link::SIGN_IN_IN_NEW_TAB), ..Problems::general(text) }
}

fn check(state: &PageState, person: &Person, entered: &Entered) -> Result<NewToken, Box<Problems>> {
    let mut problems = Problems::default();
    let name = TokenName::parse(&entered.name).map_err(|error| problems.name = Some(name_problem(error)));
    let expiry = expiry(state, entered, &mut problems);
    let listed = |scope: &String| {
        state.scopes.is_empty() || state.scopes.iter().any(|(listed, _)| listed.to_string() == *scope)
    };
    let scopes = Scopes::parse(&entered.scopes).ok().filter(|_| entered.scopes.iter().all(listed));
    if scopes.is_none() {
        problems.scopes = Some(TEXTS.scopes_wrong.to_owned());
    }
    let request_id = entered.request_id.parse::<RequestId>();
    if request_id.is_err() {
        problems.general = Some(TEXTS.forged.to_owned());
    }
    match (name, expiry, scopes, request_id) {
        (Ok(name), Some(expiry), Some(scopes), Ok(request_id)) => Ok(NewToken {
            user_id: person.user.clone(),
            name,
            scopes,
            expiry,
            request_id: Some(request_id),
            on_repeat: OnRepeat::Refuse,
        }),
        _ => Err(Box::new(problems)),
    }
}

fn name_problem(error: NameError) -> String {
    let text = match error {
        NameError::TooShort(_) => TEXTS.name_short,
        NameError::TooLong => TEXTS.name_long,
        NameError::Invisible(_) => TEXTS.name_invisible,
    };
    text.to_owned()
}

/// Returns the expiry that was chosen, or none; or notes what is wrong with it.
fn expiry(state: &PageState, entered: &Entered, problems: &mut Problems) -> Option<Option<Expiry>> {
    let now = state.registry.clock().now();
    let chosen = entered.expiry.as_str();
    let at = match chosen {
        NEVER => return Some(None),
        ON_DATE => entered
            .date
            .parse()
            .ok()
            .and_then(|date: NaiveDate| date.and_hms_opt(23, 59, 59))
            .map(|end| end.and_utc()),
        days => after(days, now),
    };
    let expiry = at.and_then(|at| Expiry::parse(at.timestamp(), 0, now).ok());
    if expiry.is_none() && chosen == ON_DATE {
        problems.date = Some(TEXTS.date_wrong.to_owned());
    } else if expiry.is_none() {
        problems.expiry = Some(TEXTS.expiry_wrong.to_owned());
    }
    expiry.map(Some)
}

/// Returns the status and the problem to show for an error of the registry. After a failure the token may exist; the form keeps
/// its request id, so sending it again is safe.
fn problems_of(error: &RegistryError) -> (StatusCode, Problems) {
    let general = |status, text: String| (status, Problems::general(text));
    match error {
        RegistryError::NameTaken => {
            let problems = Problems { name: Some(TEXTS.name_taken.to_owned()), ..Default::default() };
            (StatusCode::CONFLICT, problems)
        }
        RegistryError::Expiry(_) => {
            let problems = Problems { expiry: Some(TEXTS.expiry_wrong.to_owned()), ..Default::default() };
            (StatusCode::UNPROCESSABLE_ENTITY, problems)
        }
        RegistryError::TooManyTokens { limit } => general(StatusCode::CONFLICT, fill(TEXTS.too_many, limit)),
        RegistryError::TooManyExpired { limit } => {
            general(StatusCode::CONFLICT, fill(TEXTS.too_many_expired, limit))
        }
        RegistryError::TooFast { wait } => {
            general(StatusCode::TOO_MANY_REQUESTS, fill(TEXTS.too_fast, wait.as_secs().max(1)))
        }
        RegistryError::UserDeleted => general(StatusCode::FORBIDDEN, TEXTS.account_deleted.to_owned()),
        _ => general(StatusCode::SERVICE_UNAVAILABLE, TEXTS.unavailable.to_owned()),
    }
}

fn show_token(view: View<'_>, issued: &Issued) -> Response {
    let secret = issued.secret.expose_secret();
    let curl = format!("curl --header \"Authorization: Bearer $API_TOKEN\" {}", view.state.look.api);
    let now = view.state.registry.clock().now();
    let content = html! {
        h1 { (TEXTS.result_title) }
        div.card.form {
            p.notice.warning role="alert" {
                (icon(ALERT))
                span { strong { (TEXTS.result_warning_title) } " " (TEXTS.result_warning) }
            }
            dl.facts {
                div { dt { (TEXTS.name) } dd { strong { bdi { (issued.token.name.as_str()) } } } }
                div { dt { (TEXTS.expires) } dd { (times::expiry(issued.token.expires_at, now)) } }
            }
            (copyable("token", TEXTS.token, None, secret))
            (copyable("variable", TEXTS.variable, None, &format!("export API_TOKEN={secret}")))
            (copyable("curl", TEXTS.curl, Some(TEXTS.curl_help), &curl))
            p.copy-status.hidden id="copy-status" role="status" data-failed=(TEXTS.copy_failed) {}
            div.buttons { a.button.primary href=(PATH) data-replace { (TEXTS.done) } }
        }
    };
    view.page(StatusCode::OK, Width::Narrow, TEXTS.result_title, content)
}

/// A text that can be copied; the script shows the button. It is no input: browsers store what inputs hold.
fn copyable(id: &str, label: &str, help: Option<&str>, text: &str) -> Markup {
    html! {
        section.copyable {
            h2 { (label) }
            @if let Some(help) = help { p.help { (help) } }
            div.copy-row {
                code id=(id) translate="no" data-secret { (text) }
                button.button type="button" hidden data-copy=(id) data-copied=(fill(TEXTS.copied_named, label)) {
                    span.idle { (icon(COPY)) (TEXTS.copy) }
                    span.copied aria-hidden="true" { (icon(CHECK)) (TEXTS.copied) }
                    span.hidden { ": " (label) }
                }
            }
        }
    }
}
