//! The opaque token that stands for a place in a user's list (AIP-158).

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::token::UserId;

const SEAL_BYTES: usize = 8;

/// The token of the place below `id` in the list of `user`.
pub(super) fn encode(user: &UserId, id: Uuid) -> String {
    let mut bytes = id.as_bytes().to_vec();
    bytes.extend(seal(user, id));
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The place that `text` stands for, if it was made for `user`.
pub(super) fn decode(user: &UserId, text: &str) -> Option<Uuid> {
    // Longer texts need not be decoded to be refused.
    if text.len() > 64 {
        return None;
    }
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    let (id, sealed) = bytes.split_first_chunk()?;
    let id = Uuid::from_bytes(*id);
    (sealed == seal(user, id)).then_some(id)
}

/// Ties a place to its user. It needs no key: a forged token finds nothing that its user may not list anyway.
fn seal(user: &UserId, id: Uuid) -> [u8; SEAL_BYTES] {
    let digest = Sha256::new()
        .chain_update(b"latchkey page token 1")
        .chain_update(id.as_bytes())
        .chain_update(user.as_str())
        .finalize();
    std::array::from_fn(|place| digest[place])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user(text: &str) -> UserId {
        text.parse().unwrap()
    }

    proptest! {
        #[test]
        fn it_leads_its_user_to_its_place_and_nobody_else(id: u128, a in "[a-z]{1,9}", b in "[a-z]{1,9}") {
            let id = Uuid::from_u128(id);
            let token = encode(&user(&a), id);
            prop_assert_eq!(decode(&user(&a), &token), Some(id));
            prop_assert_eq!(decode(&user(&b), &token), (a == b).then_some(id));
        }

        #[test]
        fn a_changed_character_is_refused(id: u128, place: prop::sample::Index, other in "[0-9A-Za-z_-]") {
            let mut token = encode(&user("u"), Uuid::from_u128(id));
            let place = place.index(token.len());
            prop_assume!(token[place..=place] != other);
            token.replace_range(place..=place, &other);
            prop_assert_eq!(decode(&user("u"), &token), None);
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = decode(&user("u"), &text);
        }
    }
}
