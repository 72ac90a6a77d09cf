//! The frame of every page, and the pages that are only a message.

use std::fmt;

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header::REFRESH},
    response::Response,
};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{
    PATH, PageState, Recognition,
    assets::VERSION,
    forgery::{FormKey, random},
    icons::{ALERT, BACK, CHECK, KEY, icon},
    person::Person,
    response,
    texts::ENGLISH as TEXTS,
};

/// Marks the styles and scripts of one answer as its own. Without randomness it is empty, and they do not run.
pub(super) struct Nonce(String);

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How wide the content of a page is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Width {
    Wide,
    Narrow,
    Small,
}

impl Width {
    fn class(self) -> &'static str {
        match self {
            Self::Wide => "wide",
            Self::Narrow => "narrow",
            Self::Small => "small",
        }
    }
}

/// A link with its text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) url: &'static str,
    pub(super) label: &'static str,
    pub(super) new_tab: bool,
}

impl Link {
    /// Leads to the login, by way of the page.
    pub(super) const SIGN_IN: Self = Self { url: PATH, label: TEXTS.sign_in, new_tab: false };
    /// Does so in another tab, so that this one stays as it is.
    pub(super) const SIGN_IN_IN_NEW_TAB: Self =
        Self { url: super::NEW, label: TEXTS.sign_in_in_new_tab, new_tab: true };
    const TO_LIST: Self = Self { url: PATH, label: TEXTS.to_list, new_tab: false };

    pub(super) fn show(self, class: Option<&str>) -> Markup {
        let (target, rel) = if self.new_tab { (Some("_blank"), Some("noopener")) } else { (None, None) };
        html! { a class=[class] href=(self.url) target=[target] rel=[rel] { (self.label) } }
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

    /// The fields that show that a form is this page's, and whose page it was.
    pub(super) fn key_fields(&self) -> Markup {
        let key = self.key.as_ref().map_or("", |key| &key.text);
        html! {
            (hidden("key", key))
            @if let Some(person) = self.person { (hidden("shown_to", person.user.as_str())) }
        }
    }

    /// Returns the page with this content.
    pub(super) fn page(self, status: StatusCode, width: Width, title: &str, content: Markup) -> Response {
        let page = self.frame(width, title, content);
        let mut response = response::html(status, self.state, &self.nonce, page);
        if let Some(key) = &self.key {
            key.keep(self.state, response.headers_mut());
        }
        if let Some(session) = self.person.and_then(|person| person.session.as_ref()) {
            session.note_use(self.state, response.headers_mut());
        }
        response
    }

    /// Returns a page that says what went wrong.
    pub(super) fn message(self, status: StatusCode, text: &str) -> Response {
        let action = self.person.map(|_| Link::TO_LIST);
        self.message_with(status, text, action)
    }

    /// Returns a page that says what went wrong, with a way out.
    pub(super) fn message_with(self, status: StatusCode, text: &str, action: Option<Link>) -> Response {
        let action = action.map(|link| link.show(BUTTON));
        let mark = html! { span.medallion.warning { (icon(ALERT)) } };
        self.panel(status, mark, TEXTS.error_title, text, action)
    }

    /// Returns the page after a logout.
    pub(super) fn signed_out(self) -> Response {
        self.after_logout(TEXTS.signed_out, Link::SIGN_IN.show(BUTTON))
    }

    /// Returns the page that goes on to the provider, whose session ends there.
    ///
    /// It is no redirect: browsers hold every redirect after a form against `form-action`, also those of the provider, which may
    /// lead anywhere.
    pub(super) fn signing_out(self, url: &str) -> Response {
        let go_on = html! { a class=[BUTTON] href=(url) { (TEXTS.go_on) } };
        let mut response = self.after_logout(TEXTS.signing_out, go_on);
        if let Ok(refresh) = HeaderValue::from_str(&format!("0; url={url}")) {
            response.headers_mut().insert(REFRESH, refresh);
        }
        response
    }

    fn after_logout(self, text: &str, action: Markup) -> Response {
        let mark = html! { span.medallion { (icon(CHECK)) } };
        self.panel(StatusCode::OK, mark, TEXTS.signed_out_title, text, Some(action))
    }

    fn panel(
        self,
        status: StatusCode,
        mark: Markup,
        title: &str,
        text: &str,
        action: Option<Markup>,
    ) -> Response {
        let content = html! {
            div.card.empty {
                (mark)
                h1 { (title) }
                p.soft { (text) }
                @if let Some(action) = action { (action) }
            }
        };
        self.page(status, Width::Small, title, content)
    }

    fn frame(&self, width: Width, title: &str, content: Markup) -> Markup {
        let look = &self.state.look;
        let icon = look.logo.as_ref().map_or("data:,".to_owned(), |_| format!("{PATH}/logo"));
        html! {
            (DOCTYPE)
            html lang=(TEXTS.language) dir=(TEXTS.direction) {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="robots" content="noindex";
                    title { (title) " · " (look.product) }
                    link rel="icon" href=(icon);
                    link rel="stylesheet" href={ (PATH) "/page.css?" (VERSION.as_str()) } nonce=(self.nonce);
                    style nonce=(self.nonce) { (PreEscaped(&look.colors)) }
                    script src={ (PATH) "/page.js?" (VERSION.as_str()) } nonce=(self.nonce) defer {}
                }
                body {
                    a.skip href="#main" { (TEXTS.skip) }
                    (self.header())
                    main id="main" tabindex="-1" class=(width.class()) { (content) }
                }
            }
        }
    }

    fn header(&self) -> Markup {
        let look = &self.state.look;
        html! {
            header.top {
                div.wide {
                    p.brand {
                        @if look.logo.is_some() {
                            img src={ (PATH) "/logo" } alt="" width="28" height="28";
                        } @else {
                            span.mark { (icon(KEY)) }
                        }
                        span { (look.product) }
                    }
                    @if let Some(back) = &look.back { a.back href=(back) { (icon(BACK)) (TEXTS.back) } }
                    @if let Some(person) = self.person { (self.user(person)) }
                }
                @if matches!(self.state.recognition, Recognition::Development) {
                    p.development { strong { (TEXTS.development) } " " (TEXTS.development_notice) }
                }
            }
        }
    }

    fn user(&self, person: &Person) -> Markup {
        let leave = match &self.state.recognition {
            Recognition::Development => Some(("/user", TEXTS.change_user)),
            Recognition::Oidc(_) => Some(("/sign-out", TEXTS.sign_out)),
            // The session is the proxy's.
            Recognition::Jwt(_) | Recognition::Off => None,
        };
        html! {
            div.user {
                span.user-id { (TEXTS.signed_in_as) " " bdi { (person.user.as_str()) } }
                @if let Some((path, label)) = leave {
                    form method="post" action={ (PATH) (path) } {
                        (self.key_fields())
                        button.link { (label) }
                    }
                }
            }
        }
    }
}

const BUTTON: Option<&str> = Some("button primary");

/// A value that a form has. Browsers put back what was entered, hidden values too, unless they are told not to.
pub(super) fn hidden(name: &str, value: &str) -> Markup {
    html! { input type="hidden" name=(name) value=(value) autocomplete="off"; }
}

/// What is wrong with a field. Screen readers find it by its id.
pub(super) fn error(id: &str, problem: Option<&str>) -> Markup {
    html! { p.error id=(id) { (problem.unwrap_or_default()) } }
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
        div { h1 { (TEXTS.choose_title) } p.lead { (TEXTS.choose_help) } }
        form.card.form method="post" action={ (PATH) "/user" } novalidate {
            (view.key_fields())
            div.field {
                label for="user" { (TEXTS.user_id) }
                p.help id="user-help" { (TEXTS.user_help) }
                input id="user" name="user" value=(entered) required autofocus autocomplete="username" autocapitalize="none"
                    spellcheck="false" aria-invalid=[wrong.map(|_| "true")] aria-describedby="user-help user-error";
                (error("user-error", wrong))
            }
            div.buttons { button.button.primary { (TEXTS.go_on) } }
        }
    };
    let status = if wrong.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    view.page(status, Width::Small, TEXTS.choose_title, content)
}
