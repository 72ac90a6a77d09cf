//! Protobuf messages and gRPC stubs, generated from `proto/` by build.rs.

/// `latchkey.v1`: the public API.
#[allow(missing_docs, clippy::all)]
pub mod latchkey {
    use std::fmt;

    tonic::include_proto!("latchkey.v1");

    impl fmt::Debug for CreateTokenResponse {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("CreateTokenResponse")
                .field("token", &self.token)
                .field("secret", &"[redacted]")
                .finish()
        }
    }

    impl fmt::Debug for ValidateTokenRequest {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("ValidateTokenRequest")
                .field("secret", &"[redacted]")
                .field("required_scopes", &self.required_scopes)
                .finish()
        }
    }
}

/// `identity.v1`: the account events that the identity provider publishes.
#[allow(missing_docs, clippy::all)]
pub mod identity {
    tonic::include_proto!("identity.v1");
}

/// The file descriptor set of both packages, for reflection.
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
