//! The bearer token: `pat_<id>_<secret><checksum>`.
//!
//! The prefix shows people and secret scanners which service issued the token. The id finds the row; if there is a
//! key ring, its last 32 bits show that it was issued (docs/decisions/0016-ids-that-vouch-for-themselves.md). The secret
//! authenticates the caller. The checksum catches typing errors without a database query. One regular expression
//! matches every token: `[a-z][a-z0-9]{1,15}_[0-9A-Za-z]{22}_[0-9A-Za-z]{49}`.

use std::{fmt, str::FromStr};

use rand::{TryRng as _, rngs::SysRng};
use secrecy::SecretString;
use uuid::Uuid;
use zeroize::{Zeroize as _, Zeroizing};

use super::base62::{self, ID_DIGITS};

/// 256 random bits: 62^43 > 2^256.
const SECRET_DIGITS: usize = 43;
/// CRC-32: 62^6 > 2^32.
const CHECKSUM_DIGITS: usize = 6;

/// The first part of every token of this service: `[a-z][a-z0-9]{1,15}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

/// The text is not a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 2 to 16 lower-case letters and digits, a letter first")]
pub struct PrefixError;

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let fits = (2..=16).contains(&text.len())
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        fits.then(|| Self(text.to_owned())).ok_or(PrefixError)
    }
}

impl Prefix {
    /// Returns the prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A parsed bearer token: its id and its secret of 256 random bits. The secret is wiped from memory on drop.
#[derive(Clone)]
pub struct BearerToken {
    id: Uuid,
    secret: Zeroizing<[u8; 32]>,
}

/// Why a text is not a token of this service. Never contains any part of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The text does not begin with this service's prefix and an underscore.
    #[error("does not begin with this service's prefix")]
    Prefix,
    /// The text is too short or too long.
    #[error("has the wrong length")]
    Length,
    /// There is no underscore between the id and the secret.
    #[error("has no underscore between id and secret")]
    Separator,
    /// The checksum does not match the text before it.
    #[error("has a wrong checksum")]
    Checksum,
    /// A character of the id, secret or checksum is not one of `0-9A-Za-z`.
    #[error("has a character that is not a letter or digit of ASCII")]
    Digit,
    /// The id is 2^128 or more, or the secret 2^256 or more.
    #[error("has an id or secret that is out of range")]
    Range,
}

impl From<base62::DigitsError> for ParseError {
    fn from(error: base62::DigitsError) -> Self {
        match error {
            base62::DigitsError::NotADigit => Self::Digit,
            base62::DigitsError::TooLarge => Self::Range,
        }
    }
}

impl BearerToken {
    /// Generates a token: a UUIDv7 as its id, and a secret from the operating system's random number generator.
    ///
    /// # Errors
    ///
    /// The operating system provided no randomness.
    pub fn generate() -> Result<Self, rand::rngs::SysError> {
        let mut secret = Zeroizing::new([0; 32]);
        SysRng.try_fill_bytes(secret.as_mut())?;
        Ok(Self { id: Uuid::now_v7(), secret })
    }

    /// Parses a token that begins with `prefix`. Takes bytes, because callers forward what they receive and it may not
    /// be UTF-8.
    ///
    /// # Errors
    ///
    /// The first error found. Changing any one character of a token always causes an error.
    pub fn parse(prefix: &Prefix, text: &[u8]) -> Result<Self, ParseError> {
        let rest = text
            .strip_prefix(prefix.0.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"_"))
            .ok_or(ParseError::Prefix)?;
        if rest.len() != ID_DIGITS + 1 + SECRET_DIGITS + CHECKSUM_DIGITS {
            return Err(ParseError::Length);
        }
        let (body, checksum) = text.split_at(text.len() - CHECKSUM_DIGITS);
        let mut sum = [0];
        base62::read(checksum, &mut sum)?;
        if sum != [u64::from(crc32fast::hash(body))] {
            return Err(ParseError::Checksum);
        }
        let (id, rest) = rest.split_at(ID_DIGITS);
        let digits = rest.strip_prefix(b"_").ok_or(ParseError::Separator)?;

        let mut limbs = [0; 2];
        base62::read(id, &mut limbs)?;
        let id = Uuid::from_u64_pair(limbs[0], limbs[1]);
        let mut limbs = Zeroizing::new([0; 4]);
        base62::read(&digits[..SECRET_DIGITS], &mut limbs)?;
        let mut secret = Zeroizing::new([0; 32]);
        for (bytes, limb) in secret.chunks_exact_mut(8).zip(limbs.iter()) {
            bytes.copy_from_slice(&limb.to_be_bytes());
        }
        Ok(Self { id, secret })
    }

    /// Returns the token's id, which is not secret.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Returns a bearer token of the token `id` with the same secret, whose hash and tag do not depend on the id.
    pub(crate) fn with_id(self, id: Uuid) -> Self {
        Self { id, ..self }
    }

    /// Returns the random bits.
    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// Returns the token as text, as its user sees it once.
    pub fn reveal(&self, prefix: &Prefix) -> SecretString {
        let length = prefix.0.len() + 1 + ID_DIGITS + 1 + SECRET_DIGITS + CHECKSUM_DIGITS;
        let mut text = String::with_capacity(length);
        text.push_str(&prefix.0);
        text.push('_');
        base62::push(self.id.as_bytes(), ID_DIGITS, &mut text);
        text.push('_');
        base62::push(self.secret(), SECRET_DIGITS, &mut text);
        let sum = crc32fast::hash(text.as_bytes());
        base62::push(&sum.to_be_bytes(), CHECKSUM_DIGITS, &mut text);
        let revealed = SecretString::from(text.as_str());
        text.zeroize();
        revealed
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;

    use super::*;

    fn pat() -> Prefix {
        "pat".parse().unwrap()
    }

    fn bearer(id: u128, secret: [u8; 32]) -> BearerToken {
        BearerToken { id: Uuid::from_u128(id), secret: Zeroizing::new(secret) }
    }

    /// Secret scanners match this form, and users have stored such tokens.
    #[test]
    fn the_form_never_changes() {
        let text = bearer(0x0193_5af2_0000_7000_8000_0000_0000_0001, [0xa5; 32]).reveal(&pat());
        assert_eq!(text.expose_secret(), FORM);
        assert_eq!(text.expose_secret().len(), 76);
    }
    const FORM: &str = "pat_02yKhNnwl1fuhFFXQ0nroP_dHMOUNLh0UTx6gmQ9MHQdRUvZdbXMLLlzChlYYN1shx0Ezs75";

    #[test]
    fn a_prefix_is_two_to_sixteen_lower_case_letters_and_digits() {
        for good in ["pa", "pat", "p4t", "abcdefghijklmnop"] {
            assert_eq!(good.parse::<Prefix>().map(|prefix| prefix.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "p", "4pat", "Pat", "pa_t", "pät", "pat ", "abcdefghijklmnopq"] {
            assert_eq!(bad.parse::<Prefix>(), Err(PrefixError), "{bad:?}");
        }
    }

    #[test]
    fn each_error_is_named() {
        let good = bearer(1, [1; 32]).reveal(&pat());
        let good = good.expose_secret();
        let with_sum = |body: &str| {
            let mut text = body.to_owned();
            base62::push(&crc32fast::hash(body.as_bytes()).to_be_bytes(), 6, &mut text);
            text
        };
        let body = &good[..good.len() - 6];
        let cases = [
            (String::new(), ParseError::Prefix),
            ("pat".into(), ParseError::Prefix),
            (good.replace("pat", "ghp"), ParseError::Prefix),
            ("pat_".into(), ParseError::Length),
            (format!("{good}0"), ParseError::Length),
            (format!("{good} "), ParseError::Length),
            (format!("{body}zzzzzz"), ParseError::Checksum),
            (format!("{body}00000-"), ParseError::Digit),
            (with_sum(&body.replacen("1_", "1-", 1)), ParseError::Separator),
            (with_sum(&body.replacen("_0", "_-", 1)), ParseError::Digit),
            (with_sum(&format!("pat_{}_{}", "z".repeat(22), "0".repeat(43))), ParseError::Range),
            (with_sum(&format!("pat_{}_{}", "0".repeat(22), "z".repeat(43))), ParseError::Range),
        ];
        for (text, error) in cases {
            assert_eq!(BearerToken::parse(&pat(), text.as_bytes()).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", BearerToken::generate().unwrap()), "[redacted]");
    }

    proptest! {
        #[test]
        fn every_token_parses_to_its_parts(id: u128, secret: [u8; 32], prefix in "[a-z][a-z0-9]{1,15}") {
            let prefix: Prefix = prefix.parse().unwrap();
            let text = bearer(id, secret).reveal(&prefix);
            let parsed = BearerToken::parse(&prefix, text.expose_secret().as_bytes()).unwrap();
            prop_assert_eq!(parsed.id().as_u128(), id);
            prop_assert_eq!(parsed.secret(), &secret);
        }

        #[test]
        fn a_token_with_one_character_changed_never_parses(
            id: u128,
            secret: [u8; 32],
            index in any::<prop::sample::Index>(),
            character: char,
        ) {
            let text = bearer(id, secret).reveal(&pat());
            let characters: Vec<char> = text.expose_secret().chars().collect();
            let index = index.index(characters.len());
            // Also replaces it with a digit, which is harder to detect than other characters.
            let digit = DIGITS_AND_MORE[character as usize % DIGITS_AND_MORE.len()];
            for other in [character, char::from(digit)] {
                prop_assume!(characters[index] != other);
                let mut mutated = characters.clone();
                mutated[index] = other;
                let mutated: String = mutated.iter().collect();
                prop_assert!(BearerToken::parse(&pat(), mutated.as_bytes()).is_err(), "{}", mutated);
            }
        }

        #[test]
        fn parsing_never_panics_on_text(text: String, body in "pat_[0-9A-Za-z_]{72}", wide in "pat_\\PC{72}") {
            for text in [text, body, wide] {
                let _ = BearerToken::parse(&pat(), text.as_bytes());
            }
        }

        #[test]
        fn parsing_never_panics_on_bytes(bytes: Vec<u8>) {
            let _ = BearerToken::parse(&pat(), &bytes);
            let _ = BearerToken::parse(&pat(), &[b"pat_", &bytes[..]].concat());
        }
    }

    const DIGITS_AND_MORE: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_- ";
}
