//! Saying that a test could not run here, and why; the test command repeats it at the end.

use std::io::Write as _;

/// What a line about a skip begins with.
pub(crate) const WORD: &str = "SKIPPED ";

/// Notes that the test `what` is skipped because of `why`.
#[expect(clippy::print_stderr, reason = "a skip must be seen")]
pub fn skip(what: &str, why: &str) {
    eprintln!("{WORD}{what}: {why}");
    let Some(file) = std::env::var_os("RESMGR_SKIPPED") else {
        return;
    };
    let noted = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(file)
        .and_then(|mut file| writeln!(file, "{what}: {why}"));
    if let Err(error) = noted {
        eprintln!("cannot note the skip of {what}: {error}");
    }
}

/// Why tests with a real runtime cannot run here, if so.
#[must_use]
pub fn no_runtime() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".into());
    }
    ["containerd", "runc", "ctr", "tar"]
        .into_iter()
        .find(|program| crate::installed(program).is_none())
        .map(|program| format!("{program} is not installed"))
        .or_else(|| {
            (!std::path::Path::new("/bin/busybox").exists()).then(|| "no /bin/busybox".into())
        })
}

/// Why tests with the relay cannot run here, if so.
#[must_use]
pub fn no_relay() -> Option<String> {
    no_runtime().or_else(|| {
        let Some(program) = crate::built("cri-resmgr") else {
            return Some("cri-resmgr is not built: cargo build --bins".into());
        };
        let answered = std::process::Command::new(program)
            .arg("--version")
            .output()
            .is_ok_and(|output| output.stdout.starts_with(b"cri-resmgr"));
        (!answered).then(|| "this build of cri-resmgr does not answer --version".into())
    })
}
