//! The id of a request that its caller may repeat.

use std::str::FromStr;

use uuid::Uuid;

use super::hyphenated::parse_hyphenated;

/// A UUID that a caller chose for one request, so that it can repeat the request if the answer was lost (AIP-155).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(Uuid);

/// The text is not a request id. The zero UUID is refused, because callers send it that forgot to choose one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a UUID such as 5b3c8f0e-6d0b-4c1e-9a55-0f6c3b1d7e42, and not zero; leave it empty for none")]
pub struct RequestIdError;

impl RequestId {
    /// Parses an optional id; an empty text is none.
    ///
    /// # Errors
    ///
    /// The text is neither empty nor a request id.
    pub fn parse_optional(text: &str) -> Result<Option<Self>, RequestIdError> {
        (!text.is_empty()).then(|| text.parse()).transpose()
    }

    /// Returns the id as a UUID.
    pub fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl FromStr for RequestId {
    type Err = RequestIdError;

    fn from_str(text: &str) -> Result<Self, RequestIdError> {
        parse_hyphenated(text).filter(|id| !id.is_nil()).map(Self).ok_or(RequestIdError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_hyphenated_uuid_that_is_not_zero_is_an_id() {
        let id = "5b3c8f0e-6d0b-4c1e-9a55-0f6c3b1d7e42";
        let parsed = id.parse::<RequestId>().unwrap();
        assert_eq!(parsed.as_uuid().to_string(), id);
        assert_eq!(id.to_uppercase().parse(), Ok(parsed));
        assert_eq!(RequestId::parse_optional(id), Ok(Some(parsed)));
        assert_eq!(RequestId::parse_optional(""), Ok(None));
        let simple = id.replace('-', "");
        let zero = Uuid::nil().to_string();
        for bad in ["", " ", "1", &simple, &format!("{{{id}}}"), &format!("urn:uuid:{id}"), &zero] {
            assert_eq!(bad.parse::<RequestId>(), Err(RequestIdError), "{bad:?}");
        }
    }
}
