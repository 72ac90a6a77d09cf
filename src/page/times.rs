//! Times. The script shows them in the reader's zone and as the reader writes them.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use maud::{Markup, html};

use super::texts::{ENGLISH as TEXTS, fill};

/// Shows a day and the time of day.
pub(super) fn moment(at: DateTime<Utc>) -> Markup {
    html! {
        time datetime=(rfc3339(at)) {
            span data-date { (at.format("%Y-%m-%d")) } " " span.soft data-time { (at.format("%H:%M UTC")) }
        }
    }
}

/// Shows a day.
pub(super) fn day(at: DateTime<Utc>) -> Markup {
    html! { time datetime=(rfc3339(at)) { span data-date { (at.format("%Y-%m-%d")) } } }
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Shows when a token was used last.
pub(super) fn last_used(at: Option<DateTime<Utc>>) -> Markup {
    html! { @match at { Some(at) => (moment(at)), None => span.soft { (TEXTS.never_used) } } }
}

/// Shows when a token expires, and how soon.
pub(super) fn expiry(at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Markup {
    let Some(at) = at else { return html! { span.soft { (TEXTS.never_expires) } } };
    if at <= now {
        return html! { span.badge { (TEXTS.expired) } " " span.soft { (day(at)) } };
    }
    let class = if at - now <= TimeDelta::days(7) { "soon" } else { "soft" };
    html! { (day(at)) " " span class=(class) { (how_soon(at - now)) } }
}

/// Rounded up, so that a new token for 30 days does not begin with 29.
fn how_soon(left: TimeDelta) -> String {
    let seconds = left.num_seconds().unsigned_abs();
    match seconds.div_ceil(3_600) {
        0 | 1 => TEXTS.within_an_hour.to_owned(),
        hours @ 2..=48 => fill(TEXTS.in_hours, hours),
        _ => fill(TEXTS.in_days, seconds.div_ceil(86_400)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said_in_hours_or_days() {
        for (seconds, expected) in [
            (0, "within an hour"),
            (3_600, "within an hour"),
            (3_601, "in 2 hours"),
            (48 * 3_600, "in 48 hours"),
            (48 * 3_600 + 1, "in 3 days"),
            (30 * 86_400, "in 30 days"),
        ] {
            assert_eq!(how_soon(TimeDelta::seconds(seconds)), expected);
        }
    }
}
