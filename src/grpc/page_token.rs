//! The opaque page token, which encodes a cursor in a user's list (AIP-158).

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::token::UserId;

/// Ample for a page token, which has 32 characters. Longer texts are refused without decoding them.
const MAX_LENGTH: usize = 64;

const CHECKSUM_BYTES: usize = 8;

/// Returns the page token of the page that begins below `id` in the list of `user`.
pub(super) fn encode(user: &UserId, id: Uuid) -> String {
    let mut bytes = id.as_bytes().to_vec();
    bytes.extend(checksum(user, id));
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns the cursor that `text` encodes, if it was issued for `user`.
pub(super) fn decode(user: &UserId, text: &str) -> Option<Uuid> {
    if text.len() > MAX_LENGTH {
        return None;
    }
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    let (id, rest) = bytes.split_first_chunk()?;
    let id = Uuid::from_bytes(*id);
    (rest == checksum(user, id)).then_some(id)
}

/// Binds a cursor to its user. No key is needed: a forged page token lists nothing that its user may not list anyway.
fn checksum(user: &UserId, id: Uuid) -> [u8; CHECKSUM_BYTES] {
    let digest = Sha256::new()
        .chain_update(b"latchkey page token 1")
        .chain_update(id.as_bytes())
        .chain_update(user.as_str())
        .finalize();
    std::array::from_fn(|index| digest[index])
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
        fn only_its_user_gets_the_cursor_back(id: u128, a in "[a-z]{1,9}", b in "[a-z]{1,9}") {
            let id = Uuid::from_u128(id);
            let token = encode(&user(&a), id);
            prop_assert_eq!(decode(&user(&a), &token), Some(id));
            prop_assert_eq!(decode(&user(&b), &token), (a == b).then_some(id));
        }

        #[test]
        fn a_changed_character_is_refused(id: u128, index: prop::sample::Index, other in "[0-9A-Za-z_-]") {
            let mut token = encode(&user("u"), Uuid::from_u128(id));
            let index = index.index(token.len());
            prop_assume!(token[index..=index] != other);
            token.replace_range(index..=index, &other);
            prop_assert_eq!(decode(&user("u"), &token), None);
        }

        #[test]
        fn no_text_causes_a_panic(text: String) {
            let _ = decode(&user("u"), &text);
        }
    }
}
