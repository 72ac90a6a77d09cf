//! The frame of every page, and the pages that are only a message.

use std::fmt;

use axum::{
    http::{HeaderMap, StatusCode},
    response::Response,
};
use chrono::{DateTime, SecondsFormat, Utc};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{
    PATH, PageState, Recognition,
    forgery::{FormKey, random},
    person::Person,
    response,
    texts::{ENGLISH as TEXTS, fill},
};

/// Marks the styles and scripts of one answer as its own. Without randomness it is empty, and they do not run.
pub(super) struct Nonce(String);

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A page that is being made for a browser.
pub(super) struct View<'a> {
    pub(super) state: &'a PageState,
    person: Option<&'a Person>,
    nonce: Nonce,
    key: Option<FormKey>,
}

impl<'a> View<'a> {
    pub(super) fn new(state: &'a PageState, headers: &HeaderMap, person: Option<&'a Person>) -> Self {
        let nonce = Nonce(random().unwrap_or_default());
        Self { state, person, nonce, key: FormKey::of(state, headers) }
    }

    /// The field that shows that a form is this page's.
    pub(super) fn key_field(&self) -> Markup {
        let key = self.key.as_ref().map_or("", |key| &key.text);
        html! { input type="hidden" name="key" value=(key); }
    }

    /// Returns the page with this content.
    pub(super) fn page(self, status: StatusCode, title: &str, content: Markup) -> Response {
        let page = self.frame(title, content);
        let mut response = response::html(status, self.state, &self.nonce, page);
        if let Some(key) = &self.key {
            key.keep(self.state, response.headers_mut());
        }
        if let Some(session) = self.person.and_then(|person| person.session.as_ref()) {
            session.note_use(self.state, response.headers_mut());
        }
        response
    }

    /// Returns a page that is only a message.
    pub(super) fn message(self, status: StatusCode, text: &str) -> Response {
        let content = html! {
            h1 { (TEXTS.title) }
            p.notice role="alert" { (text) }
            @if self.person.is_some() { p { a.button href=(PATH) { (TEXTS.title) } } }
        };
        self.page(status, TEXTS.title, content)
    }

    fn frame(&self, title: &str, content: Markup) -> Markup {
        let look = &self.state.look;
        let heading =
            if title == TEXTS.title { title.to_owned() } else { format!("{title} · {}", TEXTS.title) };
        html! {
            (DOCTYPE)
            html lang=(TEXTS.language) {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (heading) " · " (look.product) }
                    link rel="icon" href="data:,";
                    link rel="stylesheet" href={ (PATH) "/page.css" } nonce=(self.nonce);
                    style nonce=(self.nonce) { ":root{--accent:" (PreEscaped(look.accent.to_string())) "}" }
                    script src={ (PATH) "/page.js" } nonce=(self.nonce) defer {}
                }
                body {
                    header {
                        div.bar {
                            span.brand { (look.product) }
                            @if let Some(back) = &look.back { a href=(back) { (TEXTS.back) } }
                        }
                        @if matches!(self.state.recognition, Recognition::Development) {
                            div.development { (TEXTS.development) }
                        }
                    }
                    main { (content) }
                    @if let Some(person) = self.person { (self.footer(person)) }
                }
            }
        }
    }

    fn footer(&self, person: &Person) -> Markup {
        html! {
            footer {
                span { (fill(TEXTS.acting_as, person.user.as_str())) }
                @if matches!(self.state.recognition, Recognition::Development) {
                    form method="post" action={ (PATH) "/user" } {
                        (self.key_field())
                        button.link type="submit" { (TEXTS.change_user) }
                    }
                }
                @if person.session.is_some() {
                    form method="post" action={ (PATH) "/sign-out" } {
                        (self.key_field())
                        button.link type="submit" { (TEXTS.sign_out) }
                    }
                }
            }
        }
    }
}

/// Asks who the user is, in development.
pub(super) fn choose_user(
    state: &PageState,
    headers: &HeaderMap,
    entered: &str,
    wrong: Option<&str>,
) -> Response {
    let view = View::new(state, headers, None);
    let content = html! {
        h1 { (TEXTS.choose_user) }
        form.card method="post" action={ (PATH) "/user" } {
            (view.key_field())
            div.field {
                label for="user" { (TEXTS.user_id) }
                p.help id="user-help" { (TEXTS.choose_help) }
                input id="user" name="user" value=(entered) required autocomplete="username" autocapitalize="none"
                    aria-invalid=[wrong.map(|_| "true")] aria-describedby="user-help user-error";
                p.error id="user-error" { (wrong.unwrap_or_default()) }
            }
            div.buttons { button.primary type="submit" { (TEXTS.go_on) } }
        }
    };
    let status = if wrong.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    view.page(status, TEXTS.choose_user, content)
}

/// A time that the script shows in the reader's zone.
pub(super) fn time(at: DateTime<Utc>) -> Markup {
    html! {
        time datetime=(at.to_rfc3339_opts(SecondsFormat::Secs, true)) { (at.format("%Y-%m-%d %H:%M UTC").to_string()) }
    }
}
