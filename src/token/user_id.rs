//! The name by which the identity service knows a user.

use std::{fmt, str::FromStr};

/// 1 to 128 bytes of UTF-8 without control characters; compared byte by byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserId(String);

/// Why a text is no user id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserIdFault {
    /// Nothing there.
    #[error("must not be empty")]
    Empty,
    /// Over 128 bytes.
    #[error("has {0} bytes; at most {max} are allowed", max = UserId::MAX_BYTES)]
    TooLong(usize),
    /// A control character.
    #[error("has the control character U+{:04X}; none is allowed", *.0 as u32)]
    Control(char),
}

impl UserId {
    const MAX_BYTES: usize = 128;

    /// An id that was checked before it was stored.
    pub(crate) fn from_stored(id: String) -> Self {
        Self(id)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserId {
    type Err = UserIdFault;

    fn from_str(text: &str) -> Result<Self, UserIdFault> {
        if text.is_empty() {
            return Err(UserIdFault::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(UserIdFault::TooLong(text.len()));
        }
        match text.chars().find(|character| character.is_control()) {
            Some(control) => Err(UserIdFault::Control(control)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_and_controls_refused() {
        assert!("u".parse::<UserId>().is_ok());
        assert!("auth0|5f7c8ec7 ü".parse::<UserId>().is_ok());
        assert!("ü".repeat(64).parse::<UserId>().is_ok());
        assert_eq!("".parse::<UserId>(), Err(UserIdFault::Empty));
        assert_eq!("ü".repeat(65).parse::<UserId>(), Err(UserIdFault::TooLong(130)));
        assert_eq!("a\0b".parse::<UserId>(), Err(UserIdFault::Control('\0')));
        assert_eq!("a\nb".parse::<UserId>(), Err(UserIdFault::Control('\n')));
    }
}
