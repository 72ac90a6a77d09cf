//! What is stored in place of a secret, and how a secret is verified against it: an argon2id hash, which needs no key, and
//! a keyed tag, which is fast.

mod argon2_memory;
mod argon2id;
mod key_ring;
mod key_ring_file;
mod verifier;

pub use self::{
    argon2id::{HashError, HashLimits, Hasher, SecretHash},
    key_ring::{KeyId, KeyRing, KeyRingError, Tag},
    key_ring_file::{KeyRingFile, RotationError},
    verifier::{SecretVerifier, Verification},
};
