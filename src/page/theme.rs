//! The colours that follow from a product's own.

use std::str::FromStr;

type Rgb = [f64; 3];

const WHITE: Rgb = [255.0; 3];
const BLACK: Rgb = [0.0; 3];
/// `--page` of page.css in light, and `--raised` in dark: of the backgrounds, those with the least contrast.
const LIGHT: Rgb = [246.0, 247.0, 249.0];
const DARK: Rgb = [32.0, 36.0, 44.0];
/// WCAG 2.2, 1.4.3 and 1.4.11.
const TEXT_CONTRAST: f64 = 4.5;
const SHAPE_CONTRAST: f64 = 3.0;

/// The colour of buttons and links: `#rrggbb`. Where its contrast is too low, a darker or lighter shade is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accent(Rgb);

/// The text is not a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a colour such as #2456c9")]
pub struct AccentError;

impl FromStr for Accent {
    type Err = AccentError;

    fn from_str(text: &str) -> Result<Self, AccentError> {
        let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6).ok_or(AccentError)?;
        // A sign is a number's too.
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(AccentError);
        }
        let [_, red, green, blue] = u32::from_str_radix(digits, 16).map_err(|_| AccentError)?.to_be_bytes();
        Ok(Self([red, green, blue].map(f64::from)))
    }
}

impl Accent {
    /// Returns the style sheet with the colours for light and dark.
    pub(crate) fn css(self) -> String {
        let light = variables(self.0, LIGHT, BLACK);
        let dark = variables(self.0, DARK, WHITE);
        format!(":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}")
    }
}

/// Returns the variables for a background; mixed with `pole`, colours stand out from it. On a light page a button keeps its
/// colour, however light, since its edge stands out; on a dark one, a dark button would look as if it could not be used.
fn variables(accent: Rgb, background: Rgb, pole: Rgb) -> String {
    let until = |least: f64| {
        let steps = (0..=20).map(|step| mix(accent, pole, f64::from(step) / 20.0));
        steps.into_iter().find(|color| contrast(*color, background) >= least).unwrap_or(pole)
    };
    let (edge, text) = (until(SHAPE_CONTRAST), until(TEXT_CONTRAST));
    let fill = if pole == BLACK { accent } else { edge };
    let on = if contrast(fill, WHITE) >= TEXT_CONTRAST { WHITE } else { BLACK };
    let hover = mix(fill, if on == WHITE { BLACK } else { WHITE }, 0.14);
    let [fill, edge, text, on, hover] = [fill, edge, text, on, hover].map(hex);
    format!(
        "--accent:{fill};--accent-hover:{hover};--accent-edge:{edge};--on-accent:{on};--accent-text:{text}"
    )
}

fn mix(from: Rgb, to: Rgb, share: f64) -> Rgb {
    std::array::from_fn(|channel| (from[channel] + (to[channel] - from[channel]) * share).round())
}

/// Returns the contrast ratio (WCAG 2.2).
fn contrast(one: Rgb, other: Rgb) -> f64 {
    let luminance = |color: Rgb| {
        let [red, green, blue] = color.map(|channel| {
            let part = channel / 255.0;
            if part <= 0.040_45 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
        });
        0.2126 * red + 0.7152 * green + 0.0722 * blue
    };
    let (one, other) = (luminance(one) + 0.05, luminance(other) + 0.05);
    one.max(other) / one.min(other)
}

fn hex(color: Rgb) -> String {
    let [red, green, blue] = color.map(|channel| channel as u8);
    format!("#{red:02x}{green:02x}{blue:02x}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn with_any_colour_everything_can_be_read(color in "#[0-9a-f]{6}") {
            let css = color.parse::<Accent>().unwrap().css();
            for (line, background) in css.lines().zip([LIGHT, DARK]) {
                let value = |name: &str| {
                    let text = line.split_once(&format!("{name}:")).unwrap().1;
                    text[..7].parse::<Accent>().unwrap().0
                };
                prop_assert!(contrast(value("--accent-text"), background) >= TEXT_CONTRAST, "{css}");
                prop_assert!(contrast(value("--on-accent"), value("--accent")) >= TEXT_CONTRAST, "{css}");
                prop_assert!(contrast(value("--on-accent"), value("--accent-hover")) >= TEXT_CONTRAST, "{css}");
                prop_assert!(contrast(value("--accent-edge"), background) >= SHAPE_CONTRAST, "{css}");
            }
        }
    }

    #[test]
    fn what_is_not_a_colour_is_refused() {
        for bad in ["", "2456c9", "#2456c", "#2456c9ff", "#+1+1+1", "red", "#é456c", "#12345g", "#123456;"] {
            assert_eq!(bad.parse::<Accent>(), Err(AccentError), "{bad}");
        }
    }
}
