//! The style sheet and the script of the page.

use std::sync::LazyLock;

use axum::{
    extract::RawQuery,
    http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Changes with the style sheet and the script. It is part of their addresses, so that browsers may keep them.
pub(super) static VERSION: LazyLock<String> = LazyLock::new(|| {
    let hash = Sha256::new().chain_update(STYLE).chain_update(SCRIPT).finalize();
    URL_SAFE_NO_PAD.encode(&hash[..12])
});

pub(super) async fn style(RawQuery(version): RawQuery) -> Response {
    asset("text/css; charset=utf-8", version, STYLE)
}

pub(super) async fn script(RawQuery(version): RawQuery) -> Response {
    asset("text/javascript; charset=utf-8", version, SCRIPT)
}

/// During an upgrade, a page of another version may ask for a file that this replica does not have. It gets this replica's file
/// with `no-store`, so that browsers do not keep it.
fn asset(media_type: &'static str, version: Option<String>, text: &'static str) -> Response {
    let is_this = version.as_deref() == Some(VERSION.as_str());
    let cache = if is_this { "public, max-age=31536000, immutable" } else { "no-store" };
    let headers = [(CONTENT_TYPE, media_type), (CACHE_CONTROL, cache), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (headers, text).into_response()
}
