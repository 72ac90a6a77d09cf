//! What is stored in place of a secret, and how a secret is verified against it: an argon2id hash, which needs no key,
//! and a keyed tag, which is fast. The keys of the tags also vouch for the ids of tokens.

mod argon2_memory;
mod argon2id;
mod atomic_file;
mod id_key;
mod key_ring;
mod key_ring_file;
mod key_ring_format;
mod phc;
mod verifier;

pub use self::{
    argon2id::{HashError, HashLimits, Hasher},
    key_ring::{KeyId, KeyRing, KeyRingError, Tag},
    key_ring_file::{KeyRingFile, RotationError},
    phc::SecretHash,
    verifier::{SecretVerifier, Verification},
};
