//! Finds the BPF object that `cargo xtask build-ebpf` made, so that it can be embedded.
//!
//! Without it the build goes on: telemetry then says at run time what is missing.

use std::{env, fs, io, path::PathBuf};

const OVERRIDE: &str = "CRI_RESMGR_EBPF_OBJECT";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    if env::var_os("CARGO_FEATURE_EBPF").is_none() {
        return Ok(());
    }
    let required = |name: &str| {
        env::var_os(name)
            .map(PathBuf::from)
            .ok_or_else(|| io::Error::other(format!("no {name}")))
    };
    let object = match env::var_os(OVERRIDE) {
        Some(path) => PathBuf::from(path),
        None => required("CARGO_MANIFEST_DIR")?.join("../target/bpf/cri-resmgr-ebpf.o"),
    };
    println!("cargo::rerun-if-changed={}", object.display());
    let embedded = required("OUT_DIR")?.join("cri-resmgr-ebpf.o");
    match fs::read(&object) {
        Ok(bytes) => fs::write(embedded, bytes),
        Err(_) if env::var_os(OVERRIDE).is_none() => {
            println!(
                "cargo::warning=no BPF object: telemetry will be off. Run `cargo xtask build-ebpf`, \
                 or build with --no-default-features"
            );
            fs::write(embedded, [])
        }
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("{OVERRIDE}={}: {error}", object.display()),
        )),
    }
}
