//! Ids that vouch for themselves: the last 32 bits of a token's id are a truncated HMAC-SHA-256 of the other 96.
//!
//! Whoever does not have the key can make up an id of the right form, but not one that a key vouches for. So a lookup for
//! an id that was never issued is recognised before the database is asked. The id stays a UUIDv7 (RFC 9562): the check
//! replaces bits that were random. It decides only which lookups go first, never whether a token is good.

use hmac::{Hmac, KeyInit as _, Mac as _, digest::InvalidLength};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;
use zeroize::Zeroizing;

/// Separates this use of a ring's key from the tags, whose input is always 32 bytes long.
const LABEL: &[u8] = b"latchkey.token-id-check.v1";
const _: () = assert!(LABEL.len() != 32);

/// Where the check begins in an id. The bits before it are the time, version and variant, and the counter and random bits
/// that keep ids unique and in order.
const CHECKED_BYTES: usize = 12;

/// A key that vouches for ids, derived from a key of the ring.
pub(super) struct IdKey(Hmac<Sha256>);

impl IdKey {
    /// Derives the key from the one that makes the tags.
    pub(super) fn derive(tags: &Hmac<Sha256>) -> Result<Self, InvalidLength> {
        let key = Zeroizing::new(tags.clone().chain_update(LABEL).finalize().into_bytes().into());
        let key: &[u8; 32] = &key;
        Hmac::new_from_slice(key).map(Self)
    }

    /// Returns `id` with its last 32 bits replaced by the check.
    pub(super) fn vouch(&self, id: Uuid) -> Uuid {
        let mut bytes = id.into_bytes();
        let check = self.check(&bytes);
        bytes[CHECKED_BYTES..].copy_from_slice(&check);
        Uuid::from_bytes(bytes)
    }

    /// Returns whether this key vouches for `id`, compared in constant time.
    pub(super) fn vouches_for(&self, id: Uuid) -> bool {
        self.check(id.as_bytes()).ct_eq(&id.as_bytes()[CHECKED_BYTES..]).into()
    }

    fn check(&self, id: &[u8; 16]) -> [u8; 16 - CHECKED_BYTES] {
        let mac: [u8; 32] = self.0.clone().chain_update(&id[..CHECKED_BYTES]).finalize().into_bytes().into();
        [mac[0], mac[1], mac[2], mac[3]]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Variant;

    use super::{
        super::{KeyRing, key_ring_format::Keys},
        *,
    };

    const A: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    const B: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    fn ring(primary: &str, keys: &[(&str, &str)]) -> KeyRing {
        let keys: String = keys.iter().map(|(id, key)| format!("{id} = \"{key}\"\n")).collect();
        KeyRing::from_keys(Keys::parse(&format!("primary = \"{primary}\"\n[keys]\n{keys}")).unwrap()).unwrap()
    }

    /// The time, version, variant and counter of an id stay; only its last 32 bits are the check.
    #[test]
    fn every_generated_id_is_a_uuidv7_in_order_that_its_ring_vouches_for() {
        let ring = ring("a", &[("a", A), ("b", B)]);
        let ids: Vec<Uuid> = (0..10_000).map(|_| ring.generate().unwrap().id()).collect();
        assert!(ids.is_sorted(), "ids sort by time");
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]));
        for id in &ids {
            assert_eq!((id.get_version_num(), id.get_variant()), (7, Variant::RFC4122), "{id}");
            assert!(ring.vouches_for(*id), "{id}");
        }
    }

    #[test]
    fn an_id_is_vouched_for_until_its_key_is_retired() {
        let (old, both, new) =
            (ring("a", &[("a", A)]), ring("b", &[("a", A), ("b", B)]), ring("b", &[("b", B)]));
        let (before, after) = (old.generate().unwrap().id(), both.generate().unwrap().id());
        assert_eq!([&old, &both, &new].map(|ring| ring.vouches_for(before)), [true, true, false]);
        assert_eq!([&old, &both, &new].map(|ring| ring.vouches_for(after)), [false, true, true]);
        let none = KeyRing::empty();
        assert!(!none.vouches_for(before) && !both.vouches_for(none.generate().unwrap().id()));
    }

    #[test]
    fn the_check_of_an_id_never_changes() {
        let id = Uuid::from_u128(0x0193_5af2_0000_7000_8000_0000_0000_0001);
        let vouched = IdKey::derive(&Hmac::new_from_slice(&[0; 32]).unwrap()).unwrap().vouch(id);
        assert_eq!(vouched.to_string(), "01935af2-0000-7000-8000-000022838968");
    }

    proptest! {
        #[test]
        fn a_random_id_is_not_vouched_for(id: u128) {
            prop_assert!(!ring("a", &[("a", A), ("b", B)]).vouches_for(Uuid::from_u128(id)));
        }

        #[test]
        fn an_id_with_one_bit_changed_is_not_vouched_for(bit in 0..128_u32) {
            let ring = ring("a", &[("a", A), ("b", B)]);
            let id = ring.generate().unwrap().id();
            prop_assert!(!ring.vouches_for(Uuid::from_u128(id.as_u128() ^ 1 << bit)));
        }
    }
}
