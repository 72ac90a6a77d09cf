//! Making a token: the form, its errors, and the token, once.

use axum::{
    Form,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use chrono::{Days, NaiveDate};
use maud::{Markup, html};
use secrecy::ExposeSecret as _;
use uuid::Uuid;

use super::{
    PATH, Page, PageState,
    forgery::is_own,
    html::View,
    person::Person,
    session::{not_recent, sign_in},
    texts::{ENGLISH as TEXTS, fill},
};
use crate::{
    registry::{Issued, NewToken, OnRepeat, RegistryError},
    token::{Expiry, NameError, RequestId, Scopes, TokenName},
};

/// The choices of an expiry in days, and the one that is chosen at first.
const DAYS: [&str; 3] = ["30", "60", "90"];
const YEAR: &str = "365";
const ON_DATE: &str = "date";
const NEVER: &str = "never";
const FIRST: &str = "90";

/// What was entered. A form may repeat a name, so it is read as pairs.
#[derive(Debug, Default)]
struct Entered {
    key: String,
    request_id: String,
    name: String,
    expiry: String,
    date: String,
    scopes: Vec<String>,
}

impl Entered {
    fn read(pairs: Vec<(String, String)>) -> Self {
        let mut entered = Self::default();
        for (name, value) in pairs {
            match name.as_str() {
                "key" => entered.key = value,
                "request_id" => entered.request_id = value,
                "name" => entered.name = value,
                "expiry" => entered.expiry = value,
                "date" => entered.date = value,
                "scopes" => entered.scopes.extend(value.split_whitespace().map(str::to_owned)),
                _ => {}
            }
        }
        entered
    }
}

/// What is wrong with what was entered, in the words for people.
#[derive(Debug, Default)]
struct Problems {
    general: Option<String>,
    name: Option<String>,
    expiry: Option<String>,
    scopes: Option<String>,
}

impl Problems {
    /// Each problem, with the field that has it.
    fn all(&self) -> impl Iterator<Item = (Option<&'static str>, &str)> {
        let fields = [
            (None, &self.general),
            (Some("name"), &self.name),
            (Some("expiry"), &self.expiry),
            (Some("scopes"), &self.scopes),
        ];
        fields.into_iter().filter_map(|(field, problem)| Some((field, problem.as_deref()?)))
    }
}

/// Shows the empty form.
pub(super) async fn form(State(Page(state)): State<Page>, headers: HeaderMap) -> Result<Response, Response> {
    let person = Person::of(&state, &headers, Some("/new")).await?;
    if let Some(oidc) = not_recent(&state, &person, false) {
        return Err(sign_in(&state, oidc, &headers, "/new", true).await);
    }
    let entered =
        Entered { expiry: FIRST.into(), request_id: Uuid::now_v7().to_string(), ..Default::default() };
    let view = View::new(&state, &headers, Some(&person));
    Ok(show_form(view, StatusCode::OK, &entered, &Problems::default()))
}

/// Makes the token and shows it. A form that is sent again makes no second token and shows nothing: its token may be in use.
pub(super) async fn create(
    State(Page(state)): State<Page>,
    headers: HeaderMap,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Result<Response, Response> {
    let person = Person::of(&state, &headers, None).await?;
    let view = View::new(&state, &headers, Some(&person));
    let entered = Entered::read(pairs);
    if !is_own(&state, &headers, &entered.key) {
        return Err(view.message(StatusCode::FORBIDDEN, TEXTS.forged));
    }
    if not_recent(&state, &person, true).is_some() {
        return Err(view.message(StatusCode::UNAUTHORIZED, TEXTS.not_recent));
    }
    let new = match check(&state, &person, &entered) {
        Ok(new) => new,
        Err(problems) => return Err(show_form(view, StatusCode::UNPROCESSABLE_ENTITY, &entered, &problems)),
    };
    match state.registry.issue(&person.caller, new).await {
        Ok(issued) => Ok(show_token(view, &issued)),
        Err(RegistryError::RequestDone { .. } | RegistryError::RequestIdReused) => {
            Err(view.message(StatusCode::CONFLICT, TEXTS.already_created))
        }
        Err(RegistryError::UserDeleted) => Err(view.message(StatusCode::FORBIDDEN, TEXTS.account_deleted)),
        Err(error) => {
            let (status, problems) = problems_of(&error);
            Err(show_form(view, status, &entered, &problems))
        }
    }
}

fn check(state: &PageState, person: &Person, entered: &Entered) -> Result<NewToken, Problems> {
    let mut problems = Problems::default();
    let name = TokenName::parse(&entered.name).map_err(|error| problems.name = Some(name_problem(error)));
    let expiry = expiry(state, entered).map_err(|problem| problems.expiry = Some(problem.to_owned()));
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
        (Ok(name), Ok(expiry), Some(scopes), Ok(request_id)) => Ok(NewToken {
            user_id: person.user.clone(),
            name,
            scopes,
            expiry,
            request_id: Some(request_id),
            on_repeat: OnRepeat::Refuse,
        }),
        _ => Err(problems),
    }
}

fn name_problem(error: NameError) -> String {
    match error {
        NameError::TooShort(length) => fill(TEXTS.name_short, TokenName::MIN.saturating_sub(length)),
        NameError::TooLong => TEXTS.name_long.to_owned(),
        NameError::Invisible(_) => TEXTS.name_invisible.to_owned(),
    }
}

fn expiry(state: &PageState, entered: &Entered) -> Result<Option<Expiry>, &'static str> {
    let now = state.registry.clock().now();
    let at = match entered.expiry.as_str() {
        NEVER => return Ok(None),
        ON_DATE => {
            let date: NaiveDate = entered.date.parse().map_err(|_| TEXTS.date_wrong)?;
            date.and_hms_opt(23, 59, 59).map(|end| end.and_utc())
        }
        days if DAYS.contains(&days) || days == YEAR => {
            days.parse().ok().and_then(|days| now.checked_add_days(Days::new(days)))
        }
        _ => None,
    };
    let at = at.ok_or(TEXTS.date_wrong)?;
    Expiry::parse(at.timestamp(), 0, now).map(Some).map_err(|_| TEXTS.date_wrong)
}

/// Says for people why the registry made no token. After a failure nobody knows whether it did: the form keeps its request id,
/// so sending it again is safe.
fn problems_of(error: &RegistryError) -> (StatusCode, Problems) {
    let general = |status, text: String| (status, Problems { general: Some(text), ..Default::default() });
    match error {
        RegistryError::NameTaken => {
            let problems = Problems { name: Some(TEXTS.name_taken.to_owned()), ..Default::default() };
            (StatusCode::CONFLICT, problems)
        }
        RegistryError::Expiry(_) => {
            let problems = Problems { expiry: Some(TEXTS.date_wrong.to_owned()), ..Default::default() };
            (StatusCode::UNPROCESSABLE_ENTITY, problems)
        }
        RegistryError::TooManyTokens { limit } | RegistryError::TooManyExpired { limit } => {
            general(StatusCode::CONFLICT, fill(TEXTS.too_many, limit))
        }
        RegistryError::TooFast { wait } => {
            general(StatusCode::TOO_MANY_REQUESTS, fill(TEXTS.too_fast, wait.as_secs().max(1)))
        }
        _ => general(StatusCode::SERVICE_UNAVAILABLE, TEXTS.unavailable.to_owned()),
    }
}

fn show_form(view: View<'_>, status: StatusCode, entered: &Entered, problems: &Problems) -> Response {
    let content = html! {
        h1 { (TEXTS.form_title) }
        @if problems.all().next().is_some() { (summary(problems)) }
        form.card method="post" action={ (PATH) "/new" } id="new" novalidate {
            (view.key_field())
            input type="hidden" name="request_id" value=(entered.request_id);
            (name_field(entered, problems))
            (expiry_field(&view, entered, problems))
            (scopes_field(view.state, entered, problems))
            div.buttons {
                button.primary type="submit" { (TEXTS.generate) }
                a.button href=(PATH) { (TEXTS.cancel) }
            }
        }
    };
    view.page(status, TEXTS.form_title, content)
}

fn summary(problems: &Problems) -> Markup {
    html! {
        div.notice id="problems" role="alert" tabindex="-1" {
            strong { (TEXTS.problems) }
            ul {
                @for (field, problem) in problems.all() {
                    li { @match field { Some(field) => a href={ "#" (field) } { (problem) }, None => (problem) } }
                }
            }
        }
    }
}

fn name_field(entered: &Entered, problems: &Problems) -> Markup {
    let problem = problems.name.as_deref();
    html! {
        div.field {
            label for="name" { (TEXTS.name) }
            p.help id="name-help" { (TEXTS.name_help) }
            input id="name" name="name" value=(entered.name) required autocomplete="off" dir="auto" autofocus[problem.is_none()]
                aria-describedby="name-help name-error" aria-invalid=[problem.map(|_| "true")]
                data-short=(TEXTS.name_short) data-long=(TEXTS.name_long);
            p.error id="name-error" aria-live="polite" { (problem.unwrap_or_default()) }
        }
    }
}

fn expiry_field(view: &View<'_>, entered: &Entered, problems: &Problems) -> Markup {
    let problem = problems.expiry.as_deref();
    let option = |value: &str, text: &str| {
        html! { option value=(value) selected[entered.expiry == value] { (text) } }
    };
    let tomorrow = view.state.registry.clock().now().date_naive();
    html! {
        div.field {
            label for="expiry" { (TEXTS.expiry) }
            select id="expiry" name="expiry" aria-describedby="expiry-error expiry-help" aria-invalid=[problem.map(|_| "true")] {
                @for days in DAYS { (option(days, &fill(TEXTS.days, days))) }
                (option(YEAR, TEXTS.year))
                (option(ON_DATE, TEXTS.on_date))
                (option(NEVER, TEXTS.no_expiry))
            }
            p.help id="expiry-help" { (TEXTS.no_expiry_help) }
            p.error id="expiry-error" { (problem.unwrap_or_default()) }
        }
        div.field id="date-field" {
            label for="date" { (TEXTS.date) }
            p.help id="date-help" { (TEXTS.date_help) }
            input id="date" name="date" type="date" value=(entered.date) min=(tomorrow) aria-describedby="date-help";
        }
    }
}

fn scopes_field(state: &PageState, entered: &Entered, problems: &Problems) -> Markup {
    let problem = problems.scopes.as_deref();
    let invalid = problem.map(|_| "true");
    html! {
        @if state.scopes.is_empty() {
            div.field {
                label for="scopes" { (TEXTS.scopes) }
                p.help id="scopes-help" { (TEXTS.scopes_help) }
                input id="scopes" name="scopes" value=(entered.scopes.join(" ")) autocomplete="off" autocapitalize="none"
                    spellcheck="false" aria-describedby="scopes-help scopes-error" aria-invalid=[invalid];
                p.error id="scopes-error" { (problem.unwrap_or_default()) }
            }
        } @else {
            fieldset.field id="scopes" aria-describedby="scopes-error" {
                legend { (TEXTS.scopes) }
                @for (scope, description) in &state.scopes {
                    @let name = scope.to_string();
                    label.choice {
                        input type="checkbox" name="scopes" value=(name) checked[entered.scopes.contains(&name)];
                        span { code { (name) } " " span.help { (description) } }
                    }
                }
                p.error id="scopes-error" { (problem.unwrap_or_default()) }
            }
        }
    }
}

fn show_token(view: View<'_>, issued: &Issued) -> Response {
    let secret = issued.secret.expose_secret();
    let curl = format!("curl -H \"Authorization: Bearer $API_TOKEN\" {}", view.state.look.api);
    let content = html! {
        h1 { (TEXTS.result_title) }
        div.card {
            p.notice role="alert" { (TEXTS.result_warning) }
            (copyable("token", TEXTS.token, secret))
            h2 { (TEXTS.use_it) }
            (copyable("variable", TEXTS.as_variable, &format!("export API_TOKEN={secret}")))
            (copyable("curl", TEXTS.with_curl, &curl))
            div.buttons { a.button.primary href=(PATH) { (TEXTS.done) } }
        }
    };
    view.page(StatusCode::OK, TEXTS.result_title, content)
}

/// A text that can be copied; the script shows the button.
fn copyable(id: &str, label: &str, text: &str) -> Markup {
    html! {
        div.field {
            span.label id={ (id) "-label" } { (label) }
            div.copyable {
                code id=(id) tabindex="0" role="textbox" aria-readonly="true" aria-labelledby={ (id) "-label" } { (text) }
                button type="button" hidden data-copy=(id) data-copied=(TEXTS.copied) data-failed=(TEXTS.copy_failed)
                    aria-describedby={ (id) "-label" } { (TEXTS.copy) }
            }
            p.status role="status" id={ (id) "-status" } {}
        }
    }
}
