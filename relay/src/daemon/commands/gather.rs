//! `cri-resmgr gather`: one archive with what explains the placements of a node, for the report of a problem.
//!
//! ```text
//! views of the daemon ──▶┐
//! state directory, trace ▶│ ArchiveFile ──secrets hidden──▶ names replaced if asked ──▶ Archive, bounded ──▶ FILE.tar.gz
//! kernel, runtime, log ──▶┘
//! ```
//!
//! It changes nothing on the node. `index.txt` names what fails or is late, with the reason, and the rest is
//! gathered: of a daemon that does not run there is what it left on disk. The archive must never hold an environment
//! value, a credential, an annotation that is not known to be harmless, or the output of a command in a container.

mod archive;
mod daemon;
mod file;
mod log;
mod names;
mod node;
mod places;

use super::{fetch::views_socket_of, make_pools::host_name, output::print};
use crate::{cli::GatherArguments, config::Raw, daemon::error::ExitError};
use anyhow::Context as _;
use archive::Archive;
use daemon::{Daemon, TOPOLOGY, container_ids};
use file::ArchiveFile;
use names::Names;
use places::{Places, options_in_force};
use std::{io::ErrorKind, path::PathBuf};

/// Writes the archive, and says where it is.
///
/// # Errors
/// When there is a file of its name already, or it cannot be written.
pub fn gather(raw: &Raw, arguments: &GatherArguments) -> Result<(), ExitError> {
    let exists = |path: &PathBuf| {
        let path = path.display();
        ExitError::Usage(format!("{path} exists: name another file with --output"))
    };
    if let Some(path) = &arguments.output
        && path.symlink_metadata().is_ok()
    {
        return Err(exists(path));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let NodeReport { files, machine } = runtime.block_on(collect(raw));
    // A read that hangs holds a thread, which is not waited for.
    runtime.shutdown_background();

    let host = host_name().replace('/', "-");
    let names = match arguments.anonymous {
        true => Names::replaced(&machine, &host, &files).context("cannot replace the names")?,
        false => Names::kept(),
    };
    let date = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let folder = format!("cri-resmgr-{}-{date}", names.replace(&host));
    let path = arguments.output.clone();
    let path = path.unwrap_or_else(|| PathBuf::from(format!("./{folder}.tar.gz")));
    let written = match Archive::new(&folder, &files, &names).write(&path) {
        Ok(written) => written,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(exists(&path)),
        Err(error) => {
            let context = format!("cannot write {}", path.display());
            return Err(anyhow::Error::from(error).context(context).into());
        }
    };
    print(&format!(
        "{path}: {kib} KiB, {files} files{missing}\n\
         It hides what the dump hides: environment values, credentials, what commands print. {named}.\n\
         Look into it before you send it: tar -xzf {path}\n",
        path = path.display(),
        kib = written.bytes.div_ceil(1024),
        files = written.files,
        missing = match written.missing {
            0 => String::new(),
            missing => format!("; index.txt says why {missing} more are missing"),
        },
        named = match arguments.anonymous {
            true => "Names of pods are replaced by hashes",
            false => "Names of pods are in it, unless --anonymous is given",
        },
    ))
}

/// What a node tells.
struct NodeReport {
    files: Vec<ArchiveFile>,
    /// The machine's id, machine-id(5); empty when it has none.
    machine: String,
}

async fn collect(raw: &Raw) -> NodeReport {
    let daemon = Daemon::behind(views_socket_of(raw));
    let (state, config, topology, top, history) = tokio::join!(
        daemon.view("/state"),
        daemon.view("/api/v1/config"),
        daemon.view(TOPOLOGY),
        daemon.top(),
        daemon.history(),
    );
    let options = options_in_force(raw, config.as_ref().ok());
    let places = Places::of(&options);
    let containers = state.iter().flat_map(container_ids);
    let containers: Vec<_> = containers.map(|id| (id, String::new())).collect();

    let mut files = vec![top, history];
    if config.is_err() {
        files.push(places::option_file(options).await);
    }
    files.push(daemon.file(
        "config.json",
        "the configuration in force, with the origin of each part",
        "/api/v1/config",
        config,
    ));
    files.extend(daemon.explanations(state.as_ref().ok()).await);
    files.push(daemon.file(
        "state.json",
        "where each container is wanted",
        "/state",
        state,
    ));
    files.push(daemon.topology(topology, &places).await);
    let (ledger, remembered) = places.ledger().await;
    files.extend(ledger);
    files.extend(<[ArchiveFile; 7]>::from(tokio::join!(
        places.cpusets(containers, remembered),
        places.metrics(),
        places.trace(),
        places.sysfs(),
        places.versions(),
        places.runtime_version(),
        log::tail(),
    )));
    files.sort_by(|a, b| a.name.cmp(&b.name));
    NodeReport {
        files,
        machine: places.machine_id().await,
    }
}
