//! What a node's kubelet is told of its runtime, in which files, and those files with another endpoint.
//!
//! The kubelet takes `--container-runtime-endpoint` over `containerRuntimeEndpoint` of its configuration file.
//! The option stands in the unit, a drop-in, or a file that `EnvironmentFile=` names (kubeadm, EKS, plain
//! units). k3s and RKE2 run the kubelet themselves: their own `container-runtime-endpoint` would switch their
//! containerd off, so where that runs, the kubelet alone is told, by `kubelet-arg`.

use super::{change::FileChange, error::InstallError, host::Files};
use regex::Regex;
use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// The socket that the kubelet is pointed at; systemd holds it (`deploy/systemd/cri-resmgr.socket`).
pub const RELAY_SOCKET: &str = "/run/cri-resmgr/cri-resmgr.sock";

/// Where systemd looks for units, the first wins.
const UNIT_FOLDERS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

const UNITS: [&str; 5] = [
    "kubelet.service",
    "k3s.service",
    "k3s-agent.service",
    "rke2-server.service",
    "rke2-agent.service",
];

/// What a kubelet uses that is told nothing.
const DEFAULT_RUNTIME: &str = "/run/containerd/containerd.sock";
/// The containerd that k3s and RKE2 start.
const EMBEDDED_RUNTIME: &str = "/run/k3s/containerd/containerd.sock";

/// On a command line, in a variable, in a configuration file of k3s.
static OPTION: LazyLock<Regex> =
    LazyLock::new(|| regex(r#"(container-runtime-endpoint(?:\s*[=:]\s*|\s+)["']?)([^\s"'\\,]*)"#));
/// In the kubelet's configuration file, YAML or JSON.
static FIELD: LazyLock<Regex> =
    LazyLock::new(|| regex(r#"(containerRuntimeEndpoint["']?\s*:[ \t]*["']?)([^\s"'#,}]*)"#));
static CONFIG_FILE: LazyLock<Regex> =
    LazyLock::new(|| regex(r#"--config(?:=|\s+)["']?([^\s"'\\$]+)"#));
static CONFIG_FOLDER: LazyLock<Regex> =
    LazyLock::new(|| regex(r#"--config-dir(?:=|\s+)["']?([^\s"'\\$]+)"#));

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the pattern is a literal that the tests compile")
}

/// A node's kubelet, and where it is told which runtime to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeletSetup {
    /// The unit of systemd that runs it.
    pub unit: String,
    /// The socket of CRI that it uses.
    pub socket: PathBuf,
    place: EndpointPlace,
}

/// Where the endpoint is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum EndpointPlace {
    /// In the place of the endpoint that stands in these files.
    Option(Vec<PathBuf>),
    /// In this configuration file of the kubelet, which may name an endpoint or not.
    Field(PathBuf),
    /// In a file of its own beside the configuration of k3s or RKE2.
    KubeletArgument(PathBuf),
}

impl KubeletSetup {
    /// Finds the kubelet of a node; `unit` is its unit, if it is known.
    ///
    /// # Errors
    /// [`InstallError`]: none, several, or an endpoint that cannot be relayed to.
    pub fn find(files: &dyn Files, unit: Option<&str>) -> Result<Self, InstallError> {
        let unit = unit_of_kubelet(files, unit)?;
        let mut texts = unit_texts(files, &unit)?;
        let config = last_capture(&texts, &CONFIG_FILE);
        let distribution = ["k3s", "rke2"]
            .into_iter()
            .find(|name| unit.starts_with(name));
        if let Some(name) = distribution {
            let config =
                config.unwrap_or_else(|| format!("/etc/rancher/{name}/config.yaml").into());
            let mut folder = config.clone().into_os_string();
            folder.push(".d");
            let folder = PathBuf::from(folder);
            texts.extend(text(files, &config)?.map(|text| (config, text)));
            texts.extend(folder_texts(files, &folder, "yaml")?);
            return Self::told_by(unit, &texts, || {
                let own = folder.join("99-cri-resmgr.yaml");
                Ok((EMBEDDED_RUNTIME.into(), EndpointPlace::KubeletArgument(own)))
            });
        }
        let folder = last_capture(&texts, &CONFIG_FOLDER);
        Self::told_by(unit.clone(), &texts, || {
            let Some(config) = config else {
                return Err(InstallError::NoPlace { unit });
            };
            let Some(content) = text(files, &config)? else {
                return Err(InstallError::Content {
                    path: config,
                    why: format!("{unit} names it as its configuration, and there is no such file"),
                });
            };
            let mut configs = vec![(config.clone(), content)];
            if let Some(folder) = folder {
                configs.extend(folder_texts(files, &folder, "conf")?);
            }
            // The last file that says something counts.
            let named = configs.iter().rev().find_map(|(path, text)| {
                let value = values(text, &FIELD).into_iter().next()?;
                (!value.is_empty()).then(|| (path.clone(), value.to_owned()))
            });
            match named {
                Some((path, value)) => Ok((socket(&path, &value)?, EndpointPlace::Field(path))),
                None => Ok((DEFAULT_RUNTIME.into(), EndpointPlace::Field(config))),
            }
        })
    }

    /// The endpoint of an option in `texts`, or what `otherwise` finds.
    fn told_by(
        unit: String,
        texts: &[(PathBuf, String)],
        otherwise: impl FnOnce() -> Result<(PathBuf, EndpointPlace), InstallError>,
    ) -> Result<Self, InstallError> {
        let mut named: Vec<(PathBuf, PathBuf)> = Vec::new();
        for (path, text) in texts {
            for value in values(text, &OPTION) {
                let socket = socket(path, value)?;
                if let Some((first_file, first)) = named.first()
                    && *first != socket
                {
                    return Err(InstallError::SeveralEndpoints {
                        first: first.display().to_string(),
                        first_file: first_file.clone(),
                        second: socket.display().to_string(),
                        second_file: path.clone(),
                    });
                }
                named.push((path.clone(), socket));
            }
        }
        let (socket, place) = match named.first() {
            Some((_file, socket)) => {
                let mut files: Vec<_> = named.iter().map(|(file, _socket)| file.clone()).collect();
                files.dedup();
                (socket.clone(), EndpointPlace::Option(files))
            }
            None => otherwise()?,
        };
        Ok(Self {
            unit,
            socket,
            place,
        })
    }

    /// Whether the kubelet talks to the relay.
    #[must_use]
    pub fn is_relayed(&self) -> bool {
        same_socket(&self.socket, Path::new(RELAY_SOCKET))
    }

    /// Whether the endpoint stands on the kubelet's command line.
    #[must_use]
    pub(super) fn is_option(&self) -> bool {
        matches!(self.place, EndpointPlace::Option(_)) && self.unit == UNITS[0]
    }

    /// The changes that point the kubelet at the relay.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn relayed(&self, files: &dyn Files) -> Result<Vec<FileChange>, InstallError> {
        let endpoint = format!("unix://{RELAY_SOCKET}");
        let edited = |path: &PathBuf, edit: &dyn Fn(&str) -> String| {
            let before = text(files, path)?.unwrap_or_default();
            Ok(FileChange {
                after: edit(&before).into_bytes(),
                before: Some(before.into_bytes()),
                path: path.clone(),
                mode: 0o644,
                of_kubelet: true,
            })
        };
        match &self.place {
            EndpointPlace::Option(paths) => paths
                .iter()
                .map(|path| edited(path, &|text| replaced(text, &OPTION, &endpoint)))
                .collect(),
            EndpointPlace::Field(path) => {
                Ok(vec![edited(path, &|text| with_field(text, &endpoint))?])
            }
            EndpointPlace::KubeletArgument(path) => Ok(vec![FileChange {
                path: path.clone(),
                before: files.read(path)?,
                after: format!(
                    "# Written by `cri-resmgr install`: the kubelet alone talks through cri-resmgr.\n\
                     kubelet-arg+:\n- \"container-runtime-endpoint={endpoint}\"\n"
                )
                .into_bytes(),
                mode: 0o600,
                of_kubelet: true,
            }]),
        }
    }
}

/// A kubelet's file that was changed since it was pointed at the relay: the same with `runtime` in the relay's
/// place. `None` when it does not name the relay.
pub(super) fn unrelayed(text: &str, runtime: &Path) -> Option<String> {
    let endpoint = format!("unix://{}", runtime.display());
    let mut out = text.to_owned();
    for pattern in [&*OPTION, &*FIELD] {
        if values(&out, pattern)
            .iter()
            .any(|value| same_socket(Path::new(bare(value)), Path::new(RELAY_SOCKET)))
        {
            out = replaced(&out, pattern, &endpoint);
        }
    }
    (out != text).then_some(out)
}

/// The last endpoint on a command line, as `/proc/PID/cmdline` has it.
pub(super) fn endpoint_of(command_line: &[u8]) -> Option<String> {
    let words = String::from_utf8_lossy(command_line).replace('\0', " ");
    OPTION
        .captures_iter(&words)
        .last()
        .map(|found| found[2].to_owned())
}

/// Whether two paths are one socket: `/var/run` is `/run`.
pub(super) fn same_socket(a: &Path, b: &Path) -> bool {
    let plain = |path: &Path| match path.strip_prefix("/var/run") {
        Ok(below) => Path::new("/run").join(below),
        Err(_elsewhere) => path.to_owned(),
    };
    plain(a) == plain(b)
}

fn unit_of_kubelet(files: &dyn Files, unit: Option<&str>) -> Result<String, InstallError> {
    let exists =
        |unit: &str| -> Result<bool, InstallError> { Ok(!unit_texts(files, unit)?.is_empty()) };
    if let Some(unit) = unit {
        let unit = match unit.contains('.') {
            true => unit.to_owned(),
            false => format!("{unit}.service"),
        };
        return match exists(&unit)? {
            true => Ok(unit),
            false => Err(InstallError::NoKubelet { looked_for: unit }),
        };
    }
    let mut found = Vec::new();
    for unit in UNITS {
        if exists(unit)? {
            found.push(unit);
        }
    }
    if found.len() > 1 {
        // RKE2 brings the units of server and agent, and enables one.
        let wanted = files.list(Path::new("/etc/systemd/system/multi-user.target.wants"))?;
        let enabled = |unit: &&str| wanted.iter().any(|path| path.ends_with(unit));
        let enabled: Vec<_> = found.iter().copied().filter(|unit| enabled(unit)).collect();
        if enabled.len() == 1 {
            found = enabled;
        }
    }
    match found[..] {
        [] => Err(InstallError::NoKubelet {
            looked_for: UNITS.join(", "),
        }),
        [unit] => Ok(unit.to_owned()),
        _ => Err(InstallError::SeveralKubelets {
            units: found.join(", "),
        }),
    }
}

/// The files that make up a unit: fragment, drop-ins, files of variables. None when there is no such unit.
fn unit_texts(files: &dyn Files, unit: &str) -> Result<Vec<(PathBuf, String)>, InstallError> {
    let mut texts = Vec::new();
    for folder in UNIT_FOLDERS {
        let path = Path::new(folder).join(unit);
        if let Some(text) = text(files, &path)? {
            texts.push((path, text));
            break;
        }
    }
    if texts.is_empty() {
        return Ok(texts);
    }
    let mut drop_ins: Vec<(PathBuf, String)> = Vec::new();
    for folder in UNIT_FOLDERS {
        let folder = Path::new(folder).join(format!("{unit}.d"));
        for (path, text) in folder_texts(files, &folder, "conf")? {
            // One of an earlier folder hides those of its name.
            if !drop_ins
                .iter()
                .any(|(seen, _)| seen.file_name() == path.file_name())
            {
                drop_ins.push((path, text));
            }
        }
    }
    drop_ins.sort_by(|(a, _), (b, _)| a.file_name().cmp(&b.file_name()));
    texts.extend(drop_ins);
    let mut variables: Vec<PathBuf> = Vec::new();
    for line in texts.iter().flat_map(|(_path, text)| text.lines()) {
        let named = line.trim().strip_prefix("EnvironmentFile=");
        let Some(path) = named.map(|named| named.trim_start_matches('-').trim()) else {
            continue;
        };
        if path.starts_with('/') && !variables.iter().any(|seen| seen == Path::new(path)) {
            variables.push(path.into());
        }
    }
    for path in variables {
        texts.extend(text(files, &path)?.map(|text| (path, text)));
    }
    Ok(texts)
}

fn folder_texts(
    files: &dyn Files,
    folder: &Path,
    extension: &str,
) -> Result<Vec<(PathBuf, String)>, InstallError> {
    let mut texts = Vec::new();
    for path in files.list(folder)? {
        if path.extension().is_some_and(|found| found == extension)
            && let Some(text) = text(files, &path)?
        {
            texts.push((path, text));
        }
    }
    Ok(texts)
}

fn text(files: &dyn Files, path: &Path) -> Result<Option<String>, InstallError> {
    let content = files.read(path)?;
    let text = content.map(|content| {
        String::from_utf8(content).map_err(|error| InstallError::Content {
            path: path.to_owned(),
            why: error.to_string(),
        })
    });
    text.transpose()
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with(['#', ';'])
}

fn values<'a>(text: &'a str, pattern: &Regex) -> Vec<&'a str> {
    text.lines()
        .filter(|line| !is_comment(line))
        .flat_map(|line| pattern.captures_iter(line))
        .filter_map(|found| found.get(2))
        .map(|value| value.as_str())
        .collect()
}

fn last_capture(texts: &[(PathBuf, String)], pattern: &Regex) -> Option<PathBuf> {
    let lines = texts.iter().flat_map(|(_path, text)| text.lines());
    lines
        .filter(|line| !is_comment(line))
        .flat_map(|line| pattern.captures_iter(line))
        .last()
        .map(|found| found[1].into())
}

fn replaced(text: &str, pattern: &Regex, endpoint: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| match is_comment(line) {
            true => line.to_owned(),
            false => pattern
                .replace_all(line, |found: &regex::Captures<'_>| {
                    // A field that was left empty.
                    let space = if found[1].ends_with(':') { " " } else { "" };
                    format!("{}{space}{endpoint}", &found[1])
                })
                .into_owned(),
        })
        .collect()
}

/// A configuration of the kubelet with `endpoint`: in the field's place, or as a field more.
fn with_field(text: &str, endpoint: &str) -> String {
    if !values(text, &FIELD).is_empty() {
        return replaced(text, &FIELD, endpoint);
    }
    match text.split_once('{') {
        Some((before, after)) if before.trim().is_empty() => {
            format!("{before}{{\n  \"containerRuntimeEndpoint\": \"{endpoint}\",{after}")
        }
        _yaml => {
            let newline = if text.is_empty() || text.ends_with('\n') {
                ""
            } else {
                "\n"
            };
            format!("{text}{newline}containerRuntimeEndpoint: {endpoint}\n")
        }
    }
}

fn bare(endpoint: &str) -> &str {
    endpoint.strip_prefix("unix://").unwrap_or(endpoint)
}

fn socket(path: &Path, endpoint: &str) -> Result<PathBuf, InstallError> {
    match bare(endpoint) {
        socket if socket.starts_with('/') => Ok(socket.into()),
        _ => Err(InstallError::UnknownEndpoint {
            endpoint: endpoint.to_owned(),
            path: path.to_owned(),
        }),
    }
}

#[cfg(test)]
pub(super) mod tests;
