//! A log in JSON.

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};

/// One line of a log.
pub type Line = Map<String, Value>;

/// The lines of a log among other output.
///
/// # Panics
///
/// A line is not an object, or has a key twice.
pub fn lines(output: &str) -> Vec<Line> {
    let lines = output.lines().filter(|line| line.starts_with('{'));
    lines
        .map(|line| {
            serde_json::from_str::<UniqueKeys>(line).unwrap_or_else(|error| panic!("{error}: {line}")).0
        })
        .collect()
}

/// The lines whose level is ERROR.
pub fn errors(output: &str) -> Vec<Line> {
    lines(output).into_iter().filter(|line| line["level"] == "ERROR").collect()
}

struct UniqueKeys(Line);

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Keys).map(Self)
    }
}

struct Keys;

impl<'de> Visitor<'de> for Keys {
    type Value = Line;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Line, A::Error> {
        let mut object = Map::new();
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            if object.insert(key.clone(), value).is_some() {
                return Err(A::Error::custom(format!("the key {key} is there twice")));
            }
        }
        Ok(object)
    }
}
