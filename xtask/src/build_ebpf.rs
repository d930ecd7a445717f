//! `cargo xtask build-ebpf`: the BPF object that `cri-resmgr` embeds.
//!
//! Two toolchains will do: Debian's rustc with its prebuilt `core` for BPF, or rustup's nightly with
//! `rust-src`. Both need `bpf-linker`. The object lands in `target/bpf/` and is never committed.

use crate::shell;
use anyhow::{Context as _, Result, bail};
use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "bpfel-unknown-none";
const OBJECT: &str = "cri-resmgr-ebpf";
/// The prebuilt `core` is named after the rustc it fits.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const MISSING: &str = "no toolchain for BPF found. Either of these will do:

  Debian (rustc with a prebuilt core):
    apt-get install rustc-web cargo-web libstd-rust-web-dev-bpf
  rustup (builds core itself):
    rustup toolchain install nightly --component rust-src";
const NO_LINKER: &str = "bpf-linker is not in PATH or in ~/.cargo/bin. Install it:

  with Debian's LLVM:
    apt-get install llvm-22-dev libpolly-22-dev
    LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --no-default-features --features llvm-22
  with its own:
    cargo install bpf-linker";

/// Stands before rustc. cargo has symbols of a package outside its workspace, as `common` is for `ebpf`, and of all that
/// uses it depend on the package's absolute folder: here they depend on the names alone.
const WRAPPER: &str = r#"#!/bin/sh
rustc=$1; shift
for argument; do
    shift
    case $CARGO_CRATE_NAME/$argument in
    resmgr_common/metadata=*|cri_resmgr_ebpf/metadata=*) argument=metadata=$CARGO_CRATE_NAME;;
    esac
    set -- "$@" "$argument"
done
exec "$rustc" "$@"
"#;

/// What compiles for BPF here.
#[derive(Debug)]
enum Toolchain {
    /// rustc with a prebuilt `core`, driven by the cargo that runs us.
    Prebuilt(PathBuf),
    /// rustup's nightly with the sources of `core`.
    Nightly,
}

/// Builds the product's object.
///
/// # Errors
/// When no toolchain is found, with what to install; when the build fails.
pub(crate) fn run() -> Result<()> {
    build(OBJECT, &[])
}

/// Builds the object whose parts can be switched off, for measurements.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_switchable() -> Result<()> {
    build(&format!("{OBJECT}-bench"), &["--features", "bench"])
}

fn build(name: &str, features: &[&str]) -> Result<()> {
    let linker = shell::find("bpf-linker").context(NO_LINKER)?;
    let toolchain = find_toolchain()?;
    shell::step(&format!("building the BPF object with {toolchain:?}"));
    let root = shell::root();
    let out = root.join("target/bpf");
    let mut cargo = match &toolchain {
        Toolchain::Prebuilt(rustc) => {
            let mut cargo = shell::cargo();
            // aya-ebpf uses an unstable feature; this rustc is not called nightly.
            cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
            cargo.arg("build");
            cargo
        }
        Toolchain::Nightly => {
            // rustup's proxy chooses the toolchain; what our own cargo put here would override it.
            let mut cargo = Command::new("cargo");
            for variable in ["RUSTC", "RUSTUP_TOOLCHAIN", "CARGO"] {
                cargo.env_remove(variable);
            }
            cargo.args(["+nightly", "build", "-Z", "build-std=core"]);
            cargo
        }
    };
    let [source, cargo_home] =
        shell::replaced_paths()?.map(|(from, to)| format!("--remap-path-prefix={from}={to}"));
    let wrapper = out.join("rustc-wrapper");
    std::fs::create_dir_all(&out)?;
    std::fs::write(&wrapper, WRAPPER)?;
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755))?;
    cargo
        .current_dir(root.join("ebpf"))
        .env("RUSTC_WRAPPER", wrapper)
        // Flags of the target alone: build scripts and macros run on this machine.
        .env(
            "CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS",
            format!(
                "-C linker={} -C link-arg=--btf -C target-cpu=v3 -C debuginfo=2 -C panic=abort \
                 {source} {cargo_home}",
                linker.display()
            ),
        )
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .args(features)
        .args(["--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(out.join("build"));
    shell::run(&mut cargo)?;
    let built = out.join("build").join(TARGET).join("release").join(OBJECT);
    let object = out.join(format!("{name}.o"));
    let content =
        std::fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    // What embeds it is built again when the file is newer.
    if std::fs::read(&object).ok().as_ref() != Some(&content) {
        std::fs::write(&object, content)
            .with_context(|| format!("cannot write {}", object.display()))?;
    }
    shell::step(&format!("{}", object.display()));
    Ok(())
}

fn find_toolchain() -> Result<Toolchain> {
    let debian = Path::new(DEBIAN_RUSTC);
    if debian.is_file() && sysroot(Command::new(debian)).is_some_and(|root| has_core(&root)) {
        return Ok(Toolchain::Prebuilt(debian.to_path_buf()));
    }
    let mut nightly = Command::new("rustup");
    nightly.args(["run", "nightly", "rustc"]);
    if sysroot(nightly).is_some_and(|root| root.join("lib/rustlib/src/rust/library/core").is_dir())
    {
        return Ok(Toolchain::Nightly);
    }
    bail!(MISSING)
}

/// `rustc --print sysroot`; `None` when this rustc does not run.
fn sysroot(mut rustc: Command) -> Option<PathBuf> {
    let output = rustc.args(["--print", "sysroot"]).output().ok()?;
    output
        .status
        .success()
        .then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

fn has_core(sysroot: &Path) -> bool {
    sysroot
        .join("lib/rustlib")
        .join(TARGET)
        .join("lib")
        .is_dir()
}
