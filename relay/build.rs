//! Finds the BPF object that `cargo xtask build-ebpf` made, so that it can be embedded.
//!
//! Without it the build goes on: telemetry then says at run time what is missing. With the feature `bench`, the
//! object of `cargo xtask bench telemetry` is embedded beside it.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

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
    let built = required("CARGO_MANIFEST_DIR")?.join("../target/bpf");
    let out = required("OUT_DIR")?;
    let object =
        env::var_os(OVERRIDE).map_or_else(|| built.join("cri-resmgr-ebpf.o"), PathBuf::from);
    let bytes = match read(&object) {
        Ok(bytes) => bytes,
        Err(error) if env::var_os(OVERRIDE).is_some() => {
            let why = format!("{OVERRIDE}={}: {error}", object.display());
            return Err(io::Error::new(error.kind(), why));
        }
        Err(_) => {
            println!(
                "cargo::warning=no BPF object: telemetry will be off. Run `cargo xtask build-ebpf`, \
                 or build with --no-default-features"
            );
            Vec::new()
        }
    };
    fs::write(out.join("cri-resmgr-ebpf.o"), bytes)?;
    if env::var_os("CARGO_FEATURE_BENCH").is_some() {
        let name = "cri-resmgr-ebpf-bench.o";
        // Only `cargo xtask bench telemetry` needs it, and builds it first.
        fs::write(out.join(name), read(&built.join(name)).unwrap_or_default())?;
    }
    Ok(())
}

fn read(object: &Path) -> io::Result<Vec<u8>> {
    println!("cargo::rerun-if-changed={}", object.display());
    fs::read(object)
}
