//! The form for a token: what is entered, and what is wrong with it.

use axum::{http::StatusCode, response::Response};
use chrono::{DateTime, Days, Utc};
use maud::{Markup, html};
use uuid::Uuid;

use super::{
    NEW, PATH, PageState,
    html::{Link, View, Width, error, hidden},
    icons::{ALERT, icon},
    texts::{ENGLISH as TEXTS, fill},
    times::day,
};
use crate::token::TokenName;

/// The choices of an expiry in days, and the one that is chosen at first.
const DAYS: [&str; 4] = ["30", "60", "90", YEAR];
const YEAR: &str = "365";
const FIRST: &str = "90";
pub(super) const ON_DATE: &str = "date";
pub(super) const NEVER: &str = "never";

/// What was entered.
#[derive(Debug, Default)]
pub(super) struct Entered {
    pub(super) key: String,
    pub(super) shown_to: String,
    pub(super) request_id: String,
    pub(super) name: String,
    pub(super) expiry: String,
    pub(super) date: String,
    pub(super) scopes: Vec<String>,
}

impl Entered {
    /// The form as it is at first.
    pub(super) fn nothing() -> Self {
        Self { request_id: Uuid::now_v7().to_string(), expiry: FIRST.to_owned(), ..Self::default() }
    }

    /// Reads a form, which may repeat a name.
    pub(super) fn read(pairs: Vec<(String, String)>) -> Self {
        let mut entered = Self::default();
        for (name, value) in pairs {
            match name.as_str() {
                "key" => entered.key = value,
                "shown_to" => entered.shown_to = value,
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

/// Returns when a token of these days expires, if they can be chosen.
pub(super) fn after(days: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    if !DAYS.contains(&days) {
        return None;
    }
    now.checked_add_days(Days::new(days.parse().ok()?))
}

/// What is wrong, in the words for people.
#[derive(Debug, Default)]
pub(super) struct Problems {
    pub(super) general: Option<String>,
    /// A way out of what is wrong in general.
    pub(super) link: Option<Link>,
    pub(super) name: Option<String>,
    pub(super) expiry: Option<String>,
    pub(super) date: Option<String>,
    pub(super) scopes: Option<String>,
}

impl Problems {
    /// A problem of no single field.
    pub(super) fn general(text: impl Into<String>) -> Self {
        Self { general: Some(text.into()), ..Self::default() }
    }

    pub(super) fn are_none(&self) -> bool {
        self.general.is_none() && self.of_fields().next().is_none()
    }

    /// Each problem of a field, with the field.
    fn of_fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let fields =
            [("name", &self.name), ("expiry", &self.expiry), ("date", &self.date), ("scopes", &self.scopes)];
        fields.into_iter().filter_map(|(field, problem)| Some((field, problem.as_deref()?)))
    }
}

/// Shows the form.
pub(super) fn show(view: View<'_>, status: StatusCode, entered: &Entered, problems: &Problems) -> Response {
    let content = html! {
        h1 { (TEXTS.form_title) }
        @if !problems.are_none() { (summary(problems)) }
        // The browser's own messages would be in other words than the server's.
        form.card.form method="post" action=(NEW) id="new" novalidate autocomplete="off" {
            (view.key_fields())
            (hidden("request_id", &entered.request_id))
            (name(entered, problems))
            (expiry(view.state, entered, problems))
            (scopes(view.state, entered, problems))
            div.buttons {
                button.button.primary { (TEXTS.generate) }
                a.button href=(PATH) { (TEXTS.cancel) }
            }
        }
    };
    let title = if problems.are_none() {
        TEXTS.form_title.to_owned()
    } else {
        format!("{} {}", TEXTS.error_prefix, TEXTS.form_title)
    };
    view.page(status, Width::Narrow, &title, content)
}

fn summary(problems: &Problems) -> Markup {
    html! {
        div.notice.failure id="problems" role="alert" tabindex="-1" autofocus data-focus aria-labelledby="problems-title" {
            (icon(ALERT))
            div {
                h2 id="problems-title" { (TEXTS.problems) }
                ul {
                    @if let Some(general) = &problems.general {
                        li { (general) @if let Some(link) = problems.link { " " (link.show(None)) } }
                    }
                    @for (field, problem) in problems.of_fields() { li { a href={ "#" (field) } { (problem) } } }
                }
            }
        }
    }
}

/// There is no `minlength` and no `maxlength`: they count UTF-16 code units, and before trimming.
fn name(entered: &Entered, problems: &Problems) -> Markup {
    let problem = problems.name.as_deref();
    html! {
        div.field {
            label for="name" { (TEXTS.name) }
            p.help id="name-help" { (TEXTS.name_help) }
            input id="name" name="name" value=(entered.name) dir="auto" required spellcheck="false"
                autofocus[problems.are_none()] aria-invalid=[problem.map(|_| "true")] aria-describedby="name-help name-error"
                data-min=(TokenName::MIN) data-max=(TokenName::MAX) data-short=(TEXTS.name_short)
                data-long=(TEXTS.name_long) data-invisible=(TEXTS.name_invisible);
            p.error id="name-error" aria-live="polite" { (problem.unwrap_or_default()) }
        }
    }
}

fn expiry(state: &PageState, entered: &Entered, problems: &Problems) -> Markup {
    let tile = |value: &str, label: &str, help: Markup| {
        html! {
            label.tile {
                input type="radio" name="expiry" value=(value) checked[entered.expiry == value];
                span { (label) " " span.help { (help) } }
            }
        }
    };
    let now = state.registry.clock().now();
    html! {
        fieldset.field.expiry id="expiry" tabindex="-1" aria-describedby="expiry-help expiry-error" {
            legend { (TEXTS.expires) }
            p.help id="expiry-help" { (TEXTS.expiry_help) }
            div.tiles {
                @for days in DAYS {
                    @let label = if days == YEAR { TEXTS.year.to_owned() } else { fill(TEXTS.days, days) };
                    (tile(days, &label, html! { @if let Some(at) = after(days, now) { (TEXTS.until) " " (day(at)) } }))
                }
                (tile(ON_DATE, TEXTS.on_date, html! { (TEXTS.on_date_help) }))
                (tile(NEVER, TEXTS.no_expiry, html! { (TEXTS.no_expiry_help) }))
            }
            (error("expiry-error", problems.expiry.as_deref()))
            (date(entered, problems, now))
            p.hint.if-never { (icon(ALERT)) (TEXTS.no_expiry_warning) }
        }
    }
}

fn date(entered: &Entered, problems: &Problems, now: DateTime<Utc>) -> Markup {
    let problem = problems.date.as_deref();
    html! {
        div.field.if-date {
            label for="date" { (TEXTS.date) }
            p.help id="date-help" { (TEXTS.date_help) }
            input type="date" id="date" name="date" value=(entered.date) min=(now.date_naive()) max="9999-12-31"
                aria-invalid=[problem.map(|_| "true")] aria-describedby="date-help date-error";
            (error("date-error", problem))
        }
    }
}

fn scopes(state: &PageState, entered: &Entered, problems: &Problems) -> Markup {
    let problem = problems.scopes.as_deref();
    html! {
        @if state.scopes.is_empty() {
            div.field {
                label for="scopes" { (TEXTS.scopes) }
                p.help id="scopes-help" { (TEXTS.scopes_text_help) }
                input.mono id="scopes" name="scopes" value=(entered.scopes.join(" ")) autocapitalize="none" spellcheck="false"
                    aria-invalid=[problem.map(|_| "true")] aria-describedby="scopes-help scopes-error";
                (error("scopes-error", problem))
            }
        } @else {
            fieldset.field id="scopes" tabindex="-1" aria-describedby="scopes-help scopes-error" {
                legend { (TEXTS.scopes) }
                p.help id="scopes-help" { (TEXTS.scopes_help) }
                div.options {
                    @for (scope, description) in &state.scopes {
                        @let name = scope.to_string();
                        label.option {
                            input type="checkbox" name="scopes" value=(name) checked[entered.scopes.contains(&name)];
                            span { code translate="no" { (name) } " " span.help { (description) } }
                        }
                    }
                }
                (error("scopes-error", problem))
            }
        }
    }
}
