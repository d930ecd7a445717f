//! The table of what is needed, what for, and what proves that it is there.

use crate::shell::find;
use std::path::Path;

/// What the set-up is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Stage {
    /// Build the workspace and the BPF object.
    Build,
    /// Run the demo: a container runtime.
    Run,
    /// Run every test: virtual machines, peers to measure against.
    Test,
    /// Build and check the release: compilers of static programs, Debian's judges of packages.
    Dist,
}

impl Stage {
    /// Whether this stage needs what `part` needs: a test needs all that a demo needs, a release what a build needs.
    pub(crate) fn includes(self, part: Self) -> bool {
        match self {
            Self::Dist => matches!(part, Self::Build | Self::Dist),
            Self::Build | Self::Run | Self::Test => part <= self,
        }
    }
}

/// What shows that a thing is there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Proof {
    /// A program in `PATH`.
    Program(&'static str),
    /// A file or folder.
    File(&'static str),
    /// A library that pkg-config knows; looked for where Debian keeps such files.
    Library(&'static str),
    /// Never true where the named toolchain file is missing and rustup's is too.
    Toolchain(&'static str),
}

/// A Debian package.
#[derive(Debug)]
pub(crate) struct Need {
    pub(crate) package: &'static str,
    pub(crate) proof: Proof,
    pub(crate) stage: Stage,
    pub(crate) why: &'static str,
    /// Whether the rest works without it, telling what it skips.
    pub(crate) optional: bool,
}

/// A program that cargo builds from source.
#[derive(Debug)]
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    pub(crate) arguments: &'static [&'static str],
    pub(crate) environment: &'static [(&'static str, &'static str)],
    pub(crate) stage: Stage,
    pub(crate) why: &'static str,
}

const fn need(package: &'static str, proof: Proof, stage: Stage, why: &'static str) -> Need {
    Need {
        package,
        proof,
        stage,
        why,
        optional: false,
    }
}

const fn optional(package: &'static str, proof: Proof, stage: Stage, why: &'static str) -> Need {
    Need {
        package,
        proof,
        stage,
        why,
        optional: true,
    }
}

use Proof::{File, Library, Program, Toolchain};
use Stage::{Build, Dist, Run, Test};

/// Rust's targets of the static programs.
pub(crate) const STATIC_TARGETS: [&str; 2] =
    ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"];

/// Debian packages, in the order in which they are shown.
pub(crate) const PACKAGES: &[Need] = &[
    need(
        "build-essential",
        Program("cc"),
        Build,
        "C compiler and linker",
    ),
    need(
        "pkg-config",
        Program("pkg-config"),
        Build,
        "finds C libraries",
    ),
    need(
        "protobuf-compiler",
        Program("protoc"),
        Build,
        "compiles CRI's .proto files",
    ),
    need(
        "libhwloc-dev",
        Library("hwloc"),
        Build,
        "discovers the CPU topology",
    ),
    need("libudev-dev", Library("libudev"), Build, "needed by hwloc"),
    optional(
        "rustc-web",
        Toolchain("/usr/bin/rustc"),
        Build,
        "rustc for the BPF program",
    ),
    optional(
        "cargo-web",
        Toolchain("/usr/bin/cargo"),
        Build,
        "cargo for the BPF program",
    ),
    optional(
        "libstd-rust-web-dev-bpf",
        Toolchain("/usr/lib/rustlib/bpfel-unknown-none"),
        Build,
        "Rust's core library for BPF",
    ),
    optional(
        "llvm-22-dev",
        File("/usr/lib/llvm-22/bin/llvm-config"),
        Build,
        "LLVM for bpf-linker",
    ),
    optional(
        "libpolly-22-dev",
        File("/usr/lib/llvm-22/lib/libPolly.a"),
        Build,
        "LLVM for bpf-linker",
    ),
    optional("zlib1g-dev", Library("zlib"), Build, "LLVM for bpf-linker"),
    need(
        "containerd",
        Program("containerd"),
        Run,
        "the container runtime behind the relay",
    ),
    need("runc", Program("runc"), Run, "starts the containers"),
    need(
        "busybox-static",
        File("/bin/busybox"),
        Run,
        "the content of the demo's image",
    ),
    optional(
        "hwloc-nox",
        Program("lstopo-no-graphics"),
        Run,
        "shows the machine's topology",
    ),
    optional(
        "socat",
        Program("socat"),
        Test,
        "the byte copier to compare the relay with",
    ),
    optional(
        "qemu-system-x86",
        Program("qemu-system-x86_64"),
        Test,
        "two-socket NUMA guests",
    ),
    optional(
        "qemu-system-common",
        File("/usr/lib/qemu/virtiofsd"),
        Test,
        "the guests' file system",
    ),
    optional(
        "bpftool",
        Program("bpftool"),
        Test,
        "reads the cost of BPF programs",
    ),
    optional(
        "libbpf-tools",
        Program("runqlat"),
        Test,
        "a peer to measure telemetry against",
    ),
    optional(
        "linux-perf",
        Program("perf"),
        Test,
        "perf bench: switch-heavy loads",
    ),
    optional(
        "stress-ng",
        Program("stress-ng"),
        Test,
        "loads for the telemetry tests",
    ),
    optional("crun", Program("crun"), Test, "a second low-level runtime"),
    optional(
        "etcd-server",
        Program("etcd"),
        Test,
        "under the real kube-apiserver of the agent's tests",
    ),
    optional(
        "openssl",
        Program("openssl"),
        Test,
        "keys for the kube-apiserver",
    ),
    optional(
        "chromium",
        Program("chromium"),
        Test,
        "looks at the status page",
    ),
    // Debian's package owns the same file as other vendors' kubectl: only when there is none at all.
    optional(
        "kubernetes-client",
        Program("kubectl"),
        Test,
        "kubectl for the agent's tests",
    ),
    optional(
        "golang-go",
        Program("go"),
        Test,
        "builds the API server and the kubelet of the tests",
    ),
    optional(
        "musl-dev:amd64",
        Program("x86_64-linux-musl-gcc"),
        Dist,
        "C compiler and library of static programs for amd64",
    ),
    optional(
        "musl-dev:arm64",
        Program("aarch64-linux-musl-gcc"),
        Dist,
        "C compiler and library of static programs for arm64",
    ),
    optional(
        "qemu-user",
        Program("qemu-aarch64"),
        Dist,
        "starts the programs for arm64",
    ),
    optional(
        "lintian",
        Program("lintian"),
        Dist,
        "judges the Debian package",
    ),
    optional(
        "mmdebstrap",
        Program("mmdebstrap"),
        Dist,
        "a fresh Debian, to install the package in",
    ),
    optional(
        "skopeo",
        Program("skopeo"),
        Dist,
        "reads the images as a client of registries does",
    ),
];

/// Programs built by `cargo install`.
pub(crate) const CARGO: &[Tool] = &[
    Tool {
        program: "bpf-linker",
        arguments: &[
            "bpf-linker",
            "--no-default-features",
            "--features",
            "llvm-22",
        ],
        environment: &[("LLVM_PREFIX", "/usr/lib/llvm-22")],
        stage: Build,
        why: "links the BPF program; about two minutes, once",
    },
    Tool {
        program: "cargo-deny",
        arguments: &["cargo-deny", "--locked"],
        environment: &[],
        stage: Test,
        why: "checks licences, sources and duplicates; some minutes, once",
    },
];

/// Whether the thing is there.
pub(crate) fn present(proof: Proof) -> bool {
    match proof {
        Program(name) => find(name).is_some(),
        File(path) => Path::new(path).exists(),
        Library(name) => library(name),
        Toolchain(path) => Path::new(path).exists(),
    }
}

fn library(name: &str) -> bool {
    let file = format!("{name}.pc");
    let mut folders = vec![
        "/usr/lib/pkgconfig".to_owned(),
        "/usr/share/pkgconfig".to_owned(),
        "/usr/local/lib/pkgconfig".to_owned(),
        "/usr/lib64/pkgconfig".to_owned(),
    ];
    folders.push(format!(
        "/usr/lib/{}-linux-gnu/pkgconfig",
        std::env::consts::ARCH
    ));
    folders
        .iter()
        .any(|folder| Path::new(folder).join(&file).exists())
}
