//! Opaque page tokens, which encode a cursor in a user's list of tokens or in the audit log (AIP-158).

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::token::UserId;

/// Ample for a page token, which has 32 characters. Longer texts are refused without decoding them.
const MAX_LENGTH: usize = 64;

const CHECKSUM_BYTES: usize = 8;

/// What is wrong with a page token that cannot be decoded.
pub(super) const BAD: &str = "is not a next_page_token of this list; leave it empty for the first page";

/// Returns the page token of the page that begins below `id` in the list of `user`.
pub(super) fn encode(user: &UserId, id: Uuid) -> String {
    encode_cursor(TOKENS, Some(user), id.as_bytes())
}

/// Returns the cursor that `text` encodes, if it was issued for `user`.
pub(super) fn decode(user: &UserId, text: &str) -> Option<Uuid> {
    decode_cursor(TOKENS, Some(user), text).map(Uuid::from_bytes)
}

/// Returns the page token of the page that begins below the event `id` in the audit log, of `user` or of all users.
pub(super) fn encode_event(user: Option<&UserId>, id: i64) -> String {
    encode_cursor(EVENTS, user, &id.to_be_bytes())
}

/// Returns the cursor that `text` encodes, if it was issued for the same list.
pub(super) fn decode_event(user: Option<&UserId>, text: &str) -> Option<i64> {
    decode_cursor(EVENTS, user, text).map(i64::from_be_bytes)
}

/// The lists.
const TOKENS: &[u8] = b"latchkey page token 1";
const EVENTS: &[u8] = b"latchkey page of events 1";

fn encode_cursor(list: &[u8], user: Option<&UserId>, cursor: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode([cursor, &checksum(list, user, cursor)].concat())
}

fn decode_cursor<const N: usize>(list: &[u8], user: Option<&UserId>, text: &str) -> Option<[u8; N]> {
    if text.len() > MAX_LENGTH {
        return None;
    }
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    let (cursor, rest) = bytes.split_first_chunk()?;
    (rest == checksum(list, user, cursor)).then_some(*cursor)
}

/// Binds a cursor to its list. No key is needed: a forged page token lists nothing that its caller may not list anyway.
fn checksum(list: &[u8], user: Option<&UserId>, cursor: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Sha256::new()
        .chain_update(list)
        .chain_update(cursor)
        .chain_update(user.map_or("", UserId::as_str))
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
