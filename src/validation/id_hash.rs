//! Hashes the ids of tokens.

use std::hash::{BuildHasherDefault, Hasher};

/// Makes [`IdHasher`]s for maps whose keys are ids of tokens.
pub(super) type HashId = BuildHasherDefault<IdHasher>;

/// Takes the hash from the random end of a UUIDv7. That is a third of the price of the standard library's SipHash, which
/// protects maps whose keys an attacker chooses. This one is for maps that hold only ids of stored tokens: the service
/// drew their random bits. An attacker can ask for any id, but that puts nothing into the map.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IdHasher(u64);

/// An odd number without pattern (2^64 divided by the golden ratio). The product spreads what is random in an id over
/// the upper bits, which hash tables use too.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(end) = bytes.last_chunk() {
            self.0 = u64::from_be_bytes(*end).wrapping_mul(SPREAD);
        }
    }

    /// Ignores the length, which is the same for all ids.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        hash::{BuildHasher as _, Hash as _},
    };

    use uuid::Uuid;

    use super::*;

    #[test]
    fn ids_of_the_same_millisecond_are_spread_over_all_bits_of_the_hash() {
        const IDS: usize = 4_096;
        let hashes: Vec<u64> = (0..IDS).map(|_| HashId::default().hash_one(Uuid::now_v7())).collect();
        // Tables use the upper and the lower bits, the cache also those in the middle.
        for shift in [0, 26, 57] {
            let parts: HashSet<u64> = hashes.iter().map(|hash| hash >> shift & 0x7f).collect();
            assert_eq!(parts.len(), 128, "from bit {shift}");
        }
        assert_eq!(hashes.iter().collect::<HashSet<_>>().len(), IDS);
    }

    /// [`IdHasher::write`] relies on it.
    #[test]
    fn an_id_is_hashed_in_one_piece() {
        let id = Uuid::now_v7();
        let (mut whole, mut alone) = (IdHasher::default(), IdHasher::default());
        id.hash(&mut whole);
        alone.write(id.as_bytes());
        assert_eq!(whole.finish(), alone.finish());
        assert_ne!(whole.finish(), 0);
    }
}
