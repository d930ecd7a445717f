//! What lies on the node: where the daemon keeps it, or would keep it.

use super::{
    file::{ArchiveFile, FileContent, LIMIT, blocking, within},
    node,
};
use crate::{
    cli::{self, help},
    config::{Raw, options, print::yaml},
    cri::client::RuntimeClient,
    daemon::options::resolve_options,
    discover::{self, TopologySource},
    inspect::client::fetch_metrics,
    install::OPTION_FILE,
    ledger::{LastGood, Marks, StateFile, StateRecord},
    manager::Ledger,
};
use anyhow::Context as _;
use serde_json::Value;
use std::{
    ffi::OsString,
    fmt::Write as _,
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// How much of the end of a trace is gathered, octets.
const TRACE_BYTES: u64 = 16 << 20;
/// The longest line a trace may begin with: the machine.
const MACHINE_BYTES: u64 = 4 << 20;

/// Options that say where something is.
const PLACES: [&str; 7] = [
    "runtime-socket",
    "relay-dir",
    "cgroup-mount",
    "host-root",
    "record",
    "metrics-address",
    "topology",
];

/// The options of the daemon whose configuration this is; without one those of the service's option file. What was
/// typed for this command comes last and wins.
pub(super) fn options_in_force(typed: &Raw, config: Option<&Value>) -> Raw {
    let mut words = vec![OsString::from("cri-resmgr")];
    let mut add = |name: &str, text: &str| words.push(format!("--{name}={text}").into());
    match config {
        Some(config) => {
            for option in config["options"].as_array().into_iter().flatten() {
                let text = |field: &str| option[field].as_str().unwrap_or_default();
                if PLACES.contains(&text("name")) {
                    add(text("name"), text("value"));
                }
            }
        }
        None if Path::new(OPTION_FILE).exists() => add(options::CONFIG, OPTION_FILE),
        None => {}
    }
    let command = options::command();
    let names = command.get_arguments().map(options::name);
    for name in names.filter(|name| *name != options::CONFIG) {
        for (text, _origin) in typed.given(name) {
            add(name, text);
        }
    }
    // A file that cannot be read leaves what was typed.
    cli::parse(words).map_or_else(|_mistake| typed.clone(), |invocation| invocation.raw)
}

/// The options that a daemon would start with, and what is wrong with them on this machine.
pub(super) async fn option_file(options: Raw) -> ArchiveFile {
    let text = blocking(move || {
        let mistakes = match resolve_options(&options) {
            Ok(_legal) => String::new(),
            Err(mistakes) => format!("\nNOT LEGAL on this machine:\n{mistakes}\n"),
        };
        Ok(yaml(&options) + &mistakes)
    });
    let origin = format!("{OPTION_FILE}, if it is there, and what was typed for this command");
    let purpose = "the options that a daemon would start with";
    ArchiveFile::new(
        "options.yaml",
        purpose,
        &origin,
        text.await.map(FileContent::Text),
    )
}

/// Where everything is.
#[derive(Debug)]
pub(super) struct Places {
    runtime: Option<PathBuf>,
    state_dir: PathBuf,
    cgroup_mount: PathBuf,
    host_root: PathBuf,
    trace: Option<PathBuf>,
    metrics: Option<SocketAddr>,
    topology: String,
}

impl Places {
    /// Where these options say that it is. A mistake in an option stands for its being off.
    pub(super) fn of(raw: &Raw) -> Self {
        let options = &raw.options;
        let named = PathBuf::from(&options.enforce.host_root.text);
        // The daemon's own, where it runs in a container and this command does not.
        let host_root = if named.is_dir() { named } else { "/".into() };
        let mount = Path::new(&options.enforce.cgroup_mount.text);
        Self {
            runtime: options
                .relay
                .runtime_socket
                .parsed
                .clone()
                .unwrap_or_default(),
            state_dir: PathBuf::from(&options.enforce.relay_dir.text),
            cgroup_mount: host_root.join(mount.strip_prefix("/").unwrap_or(mount)),
            host_root,
            trace: options.telemetry.record.parsed.clone().unwrap_or_default(),
            metrics: options
                .telemetry
                .metrics_address
                .parsed
                .clone()
                .unwrap_or_default(),
            topology: options.policy.topology.text.clone(),
        }
    }

    /// The machine as a daemon would find it now.
    pub(super) async fn topology(&self) -> Result<FileContent, String> {
        let (source, root) = (
            TopologySource::parse(&self.topology),
            self.host_root.clone(),
        );
        let found = blocking(move || {
            let topology = discover::load(&source, &root)?;
            Ok(serde_json::to_value(topology)?)
        });
        found.await.map(FileContent::Json)
    }

    /// What the state directory holds, and the containers in it: id and cgroup parent.
    pub(super) async fn ledger(&self) -> (Vec<ArchiveFile>, Vec<(String, String)>) {
        let directory = self.state_dir.clone();
        let read = blocking(move || {
            let ledger = Ledger::at(&directory).load();
            let mut listing = directory_listing(&directory)?;
            for problem in ledger.problems {
                writeln!(listing, "{:#}", anyhow::Error::from(problem))?;
            }
            let containers = ledger.value.iter().flat_map(|book| book.containers.iter());
            let containers = containers.map(|container| {
                let parent = container.record.cgroup_parent.clone();
                (container.id.to_string(), parent)
            });
            let containers: Vec<_> = containers.collect();
            let book = ledger.value.map(serde_json::to_value).transpose()?;
            let records = [
                book,
                kept::<LastGood>(&directory)?,
                kept::<Marks>(&directory)?,
            ];
            Ok((listing, records, containers))
        });
        let (listing, records, containers) = match read.await {
            Ok((listing, records, containers)) => (Ok(listing), records, containers),
            Err(why) => (Err(why), Default::default(), Vec::new()),
        };
        let origin = format!("the state directory {}", self.state_dir.display());
        let listing = listing.map(FileContent::Text);
        let purpose = "sizes of all files, and what is wrong with them";
        let mut files = vec![ArchiveFile::new(
            "state-dir/files.txt",
            purpose,
            &origin,
            listing,
        )];
        let purposes = [
            (
                "ledger",
                "what is remembered of each container across restarts",
            ),
            ("configuration", "the configuration that was pushed last"),
            ("node-marks", "labels and taints that the Node was given"),
        ];
        for ((name, purpose), record) in purposes.into_iter().zip(records) {
            let record = record.map(FileContent::Json);
            let record = record.ok_or_else(|| "there is none that can be read".to_owned());
            let name = format!("state-dir/{name}.json");
            files.push(ArchiveFile::new(&name, purpose, &origin, record));
        }
        (files, containers)
    }

    /// Cgroups of these containers; those of the ledger know where theirs is.
    pub(super) async fn cpusets(
        &self,
        running: Vec<(String, String)>,
        remembered: Vec<(String, String)>,
    ) -> ArchiveFile {
        let known: Vec<String> = remembered.iter().map(|(id, _parent)| id.clone()).collect();
        let mut containers = remembered;
        containers.extend(
            running
                .into_iter()
                .filter(|(id, _parent)| !known.contains(id)),
        );
        let mount = self.cgroup_mount.clone();
        let text = match containers.is_empty() {
            true => Err("no container is known".to_owned()),
            false => blocking(move || node::cpusets(&mount, &containers)).await,
        };
        ArchiveFile::new(
            "cpusets.txt",
            "what the kernel lets each container use, and the cgroups above them",
            &format!("cgroups below {}", self.cgroup_mount.display()),
            text.map(FileContent::Text),
        )
    }

    /// The page of metrics.
    pub(super) async fn metrics(&self) -> ArchiveFile {
        let (origin, page) = match self.metrics {
            Some(address) => (
                format!("http://{address}/metrics"),
                within(fetch_metrics(address)).await,
            ),
            None => (
                "--metrics-address".to_owned(),
                Err("it is not set, or no daemon runs that says so".to_owned()),
            ),
        };
        ArchiveFile::new(
            "metrics.txt",
            "the page of metrics",
            &origin,
            page.map(FileContent::Text),
        )
    }

    /// The end of what `--record` writes.
    pub(super) async fn trace(&self) -> ArchiveFile {
        let purpose = format!(
            "what the policy was asked: the machine and the last {} MiB, for the simulator",
            TRACE_BYTES >> 20
        );
        let (origin, lines) = match self.trace.clone() {
            Some(path) => (
                path.display().to_string(),
                blocking(move || end_of_trace(&path)).await,
            ),
            None => ("--record".to_owned(), Err("nothing is recorded".to_owned())),
        };
        ArchiveFile::new(
            "trace.jsonl",
            &purpose,
            &origin,
            lines.map(FileContent::JsonLines),
        )
    }

    /// CPUs, caches and nodes.
    pub(super) async fn sysfs(&self) -> ArchiveFile {
        let root = self.host_root.clone();
        let text = blocking(move || node::sysfs(&root)).await;
        let origin = "/sys/devices/system/{cpu,node}";
        ArchiveFile::new(
            "sysfs.txt",
            "CPUs, caches and nodes, as the kernel has them",
            origin,
            text.map(FileContent::Machine),
        )
    }

    /// Versions of this program and of the kernel.
    pub(super) async fn versions(&self) -> ArchiveFile {
        let (root, mount) = (self.host_root.clone(), self.cgroup_mount.clone());
        let text = blocking(move || {
            Ok(format!(
                "{}\n{}",
                help::version(),
                node::kernel(&root, &mount)?
            ))
        })
        .await;
        ArchiveFile::new(
            "versions.txt",
            "versions of this command and of the kernel, its parameters about CPUs, and mounts of cgroups",
            "/proc",
            text.map(FileContent::Machine),
        )
    }

    /// Name and version of the runtime.
    pub(super) async fn runtime_version(&self) -> ArchiveFile {
        let (origin, text) = match &self.runtime {
            Some(socket) => {
                let client = RuntimeClient::new(socket, LIMIT, Vec::new());
                let answer = within(client.version()).await;
                let text = answer.map(|version| {
                    format!(
                        "{} {}, CRI {}\n",
                        version.runtime_name, version.runtime_version, version.runtime_api_version
                    )
                });
                (format!("CRI Version of {}", socket.display()), text)
            }
            None => ("--runtime-socket".to_owned(), Err("it is off".to_owned())),
        };
        ArchiveFile::new(
            "runtime.txt",
            "the runtime",
            &origin,
            text.map(FileContent::Text),
        )
    }

    /// The machine's id, machine-id(5); empty when it has none.
    pub(super) async fn machine_id(&self) -> String {
        let path = self.host_root.join("etc/machine-id");
        let id = blocking(move || Ok(fs::read_to_string(path)?)).await;
        id.unwrap_or_default().trim().to_owned()
    }
}

/// A record that is kept, if there is one.
fn kept<R: StateRecord>(directory: &Path) -> anyhow::Result<Option<Value>> {
    let record = StateFile::<R>::at(directory).load().value;
    Ok(record.map(serde_json::to_value).transpose()?)
}

/// Size, mode and name of each file.
fn directory_listing(directory: &Path) -> anyhow::Result<String> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut lines = Vec::new();
    for entry in entries {
        let entry = entry?;
        let about = entry.metadata()?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        lines.push(format!(
            "{name}: {} octets, mode {:o}, owner {}\n",
            about.len(),
            about.mode(),
            about.uid()
        ));
    }
    lines.sort();
    Ok(lines.concat())
}

/// The first line of a trace, which is the machine, and whole lines of its end.
fn end_of_trace(path: &Path) -> anyhow::Result<String> {
    trace(path, TRACE_BYTES)
}

fn trace(path: &Path, most: u64) -> anyhow::Result<String> {
    // No pipe: it would be waited for.
    let about = fs::metadata(path)?;
    anyhow::ensure!(about.is_file(), "it is not a regular file");
    let mut file = BufReader::new(File::open(path)?);
    let mut read = Vec::new();
    if about.len() > most {
        file.by_ref()
            .take(MACHINE_BYTES)
            .read_until(b'\n', &mut read)?;
        let after_machine = file.stream_position()?;
        file.seek(SeekFrom::Start(after_machine.max(about.len() - most)))?;
        if file.stream_position()? > after_machine {
            let mut torn = Vec::new();
            file.by_ref().take(most).read_until(b'\n', &mut torn)?;
        }
    }
    file.take(most).read_to_end(&mut read)?;
    Ok(String::from_utf8_lossy(&read).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(words: &[&str]) -> Raw {
        let words = ["cri-resmgr"].iter().chain(words).map(OsString::from);
        cli::parse(words).unwrap().raw
    }

    #[test]
    fn what_the_daemon_was_told_counts_and_what_is_typed_wins() {
        let config = json!({"options": [
            {"name": "relay-dir", "value": "/daemon", "origin": "x"},
            {"name": "record", "value": "/trace", "origin": "x"},
            {"name": "policy", "value": "static", "origin": "x"},
            {"name": "policy.stp", "value": "pools: {}", "origin": "ConfigMap a/b"},
        ]});
        let typed = parsed(&["--relay-dir=/typed", "--metrics-address=:99"]);
        let places = Places::of(&options_in_force(&typed, Some(&config)));
        assert_eq!(places.state_dir, Path::new("/typed"));
        assert_eq!(places.trace.as_deref(), Some(Path::new("/trace")));
        assert_eq!(places.metrics.unwrap().port(), 99);
        assert_eq!(places.host_root, Path::new("/"));
        assert_eq!(places.cgroup_mount, Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn a_long_trace_keeps_its_machine_and_its_last_lines_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace");
        fs::write(&path, "machine\n1111\n2222\n3333\n").unwrap();
        assert_eq!(trace(&path, 12).unwrap(), "machine\n2222\n3333\n");
        assert_eq!(trace(&path, 100).unwrap(), "machine\n1111\n2222\n3333\n");
        assert_eq!(trace(&path, 22).unwrap(), "machine\n1111\n2222\n3333\n");
        assert!(trace(folder.path(), 12).is_err());
    }

    #[tokio::test]
    async fn the_machine_that_is_found_is_one_that_is_loaded_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("topology.json");
        let places = Places::of(&parsed(&["--topology=pack:2 numa:2 core:4 pu:2"]));
        let FileContent::Json(topology) = places.topology().await.unwrap() else {
            panic!("no document");
        };
        fs::write(&path, topology.to_string()).unwrap();
        let loaded = discover::load(&TopologySource::Json(path), Path::new("/")).unwrap();
        assert_eq!(loaded.cpus.len(), 32);
    }
}
