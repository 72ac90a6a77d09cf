//! Compiles `proto/` in pure Rust, so that the build needs no protoc.

use std::{env, error::Error, fs, path::PathBuf};

use protox::{
    prost::Message as _,
    prost_reflect::prost_types::{FileDescriptorSet, field_descriptor_proto::Type},
};

const PROTOS: [&str; 4] = [
    "latchkey/v1/token_service.proto",
    "latchkey/v1/audit_service.proto",
    "identity/v1/user_events.proto",
    "envoy/service/auth/v3/external_auth.proto",
];

/// Messages with a bearer token. src/proto.rs implements Debug for them, redacted.
const SECRET: [&str; 4] = [
    ".latchkey.v1.CreateTokenResponse",
    ".latchkey.v1.ValidateTokenRequest",
    ".envoy.service.auth.v3.AttributeContext.HttpRequest",
    ".envoy.config.core.v3.HeaderValue",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut descriptors = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    accept_any_bytes(&mut descriptors);
    tonic_prost_build::configure()
        .skip_debug(SECRET)
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(descriptors)?;
    Ok(())
}

/// Changes the type of `ValidateTokenRequest.secret` from string to bytes, in the generated code only; both have the
/// same wire format. prost refuses a message with a string that is not UTF-8, but the answer must be MALFORMED.
fn accept_any_bytes(descriptors: &mut FileDescriptorSet) {
    let messages = descriptors.file.iter_mut().flat_map(|file| &mut file.message_type);
    let requests = messages.filter(|message| message.name() == "ValidateTokenRequest");
    for field in requests.flat_map(|request| &mut request.field).filter(|field| field.name() == "secret") {
        field.set_type(Type::Bytes);
    }
}
