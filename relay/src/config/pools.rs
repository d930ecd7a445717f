//! Pools of the static-pools policy, as written in a document, a file or CMK's directory.
//!
//! ```yaml
//! pools:
//!   exclusive:
//!     exclusive: true
//!     cpuLists:
//!     - { Socket: 0, Cpuset: "2,18" }
//! ```
//!
//! CMK's directory holds the same as `pools/NAME/exclusive` (a file, `1` when exclusive) and
//! `pools/NAME/SOCKET/CPULIST/` (directories). The policy itself checks the pools against this
//! machine; here its problems get the place where the pools were written.

use super::{
    PoolsSource, Problem, Problems,
    document::section::{Report, Section},
    line::line_of,
    origin::Origin,
};
use resmgr_policy::{CpuListConfig, PoolConfig, PoolsConfig, StaticPools, pools_from_directory};
use resmgr_topology::Topology;
use serde_yaml::Value;
use std::{io, path::Path, sync::Arc};

/// The key of pools in the policy's problems.
const KEY: &str = "policy.static-pools.pools";

/// What to do where there are no pools yet.
pub const ADVICE: &str = "; to make some: cri-resmgr make-pools --exclusive 1 --output /etc/cri-resmgr/pools.conf, then start with \
                      --static-pools-conf-file /etc/cri-resmgr/pools.conf";

/// The pools in force: pushed ones, else the file's, else the directory's.
///
/// # Errors
/// Everything wrong with them, or that there are none.
pub fn load(source: &PoolsSource, topology: &Topology) -> Result<PoolsConfig, Problems> {
    if let Some(pools) = &source.pushed {
        return Ok(pools.clone());
    }
    let unreadable = |key: &str, path: &Path, error: &io::Error| {
        Problems(vec![Problem {
            key: key.to_owned(),
            value: path.display().to_string(),
            origin: source.origin.clone(),
            message: format!("cannot read the pools: {error}"),
        }])
    };
    if let Some(path) = &source.file {
        let text = std::fs::read_to_string(path)
            .map_err(|error| unreadable("static-pools-conf-file", path, &error))?;
        return from_yaml(&text, path, topology);
    }
    from_cmk(&source.dir, topology).map_err(|error| {
        let mut problems = unreadable("static-pools-conf-dir", &source.dir, &error);
        if error.kind() == io::ErrorKind::NotFound {
            problems
                .0
                .iter_mut()
                .for_each(|problem| problem.message += ADVICE);
        }
        problems
    })?
}

/// Whether no pools were named at all: then a document that is pushed later may bring them.
#[must_use]
pub fn are_awaited(source: &PoolsSource) -> bool {
    let nowhere = source.pushed.is_none() && source.file.is_none();
    nowhere && source.origin == Origin::Default && !source.dir.join("pools").exists()
}

/// Reads a pool file.
///
/// # Errors
/// Everything wrong with it.
pub fn from_yaml(text: &str, path: &Path, topology: &Topology) -> Result<PoolsConfig, Problems> {
    let path: Arc<Path> = path.into();
    let at = |line| Origin::File {
        path: Arc::clone(&path),
        line,
    };
    let mut report = Report::new(at(0));
    let mut pools = PoolsConfig::default();
    if let Some(mut section) = report.parse("", text) {
        let value = section.take("pools").unwrap_or_default();
        if let Some(read) = read(&mut report, "pools", value) {
            check(&mut report, "pools", &read, topology);
            pools = read;
        }
        section.finish(&mut report, &["pools"]);
    }
    for problem in &mut report.problems {
        problem.origin = at(line_of(text, &problem.key).unwrap_or_default());
    }
    report.result(pools)
}

/// Reads the value of `pools`; `None` when it is not written as it should be.
pub(super) fn read(report: &mut Report, path: &str, value: Value) -> Option<PoolsConfig> {
    let mut pools = PoolsConfig::default();
    let map = match value {
        Value::Mapping(map) if !map.is_empty() => map,
        _ => {
            let message = "no pools configured; expected NAME: {exclusive, cpuLists}";
            report.problem(path, "", message);
            return None;
        }
    };
    let before = report.problems.len();
    for (name, value) in map {
        let Some(name) = name.as_str().filter(|name| !name.is_empty()) else {
            report.problem(path, "", "a pool's name must be a text");
            continue;
        };
        let path = format!("{path}.{name}");
        if let Some(section) = Section::new(report, &path, value) {
            let pool = read_pool(report, &path, section);
            pools.pools.insert(name.to_owned(), pool);
        }
    }
    (report.problems.len() == before).then_some(pools)
}

fn read_pool(report: &mut Report, path: &str, mut section: Section) -> PoolConfig {
    let mut pool = PoolConfig {
        exclusive: section.boolean(report, "exclusive").unwrap_or_default(),
        cpu_lists: Vec::new(),
    };
    match section.take("cpuLists") {
        None | Some(Value::Null) => {}
        Some(Value::Sequence(lists)) => {
            for (index, list) in lists.into_iter().enumerate() {
                let path = format!("{path}.cpuLists[{index}]");
                pool.cpu_lists.extend(read_list(report, &path, list));
            }
        }
        Some(_) => report.problem(
            &format!("{path}.cpuLists"),
            "",
            "expected a list of {Socket, Cpuset}",
        ),
    }
    section.finish(report, &["exclusive", "cpuLists"]);
    pool
}

fn read_list(report: &mut Report, path: &str, value: Value) -> Option<CpuListConfig> {
    let mut section = Section::new(report, path, value)?;
    let socket = |text: &str| {
        text.parse()
            .map_err(|_not_a_number| "expected a package's number")
    };
    let list = CpuListConfig {
        socket: section.parsed(report, "Socket", socket).unwrap_or_default(),
        cpuset: section.text(report, "Cpuset").unwrap_or_default(),
    };
    section.finish(report, &["Socket", "Cpuset"]);
    Some(list)
}

/// Reports the problems that the policy finds in them on this machine.
pub(super) fn check(report: &mut Report, path: &str, pools: &PoolsConfig, topology: &Topology) {
    for problem in StaticPools::new(topology, pools).err().unwrap_or_default() {
        let pool = problem.key.strip_prefix(KEY).unwrap_or_default();
        report.problem(&format!("{path}{pool}"), "", &problem.message);
    }
}

/// Reads CMK's directory.
fn from_cmk(dir: &Path, topology: &Topology) -> io::Result<Result<PoolsConfig, Problems>> {
    let mut report = Report::new(Origin::File {
        path: dir.into(),
        line: 0,
    });
    let mut found = Vec::new();
    collect(dir, "pools", &mut found)?;
    let entries = found
        .iter()
        .map(|(path, content)| (path.as_str(), content.as_deref()));
    let pools = match pools_from_directory(entries) {
        Ok(pools) => pools,
        Err(lines) => {
            for line in lines {
                report.problem("pools", "", &line);
            }
            return Ok(report.result(PoolsConfig::default()));
        }
    };
    check(&mut report, "pools", &pools, topology);
    Ok(report.result(pools))
}

/// The entries below `pools` with the content of files, down to the CPU lists; what CMK keeps below those
/// does not define pools.
fn collect(dir: &Path, below: &str, found: &mut Vec<(String, Option<String>)>) -> io::Result<()> {
    let named = |path: &Path, error: io::Error| {
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    };
    let directory = dir.join(below);
    for entry in std::fs::read_dir(&directory).map_err(|error| named(&directory, error))? {
        let entry = entry.map_err(|error| named(&directory, error))?;
        let path = format!("{below}/{}", entry.file_name().to_string_lossy());
        if std::fs::metadata(entry.path())
            .map_err(|error| named(&entry.path(), error))?
            .is_dir()
        {
            if path.matches('/').count() < 3 {
                collect(dir, &path, found)?;
            }
            found.push((path, None));
        } else {
            let content =
                std::fs::read(entry.path()).map_err(|error| named(&entry.path(), error))?;
            found.push((path, Some(String::from_utf8_lossy(&content).into_owned())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
