//! The icons. They take the colour and the size of the text next to them.

use maud::{Markup, PreEscaped, html};

pub(super) const KEY: &str =
    r#"<circle cx="6.75" cy="13.25" r="3.75"/><path d="m9.5 10.5 7-7m-2.5 2.5 2 2m-4.5.5 1.5 1.5"/>"#;
pub(super) const PLUS: &str = r#"<path d="M10 4v12M4 10h12"/>"#;
pub(super) const ALERT: &str = r#"<path d="M10 3 2 17h16L10 3Zm0 5.5v4m0 2.2v.1"/>"#;
pub(super) const CHECK: &str = r#"<path d="m4 10.5 4 4 8-9"/>"#;
pub(super) const COPY: &str = r#"<rect x="7" y="7" width="10" height="10" rx="2"/><path d="M4.5 13H4a1 1 0 0 1-1-1V4a1 1 0 0 1 1-1h8a1 1 0 0 1 1 1v.5"/>"#;
pub(super) const BACK: &str = r#"<path d="M12.5 4.5 7 10l5.5 5.5"/>"#;
pub(super) const FORWARD: &str = r#"<path d="M7.5 4.5 13 10l-5.5 5.5"/>"#;

/// Returns an icon, hidden from screen readers because the text next to it says the same.
pub(super) fn icon(shapes: &'static str) -> Markup {
    html! {
        svg.icon viewBox="0 0 20 20" fill="none" stroke="currentColor" stroke-width="1.7" stroke-linecap="round"
            stroke-linejoin="round" aria-hidden="true" focusable="false" { (PreEscaped(shapes)) }
    }
}
