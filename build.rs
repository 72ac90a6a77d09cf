//! Compiles `proto/` in pure Rust, so that no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

use protox::prost::Message as _;

const PROTOS: [&str; 2] = ["latchkey/v1/token_service.proto", "identity/v1/user_events.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Both messages carry a secret: their Debug is written by hand, redacted.
        .skip_debug([".latchkey.v1.CreateTokenResponse", ".latchkey.v1.ValidateTokenRequest"])
        .compile_fds(descriptors)?;
    Ok(())
}
