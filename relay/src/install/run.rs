//! Carries out a plan on a host, and takes it back.

use super::{
    change::FileChange,
    error::InstallError,
    host::Host,
    journal::{FOLDER, Journal, JournalEntry, STATE},
    kubelet::{RELAY_SOCKET, endpoint_of, same_socket, unrelayed},
    plan::{InstallOptions, InstallPlan, OPTION_FILE, plan},
};
use sha2::{Digest as _, Sha256};
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

const SERVICE: &str = "cri-resmgr.service";
const UNITS: [&str; 2] = [SERVICE, "cri-resmgr.socket"];
/// Where the service and the agent have their sockets; in memory.
const SOCKETS: &str = "/run/cri-resmgr";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How often a restarted kubelet is looked at before it counts as running.
const LOOKS: u32 = 6;

/// Puts the relay between kubelet and runtime. What an installation left that was killed is undone first.
///
/// # Errors
/// Why this node cannot be installed; or what failed, after all changes were undone.
pub fn install(host: &mut dyn Host, options: &InstallOptions) -> Result<(), InstallError> {
    let mut journal = Journal::read(host)?;
    if let Some(from) = journal.unfinished() {
        host.say("an installation did not come to its end: undoing it first");
        undo(host, &mut journal, from)?;
    }
    let plan = planned(host, options, &journal)?;
    let restarts = [&plan.own[..], &plan.of_kubelet[..]].concat();
    if restarts.is_empty() && active(host, SERVICE) {
        host.say("nothing to change: this version is installed and runs");
        return Ok(());
    }
    let begun = journal.entries.len();
    match carry_out(host, &mut journal, &plan) {
        Ok(()) => Ok(()),
        Err(failure) => {
            let failure = chain(&failure);
            host.say(&format!("{failure}: undoing all changes"));
            match undo(host, &mut journal, begun) {
                Ok(()) => Err(InstallError::RolledBack { failure }),
                Err(undo) => Err(InstallError::HalfUndone {
                    failure,
                    undo: chain(&undo),
                }),
            }
        }
    }
}

/// Says what [`install`] would change, as diffs.
///
/// # Errors
/// Why this node cannot be installed.
pub fn dry_run(host: &mut dyn Host, options: &InstallOptions) -> Result<(), InstallError> {
    let journal = Journal::read(host)?;
    if journal.unfinished().is_some() {
        host.say("an installation did not come to its end: it would be undone first");
    }
    let plan = planned(host, options, &journal)?;
    for change in plan.own.iter().chain(&plan.of_kubelet) {
        host.say(change.diff().trim_end());
    }
    host.say(&format!(
        "then: enable and start {}, restart {}, and undo everything if CRI does not answer",
        UNITS.join(", "),
        plan.kubelet.unit
    ));
    Ok(())
}

/// Takes the relay out: kubelet's files are as they were, no file of ours is left, containers have the CPUs
/// that the runtime was asked for. Can be repeated until it succeeds.
///
/// # Errors
/// When nothing is installed, or a step fails.
pub fn uninstall(host: &mut dyn Host) -> Result<(), InstallError> {
    let mut journal = Journal::read(host)?;
    if journal.entries.is_empty() && !Journal::left(host) {
        return Err(InstallError::NotInstalled {
            journal: FOLDER.into(),
        });
    }
    undo(host, &mut journal, 0)
}

fn planned(
    host: &mut dyn Host,
    options: &InstallOptions,
    journal: &Journal,
) -> Result<InstallPlan, InstallError> {
    let mut runtime = None;
    if let Some(JournalEntry::Begin {
        version,
        runtime: of,
        ..
    }) = journal.entries.first()
        && journal.unfinished().is_none()
    {
        if !options.upgrade {
            return Err(InstallError::AlreadyInstalled {
                version: version.clone(),
            });
        }
        runtime = Some(of.as_path());
    }
    let plan = plan(&*host, options, runtime)?;
    host.say(&format!(
        "{} uses {}; cri-resmgr relays to {}",
        plan.kubelet.unit,
        plan.kubelet.socket.display(),
        plan.runtime.display()
    ));
    for note in &plan.notes {
        host.say(note);
    }
    Ok(plan)
}

fn carry_out(
    host: &mut dyn Host,
    journal: &mut Journal,
    plan: &InstallPlan,
) -> Result<(), InstallError> {
    let unit = &plan.kubelet.unit;
    let kept = |path: &PathBuf| path != Path::new(FOLDER);
    let state = host.list(Path::new(STATE))?.iter().any(kept);
    let running = active(host, unit);
    Journal::make_room(host)?;
    let begin = JournalEntry::Begin {
        version: VERSION.to_owned(),
        unit: unit.clone(),
        running,
        runtime: plan.runtime.clone(),
        state,
    };
    journal.note(host, begin)?;
    for change in &plan.own {
        write(host, journal, change)?;
    }
    let units = JournalEntry::Units {
        enabled: host.systemctl(&["is-enabled", SERVICE]).is_ok(),
        running: active(host, SERVICE),
    };
    journal.note(host, units)?;
    host.systemctl(&["daemon-reload"])?;
    host.systemctl(&["enable", UNITS[0], UNITS[1]])?;
    host.systemctl(&["start", UNITS[1]])?;
    // With --no-block: it is ready when its runtime answers, and that is waited for here.
    host.systemctl(&["restart", "--no-block", SERVICE])?;
    let version = host.runtime_version(Path::new(RELAY_SOCKET))?;
    host.say(&format!("{version} answers through {RELAY_SOCKET}"));
    if !plan.of_kubelet.is_empty() {
        for change in &plan.of_kubelet {
            write(host, journal, change)?;
        }
        host.systemctl(&["daemon-reload"])?;
        if running {
            restart_kubelet(host, plan)?;
            host.runtime_version(Path::new(RELAY_SOCKET))?;
            host.say(&format!("{unit} runs and uses {RELAY_SOCKET}"));
        } else {
            host.say(&format!("{unit} does not run; it will use {RELAY_SOCKET}"));
        }
    }
    journal.done(host)
}

/// Writes a file, with its folders.
fn write(
    host: &mut dyn Host,
    journal: &mut Journal,
    change: &FileChange,
) -> Result<(), InstallError> {
    let path = &change.path;
    let mut missing: Vec<PathBuf> = path
        .ancestors()
        .skip(1)
        .take_while(|folder| !host.has_folder(folder))
        .map(Path::to_owned)
        .collect();
    while let Some(folder) = missing.pop() {
        journal.note(
            host,
            JournalEntry::Folder {
                path: folder.clone(),
            },
        )?;
        host.make_folder(&folder)?;
    }
    let backup = match &change.before {
        Some(before) => Some(journal.back_up(host, path, before)?),
        None => None,
    };
    let entry = JournalEntry::File {
        path: path.clone(),
        backup,
        sha256: sha256(&change.after),
        of_kubelet: change.of_kubelet,
    };
    journal.note(host, entry)?;
    host.say(&format!("writing {}", path.display()));
    host.write(path, &change.after, change.mode)
}

/// Restarts the kubelet, and waits whether it stays up.
fn restart_kubelet(host: &mut dyn Host, plan: &InstallPlan) -> Result<(), InstallError> {
    let unit = plan.kubelet.unit.as_str();
    let process = |host: &mut dyn Host| host.systemctl(&["show", "--value", "-p", "MainPID", unit]);
    host.systemctl(&["restart", unit])?;
    let first = process(host)?;
    for _ in 0..LOOKS {
        host.pause();
        // A kubelet that fails is started again by systemd, as another process.
        if !active(host, unit) || process(host)? != first {
            return Err(InstallError::KubeletDown {
                unit: unit.to_owned(),
            });
        }
    }
    let command_line = host.read(&PathBuf::from(format!("/proc/{}/cmdline", first.trim())))?;
    let Some(command_line) = command_line.filter(|line| !line.is_empty()) else {
        return Ok(());
    };
    match endpoint_of(&command_line) {
        // Where the kubelet's own process has the option, the option counts.
        None if plan.kubelet.is_option() => Err(InstallError::KubeletElsewhere {
            unit: unit.to_owned(),
            endpoint: String::new(),
        }),
        Some(endpoint)
            if !same_socket(
                Path::new(endpoint.trim_start_matches("unix://")),
                Path::new(RELAY_SOCKET),
            ) =>
        {
            Err(InstallError::KubeletElsewhere {
                unit: unit.to_owned(),
                endpoint,
            })
        }
        _ => Ok(()),
    }
}

/// Takes back the changes from `from` on, in an order that never leaves the kubelet without a runtime.
fn undo(host: &mut dyn Host, journal: &mut Journal, from: usize) -> Result<(), InstallError> {
    let entries = journal.entries[from..].to_vec();
    let files = files_of(&entries);
    let (mut begin, mut units) = (None, None);
    for entry in &entries {
        match entry {
            JournalEntry::Begin {
                unit,
                running,
                runtime,
                state,
                ..
            } if begin.is_none() => begin = Some((unit, *running, runtime, *state)),
            JournalEntry::Units { enabled, running } if units.is_none() => {
                units = Some((*enabled, *running));
            }
            _ => {}
        }
    }
    if let Some((unit, running, runtime, _)) = begin
        && files.iter().any(|file| file.of_kubelet)
    {
        for file in files.iter().filter(|file| file.of_kubelet) {
            put_back(host, file, runtime)?;
        }
        host.systemctl(&["daemon-reload"])?;
        if running {
            host.systemctl(&["restart", unit])?;
        }
    }
    let ran = units.is_some_and(|(_enabled, running)| running);
    if let Some((enabled, running)) = units
        && has_units(host)?
    {
        if !running {
            host.systemctl(&["stop", UNITS[1], UNITS[0]])?;
        }
        if !enabled {
            host.systemctl(&["disable", UNITS[0], UNITS[1]])?;
        }
        // Only one that failed to start has something to be forgotten.
        host.systemctl(&["reset-failed", UNITS[0], UNITS[1]]).ok();
    }
    let own_state = |path: &PathBuf| path != Path::new(FOLDER);
    if !ran && units.is_some() && host.list(Path::new(STATE))?.iter().any(own_state) {
        let report = host.restore()?;
        host.say(report.trim_end());
    }
    if let Some((_, _, runtime, _)) = begin {
        for file in files.iter().rev().filter(|file| !file.of_kubelet) {
            put_back(host, file, runtime)?;
        }
    }
    if units.is_some() {
        host.systemctl(&["daemon-reload"])?;
        if ran {
            host.systemctl(&["restart", "--no-block", SERVICE])?;
        }
    }
    for entry in entries.iter().rev() {
        if let JournalEntry::Folder { path } = entry
            && host.has_folder(path)
            && host.list(path)?.is_empty()
        {
            host.remove(path)?;
        }
    }
    if from > 0 {
        return journal.truncate(host, from);
    }
    if units.is_some() && !ran {
        host.remove(Path::new(SOCKETS))?;
    }
    Journal::remove(host, begin.is_none_or(|(_, _, _, state)| state))?;
    journal.entries.clear();
    Ok(())
}

/// A file that was changed, perhaps several times.
struct ChangedFile<'a> {
    path: &'a Path,
    /// The content before the first change.
    backup: Option<&'a Path>,
    /// Digest after the last one.
    sha256: &'a str,
    of_kubelet: bool,
}

fn files_of(entries: &[JournalEntry]) -> Vec<ChangedFile<'_>> {
    let mut files: Vec<ChangedFile<'_>> = Vec::new();
    for entry in entries {
        if let JournalEntry::File {
            path,
            backup,
            sha256,
            of_kubelet,
        } = entry
        {
            match files.iter_mut().find(|file| file.path == path) {
                Some(file) => file.sha256 = sha256,
                None => files.push(ChangedFile {
                    path,
                    backup: backup.as_deref(),
                    sha256,
                    of_kubelet: *of_kubelet,
                }),
            }
        }
    }
    files
}

/// Gives a file its old content. In one that was edited since, only the endpoint is put back.
fn put_back(
    host: &mut dyn Host,
    file: &ChangedFile<'_>,
    runtime: &Path,
) -> Result<(), InstallError> {
    let path = file.path;
    let Some(now) = host.read(path)? else {
        return Ok(()); // not written yet, removed already, or removed by the administrator
    };
    let before = match file.backup.map(|backup| host.read(backup)) {
        Some(Ok(None)) => return Ok(()), // an earlier attempt came so far as to remove the backups
        Some(before) => before?,
        None => None,
    };
    if before.as_ref() == Some(&now) {
        return Ok(());
    }
    if sha256(&now) != file.sha256 {
        let text = String::from_utf8_lossy(&now);
        match file.of_kubelet.then(|| unrelayed(&text, runtime)) {
            Some(Some(text)) => {
                let path = path.display();
                host.say(&format!(
                    "{path} was edited since: only its endpoint is put back"
                ));
                return host.write(file.path, text.as_bytes(), 0o644);
            }
            Some(None) => return Ok(()),
            None if path == Path::new(OPTION_FILE) => {
                host.say(&format!("{OPTION_FILE} was edited since: it stays"));
                return Ok(());
            }
            None => {}
        }
    }
    match before {
        Some(before) => host.write(path, &before, 0o644),
        None => host.remove(path),
    }
}

fn has_units(host: &dyn Host) -> Result<bool, InstallError> {
    for folder in ["/etc/systemd/system", "/usr/lib/systemd/system"] {
        if host.read(&Path::new(folder).join(SERVICE))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn active(host: &mut dyn Host, unit: &str) -> bool {
    host.systemctl(&["is-active", "--quiet", unit]).is_ok()
}

fn sha256(content: &[u8]) -> String {
    let mut digits = String::new();
    for octet in Sha256::digest(content) {
        let _never_fails = write!(digits, "{octet:02x}");
    }
    digits
}

/// An error with its causes, in a line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _never_fails = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}
