//! An image of one static busybox, made here: no registry is asked.

use anyhow::{Context, Result, bail};
use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

const APPLETS: [&str; 14] = [
    "sh", "sleep", "true", "false", "cat", "echo", "yes", "dd", "nice", "env", "kill", "taskset",
    "seq", "wc",
];

/// Builds the archive in `folder`, in the format of `docker save`.
pub(super) fn build(folder: &Path) -> Result<PathBuf> {
    let work = folder.join("image");
    let root = work.join("root");
    for name in ["bin", "tmp", "proc", "sys", "dev", "etc"] {
        std::fs::create_dir_all(root.join(name))?;
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
    std::fs::write(root.join("etc/group"), "root:x:0:\n")?;
    run(Command::new("tar")
        .args(["--owner=0", "--group=0", "-cf"])
        .arg(work.join("layer.tar"))
        .arg("-C")
        .arg(&root)
        .arg("."))?;
    let digest = run(Command::new("sha256sum").arg(work.join("layer.tar")))?;
    let digest = digest.split_whitespace().next().context("no digest")?;
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let config = serde_json::json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Env": ["PATH=/bin"],
            "Entrypoint": ["/bin/sleep", "100000000"],
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        "history": [{ "created_by": "resmgr-tests" }],
    });
    let manifest = serde_json::json!([{
        "Config": "config.json",
        "RepoTags": [super::IMAGE, super::PAUSE],
        "Layers": ["layer.tar"],
    }]);
    std::fs::write(work.join("config.json"), config.to_string())?;
    std::fs::write(work.join("manifest.json"), manifest.to_string())?;
    let archive = folder.join("image.tar");
    run(Command::new("tar")
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(&work)
        .args(["manifest.json", "config.json", "layer.tar"]))?;
    std::fs::remove_dir_all(&work)?;
    Ok(archive)
}

fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!(
            "{:?}: {}",
            command.get_program(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
