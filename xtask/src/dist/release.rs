//! What all artefacts share: version, times, the files to be packed.

use crate::{
    setup,
    shell::{find, output, root},
};
use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What is handed out.
pub(super) const PROGRAMS: [&str; 3] = ["cri-resmgr", "cri-resmgr-agent", "cri-resmgr-webhook"];

/// An architecture, by its names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Architecture {
    pub(super) rust: &'static str,
    /// In Go, OCI and Debian.
    pub(super) name: &'static str,
}

/// Those that programs are built for.
pub(super) const ARCHITECTURES: [Architecture; 2] = [
    Architecture {
        rust: "x86_64",
        name: "amd64",
    },
    Architecture {
        rust: "aarch64",
        name: "arm64",
    },
];

/// The name of the file of checksums.
pub(super) const SUMS: &str = "SHA256SUMS";

impl Architecture {
    /// Whether its programs run on this machine.
    pub(super) fn is_native(self) -> bool {
        std::env::consts::ARCH == self.rust
    }

    /// Rust's target of static programs.
    pub(super) fn musl(self) -> String {
        format!("{}-unknown-linux-musl", self.rust)
    }

    /// Rust's target of programs linked with glibc.
    pub(super) fn gnu(self) -> String {
        format!("{}-unknown-linux-gnu", self.rust)
    }

    /// The C compiler of static programs: Debian's gcc with musl's headers and libraries.
    pub(super) fn musl_compiler(self) -> String {
        format!("{}-linux-musl-gcc", self.rust)
    }

    /// Where the target or the compiler is missing, nothing static is built for it.
    pub(super) fn can_be_static(self) -> bool {
        setup::has_target(&self.musl()) && find(&self.musl_compiler()).is_some()
    }
}

/// What all artefacts share.
#[derive(Debug)]
pub(super) struct Release {
    pub(super) version: String,
    /// The commit, with `-dirty` when the work tree differs.
    pub(super) commit: String,
    /// Seconds since 1970 that stand in all archives.
    pub(super) epoch: u64,
    pub(super) out: PathBuf,
}

impl Release {
    /// That of the commit checked out.
    pub(super) fn new() -> Result<Self> {
        let git = |words: &[&str]| -> Result<String> {
            let text = output(Command::new("git").args(words).current_dir(root()))?;
            Ok(text.trim().to_owned())
        };
        let mut commit = git(&["rev-parse", "HEAD"])?;
        if !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty() {
            commit += "-dirty";
        }
        let epoch = match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(text) => text,
            Err(_unset) => git(&["log", "-1", "--format=%ct"])?,
        };
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit,
            epoch: epoch.parse().context("SOURCE_DATE_EPOCH")?,
            out: root().join("target/dist/out"),
        })
    }

    /// What the names of its files begin with.
    pub(super) fn name(&self) -> String {
        format!("cri-resmgr-{}", self.version)
    }
}

/// A file to be packed: its path there, its content, whether it is a program.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    pub(super) path: String,
    pub(super) content: Vec<u8>,
    pub(super) program: bool,
}

impl Packed {
    /// For tar.
    pub(super) fn mode(&self) -> u32 {
        if self.program { 0o755 } else { 0o644 }
    }
}

/// The programs, at their places below `usr`.
pub(super) fn packed_programs(programs: &Path) -> Result<Vec<Packed>> {
    let packed = PROGRAMS.map(|name| {
        let file = programs.join(name);
        let content = fs::read(&file).with_context(|| file.display().to_string())?;
        Ok(Packed {
            path: format!("bin/{name}"),
            content,
            program: true,
        })
    });
    packed.into_iter().collect()
}

/// A file of the repository, to be packed at `path`.
pub(super) fn packed_file(from: &str, path: &str) -> Result<Packed> {
    Ok(Packed {
        path: path.to_owned(),
        content: fs::read(root().join(from)).with_context(|| from.to_owned())?,
        program: false,
    })
}

/// In hexadecimal digits.
pub(super) fn sha256(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect()
}
