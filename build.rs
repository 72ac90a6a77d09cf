//! Compiles `proto/` in pure Rust, so that no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

use protox::{
    prost::Message as _,
    prost_reflect::prost_types::{FileDescriptorSet, field_descriptor_proto::Type},
};

const PROTOS: [&str; 2] = ["latchkey/v1/token_service.proto", "identity/v1/user_events.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut descriptors = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    take_any_secret(&mut descriptors);
    tonic_prost_build::configure()
        // Both messages carry a secret: their Debug is written by hand, redacted.
        .skip_debug([".latchkey.v1.CreateTokenResponse", ".latchkey.v1.ValidateTokenRequest"])
        .compile_fds(descriptors)?;
    Ok(())
}

/// Makes `ValidateTokenRequest.secret` bytes in the generated code. It is a string in the API, and the two have the same
/// wire format; but prost refuses a message with a string that is not UTF-8, where the answer has to be MALFORMED.
fn take_any_secret(descriptors: &mut FileDescriptorSet) {
    let messages = descriptors.file.iter_mut().flat_map(|file| &mut file.message_type);
    let requests = messages.filter(|message| message.name() == "ValidateTokenRequest");
    for field in requests.flat_map(|request| &mut request.field).filter(|field| field.name() == "secret") {
        field.set_type(Type::Bytes);
    }
}
