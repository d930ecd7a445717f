//! Why a node is not installed, or not uninstalled.

use std::{io, path::PathBuf};

/// Why a node is not installed, or not uninstalled.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// No unit of systemd runs a kubelet.
    #[error(
        "no kubelet found: none of {looked_for} is a unit of systemd here; --kubelet names another unit"
    )]
    NoKubelet {
        /// The names.
        looked_for: String,
    },
    /// Several units could be the kubelet's.
    #[error("several units run a kubelet: {units}; name the one to use: --kubelet UNIT")]
    SeveralKubelets {
        /// Their names.
        units: String,
    },
    /// The kubelet's files name different sockets.
    #[error(
        "the kubelet is told of several runtimes: {first} in {first_file}, {second} in {second_file}; leave one"
    )]
    SeveralEndpoints {
        /// An endpoint.
        first: String,
        /// Where it stands.
        first_file: PathBuf,
        /// Another one.
        second: String,
        /// Where that stands.
        second_file: PathBuf,
    },
    /// The endpoint is no socket that can be relayed to.
    #[error("unknown endpoint {endpoint:?} in {path}: expected a Unix socket, unix:///run/…")]
    UnknownEndpoint {
        /// As it stands there.
        endpoint: String,
        /// The file.
        path: PathBuf,
    },
    /// The kubelet has neither the option nor a configuration file.
    #[error(
        "{unit} has neither --container-runtime-endpoint nor --config: there is no file in which to point it at \
         cri-resmgr"
    )]
    NoPlace {
        /// The kubelet's unit.
        unit: String,
    },
    /// The kubelet uses the relay already, without a journal.
    #[error(
        "{unit} already uses {path} as its runtime, and `cri-resmgr install` did not do that: point it at the \
         runtime first"
    )]
    PointedAlready {
        /// The kubelet's unit.
        unit: String,
        /// The relay's socket.
        path: PathBuf,
    },
    /// There is an installation.
    #[error(
        "cri-resmgr {version} is already installed: `install --upgrade` puts this one in its place, `uninstall` \
         removes it"
    )]
    AlreadyInstalled {
        /// The version that was installed.
        version: String,
    },
    /// There is no installation.
    #[error("not installed: there is no {journal}")]
    NotInstalled {
        /// The journal that is missing.
        journal: PathBuf,
    },
    /// The option file is for another runtime than the kubelet's.
    #[error("{path} says runtime-socket = {says}, and the kubelet uses {used}: make them one")]
    OtherRuntime {
        /// The option file.
        path: PathBuf,
        /// Its runtime.
        says: String,
        /// The kubelet's.
        used: PathBuf,
    },
    /// The kubelet ended, or systemd restarted it.
    #[error("{unit} did not stay up after its restart")]
    KubeletDown {
        /// The kubelet's unit.
        unit: String,
    },
    /// The kubelet runs with another endpoint than its files say.
    #[error("{unit} was started with {endpoint:?} in spite of what was written for it")]
    KubeletElsewhere {
        /// The kubelet's unit.
        unit: String,
        /// The endpoint on its command line; empty when none is there.
        endpoint: String,
    },
    /// A file could not be read or written.
    #[error("cannot {operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A kubelet's file or the journal is not what it should be.
    #[error("cannot understand {path}: {why}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// systemctl cannot be run, or fails.
    #[error("systemctl {words}: {why}")]
    Systemctl {
        /// Its arguments.
        words: String,
        /// What it said.
        why: String,
    },
    /// The runtime does not answer through the relay.
    #[error("CRI does not answer through {socket}: {why}")]
    NoAnswer {
        /// The relay's socket.
        socket: PathBuf,
        /// The last failure.
        why: String,
    },
    /// The containers' CPUs could not be given back.
    #[error("cannot give the containers their CPUs back: {why}; `uninstall` goes on from here")]
    Restore {
        /// Why.
        why: String,
    },
    /// The installation failed, and the node is as it was.
    #[error("{failure}; all changes are undone")]
    RolledBack {
        /// What failed, with its causes.
        failure: String,
    },
    /// The installation failed, and so did undoing it.
    #[error(
        "{failure}; undoing the changes failed too: {undo}; `cri-resmgr uninstall` goes on from there"
    )]
    HalfUndone {
        /// What failed, with its causes.
        failure: String,
        /// What failed while undoing, with its causes.
        undo: String,
    },
}

impl InstallError {
    /// For `map_err`: `operation` failed on `path`.
    pub(super) fn file<'a>(
        operation: &'static str,
        path: &'a std::path::Path,
    ) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self::File {
            operation,
            path: path.to_owned(),
            source,
        }
    }
}
