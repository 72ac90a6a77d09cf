//! CloudEvents 1.0 in binary mode (attributes in headers) and structured mode (one JSON object).

use std::borrow::Cow;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{body::is_json, error::AccountEventError};
use crate::telemetry::{excerpt, quote};

/// The type of the CloudEvents that are accepted.
pub(super) const EVENT_TYPE: &str = "identity.v1.UserDeleted";
/// The longest id or source, in bytes.
const MAX_ATTRIBUTE: usize = 256;

/// The attributes of a CloudEvent that Latchkey reads. All others are ignored.
pub(super) struct Attributes<'a> {
    specversion: Option<Cow<'a, str>>,
    kind: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
    source: Option<Cow<'a, str>>,
}

impl<'a> Attributes<'a> {
    /// Reads the attributes of a CloudEvent in binary mode. Looks headers up by their names in lower case.
    pub(super) fn from_headers(header: impl Fn(&str) -> Option<&'a str>) -> Self {
        let attribute = |name| header(name).map(decode_header);
        Self {
            specversion: attribute("ce-specversion"),
            kind: attribute("ce-type"),
            id: attribute("ce-id"),
            source: attribute("ce-source"),
        }
    }

    /// Returns whether this is a CloudEvent at all.
    pub(super) fn has_version(&self) -> bool {
        self.specversion.is_some()
    }

    /// Returns whether the event names a type.
    pub(super) fn has_type(&self) -> bool {
        self.kind.is_some()
    }

    /// Checks the type.
    ///
    /// # Errors
    ///
    /// [`AccountEventError::Attribute`] if it is missing, or the event is another one.
    pub(super) fn check_type(&self) -> Result<(), AccountEventError> {
        check("type", self.kind.as_deref(), EVENT_TYPE)
    }

    /// Checks all attributes, and returns the id and the source.
    ///
    /// # Errors
    ///
    /// [`AccountEventError::Attribute`] for the first one that is missing or wrong.
    pub(super) fn into_id_and_source(self) -> Result<(String, String), AccountEventError> {
        check("specversion", self.specversion.as_deref(), "1.0")?;
        self.check_type()?;
        Ok((text("id", self.id)?, text("source", self.source)?))
    }
}

/// A CloudEvent in structured mode (CloudEvents JSON Event Format 1.0.2).
#[derive(Deserialize)]
pub(super) struct Envelope<'a> {
    #[serde(borrow)]
    specversion: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    source: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    datacontenttype: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
}

impl<'a> Envelope<'a> {
    /// Parses the JSON of a CloudEvent.
    ///
    /// # Errors
    ///
    /// [`AccountEventError::Envelope`] if the text is not a JSON object, or an attribute has the wrong type.
    pub(super) fn parse(text: &'a [u8]) -> Result<Self, AccountEventError> {
        serde_json::from_slice(text).map_err(|error| AccountEventError::Envelope(excerpt(&error.to_string())))
    }

    /// Returns whether an object has an attribute that only a CloudEvent has.
    pub(super) fn is_cloud_event(&self) -> bool {
        self.kind.is_some() || self.specversion.is_some()
    }

    /// Returns the attributes, which are not checked yet.
    pub(super) fn take_attributes(&mut self) -> Attributes<'a> {
        Attributes {
            specversion: self.specversion.take(),
            kind: self.kind.take(),
            id: self.id.take(),
            source: self.source.take(),
        }
    }

    /// Returns the event's data and its content type.
    ///
    /// # Errors
    ///
    /// [`AccountEventError::Envelope`] unless there is exactly one of `data`, in JSON, and `data_base64`.
    pub(super) fn into_data(self) -> Result<(String, Cow<'a, [u8]>), AccountEventError> {
        let wrong = |error: String| Err(AccountEventError::Envelope(error));
        match (self.data, self.data_base64) {
            (Some(json), None) => {
                let content_type = self.datacontenttype.unwrap_or_else(|| "application/json".to_owned());
                if !is_json(&content_type) {
                    return wrong(format!("data of {} must be in data_base64", quote(&content_type)));
                }
                Ok((content_type, json.get().as_bytes().into()))
            }
            (None, Some(base64)) => match BASE64_STANDARD.decode(base64) {
                Ok(data) => Ok((self.datacontenttype.unwrap_or_default(), data.into())),
                Err(error) => wrong(format!("data_base64: {error}")),
            },
            (None, None) => wrong("has neither data nor data_base64".to_owned()),
            (Some(_), Some(_)) => wrong("has both data and data_base64".to_owned()),
        }
    }
}

fn check(name: &'static str, value: Option<&str>, wanted: &str) -> Result<(), AccountEventError> {
    let error = match value {
        Some(value) if value == wanted => return Ok(()),
        Some(value) => format!("is {}, not {wanted:?}", quote(value)),
        None => "is missing".to_owned(),
    };
    Err(AccountEventError::Attribute { name, error })
}

fn text(name: &'static str, value: Option<Cow<'_, str>>) -> Result<String, AccountEventError> {
    let error = match value {
        None => "is missing".to_owned(),
        Some(value) if value.is_empty() => "is empty".to_owned(),
        Some(value) if value.len() > MAX_ATTRIBUTE => format!("is longer than {MAX_ATTRIBUTE} bytes"),
        Some(value) if value.contains(char::is_control) => "has a control character".to_owned(),
        Some(value) => return Ok(value.into_owned()),
    };
    Err(AccountEventError::Attribute { name, error })
}

/// Decodes a header value: the CloudEvents bindings for HTTP and NATS percent-encode it.
fn decode_header(value: &str) -> Cow<'_, str> {
    percent_decode_str(value).decode_utf8_lossy()
}
