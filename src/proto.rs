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

/// What API gateways ask with: the part of Envoy's API that is used here.
#[allow(missing_docs, clippy::all)]
pub mod envoy {
    /// `envoy.service.auth.v3`: external authorization.
    pub mod service {
        pub mod auth {
            pub mod v3 {
                tonic::include_proto!("envoy.service.auth.v3");

                impl std::fmt::Debug for attribute_context::HttpRequest {
                    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.debug_struct("HttpRequest").finish_non_exhaustive()
                    }
                }
            }
        }
    }

    /// `envoy.config.core.v3`: headers.
    pub mod config {
        pub mod core {
            pub mod v3 {
                tonic::include_proto!("envoy.config.core.v3");

                impl std::fmt::Debug for HeaderValue {
                    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.debug_struct("HeaderValue").field("key", &self.key).finish_non_exhaustive()
                    }
                }
            }
        }
    }

    /// `envoy.type.v3`: statuses of HTTP.
    pub mod r#type {
        pub mod v3 {
            tonic::include_proto!("envoy.r#type.v3");
        }
    }
}

/// The file descriptor set of all packages, for reflection.
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
