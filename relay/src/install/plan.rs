//! Which files an installation changes, and to what. Pure but for reading them.

use super::{
    change::FileChange,
    error::InstallError,
    host::Files,
    kubelet::{KubeletSetup, same_socket},
};
use regex::Regex;
use std::path::{Path, PathBuf};

/// The option file that the service reads.
pub const OPTION_FILE: &str = "/etc/cri-resmgr/cri-resmgr.conf";

const SERVICE: &str = include_str!("../../../deploy/systemd/cri-resmgr.service");
const SOCKET: &str = include_str!("../../../deploy/systemd/cri-resmgr.socket");
/// What the service starts, in `deploy/systemd` and in a package.
pub const PACKAGED_PROGRAM: &str = "/usr/bin/cri-resmgr";
const PACKAGED_UNIT: &str = "/usr/lib/systemd/system/cri-resmgr.service";
const UNIT_FOLDER: &str = "/etc/systemd/system";
/// The runtime that cri-resmgr uses unless told otherwise.
const DEFAULT_RUNTIME: &str = "/run/containerd/containerd.sock";

/// What the user wants.
#[derive(Clone, Debug)]
pub struct InstallOptions {
    /// The folder for the program.
    pub prefix: PathBuf,
    /// The program itself.
    pub program: Vec<u8>,
    /// The kubelet's unit; found when not given.
    pub kubelet: Option<String>,
    /// Take an installation that exists to this version.
    pub upgrade: bool,
    /// What [`OPTION_FILE`] shall say beside the runtime's socket; kept as it is when not given.
    pub option_file: Option<String>,
}

/// All that an installation changes in files.
#[derive(Clone, Debug)]
pub struct InstallPlan {
    /// The kubelet, as it is now.
    pub kubelet: KubeletSetup,
    /// The runtime's socket.
    pub runtime: PathBuf,
    /// Files of ours.
    pub own: Vec<FileChange>,
    /// Files of the kubelet.
    pub of_kubelet: Vec<FileChange>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Plans an installation on a node with `files`. `runtime` is the runtime's socket when it is known from an earlier
/// installation.
///
/// # Errors
/// Why this node cannot be installed.
pub fn plan(
    files: &dyn Files,
    options: &InstallOptions,
    runtime: Option<&Path>,
) -> Result<InstallPlan, InstallError> {
    let kubelet = KubeletSetup::find(files, options.kubelet.as_deref())?;
    let (runtime, of_kubelet) = match (kubelet.is_relayed(), runtime) {
        (false, _) => (kubelet.socket.clone(), kubelet.relayed(files)?),
        (true, Some(runtime)) => (runtime.to_owned(), Vec::new()),
        (true, None) => {
            return Err(InstallError::PointedAlready {
                unit: kubelet.unit,
                path: kubelet.socket,
            });
        }
    };
    let mut notes = Vec::new();
    let mut own = Vec::new();
    let program = options.prefix.join("cri-resmgr");
    let packaged =
        program == Path::new(PACKAGED_PROGRAM) && files.read(Path::new(PACKAGED_UNIT))?.is_some();
    let mut file = |path: PathBuf, after: Vec<u8>, mode| -> Result<(), InstallError> {
        let before = files.read(&path)?;
        if before.as_ref() != Some(&after) {
            own.push(FileChange {
                path,
                before,
                after,
                mode,
                of_kubelet: false,
            });
        }
        Ok(())
    };
    if packaged {
        notes.push(format!(
            "program and units are those of the package ({PACKAGED_UNIT})"
        ));
    } else {
        let service = SERVICE.replace(PACKAGED_PROGRAM, &program.display().to_string());
        file(program, options.program.clone(), 0o755)?;
        let folder = Path::new(UNIT_FOLDER);
        file(
            folder.join("cri-resmgr.service"),
            service.into_bytes(),
            0o644,
        )?;
        file(
            folder.join("cri-resmgr.socket"),
            SOCKET.as_bytes().to_vec(),
            0o644,
        )?;
    }
    match (files.read(Path::new(OPTION_FILE))?, &options.option_file) {
        (_, Some(given)) => {
            let text = format!(
                "# Written by `cri-resmgr install --option-file`, which replaces what is changed here.\n\
                 runtime-socket = {}\n{given}",
                runtime.display()
            );
            check_runtime(&text, &runtime)?;
            file(OPTION_FILE.into(), text.into_bytes(), 0o644)?;
        }
        (Some(text), None) => {
            check_runtime(&String::from_utf8_lossy(&text), &runtime)?;
            notes.push(format!("{OPTION_FILE} is kept as it is"));
        }
        (None, None) => {
            let text = format!(
                "# Options of cri-resmgr: `cri-resmgr --help` explains each. Written by `cri-resmgr install`.\n\
                 runtime-socket = {}\n\
                 # With null all calls pass as they are; `systemctl restart cri-resmgr` after a change.\n\
                 policy = null\n",
                runtime.display()
            );
            file(OPTION_FILE.into(), text.into_bytes(), 0o644)?;
        }
    }
    Ok(InstallPlan {
        kubelet,
        runtime,
        own,
        of_kubelet,
        notes,
    })
}

/// The option file's runtime must be the kubelet's.
fn check_runtime(options: &str, used: &Path) -> Result<(), InstallError> {
    let line = Regex::new(r"(?m)^\s*-{0,2}runtime-socket\s*[=\s]\s*(?:unix://)?(\S+)")
        .expect("the pattern is a literal that the tests compile");
    let says = line.captures_iter(options).last();
    let says = says.as_ref().map_or(DEFAULT_RUNTIME, |found| {
        found.get(1).map_or(DEFAULT_RUNTIME, |value| value.as_str())
    });
    match same_socket(Path::new(says), used) {
        true => Ok(()),
        false => Err(InstallError::OtherRuntime {
            path: OPTION_FILE.into(),
            says: says.to_owned(),
            used: used.to_owned(),
        }),
    }
}
