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
//! `pools/NAME/SOCKET/CPULIST/` (directories).

use super::{
    Machine, PoolsConfig, Problem, Problems,
    document::section::{Judge, Section},
    raw::Origin,
};
use resmgr_topology::CpuSet;
use serde_yaml::Value;
use std::{io, path::Path};

/// One list of CPUs: the unit in which an exclusive pool is given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList {
    /// Package the CPUs are on; `--socket-id` selects by it.
    pub socket: u32,
    /// The CPUs.
    pub cpus: CpuSet,
}

/// One pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Whether a list belongs to one container at a time.
    pub exclusive: bool,
    /// Its lists, in the order written.
    pub lists: Vec<CpuList>,
}

/// All pools, in the order written. On this machine, no CPU is in two lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pools(pub Vec<Pool>);

/// The pools in force: pushed ones, else the file's, else the directory's.
///
/// # Errors
/// Everything wrong with them, or that there are none.
pub fn load(config: &PoolsConfig, machine: Machine<'_>) -> Result<Pools, Problems> {
    if let Some(pools) = &config.pushed {
        return Ok(pools.clone());
    }
    let unreadable = |key: &str, path: &Path, error: &io::Error| {
        Problems(vec![Problem {
            key: key.to_owned(),
            value: path.display().to_string(),
            origin: Origin::Default,
            message: format!("cannot read the pools: {error}"),
        }])
    };
    if let Some(path) = &config.file {
        let text = std::fs::read_to_string(path)
            .map_err(|error| unreadable("static-pools-conf-file", path, &error))?;
        return from_yaml(&text, path, machine);
    }
    from_cmk(&config.dir, machine)
        .map_err(|error| unreadable("static-pools-conf-dir", &config.dir, &error))?
}

/// Reads a pool file.
///
/// # Errors
/// Everything wrong with it.
pub fn from_yaml(text: &str, path: &Path, machine: Machine<'_>) -> Result<Pools, Problems> {
    let origin = Origin::File {
        path: path.into(),
        line: 1,
    };
    let mut judge = Judge::new(origin);
    let mut pools = Pools::default();
    if let Some(mut section) = judge.parse("", text) {
        let value = section.take("pools").unwrap_or_default();
        pools = read(&mut judge, "pools", value, machine);
        section.finish(&mut judge, &["pools"]);
    }
    judge.result(pools)
}

/// Judges the value of `pools`.
pub(super) fn read(judge: &mut Judge, path: &str, value: Value, machine: Machine<'_>) -> Pools {
    let mut pools = Pools::default();
    let Value::Mapping(map) = value else {
        judge.problem(
            path,
            "",
            "no pools configured; expected NAME: {exclusive, cpuLists}",
        );
        return pools;
    };
    for (name, value) in map {
        let Some(name) = name.as_str().filter(|name| !name.is_empty()) else {
            judge.problem(path, "", "a pool's name must be a text");
            continue;
        };
        let path = format!("{path}.{name}");
        let Some(mut section) = Section::new(judge, &path, value) else {
            continue;
        };
        let mut pool = Pool {
            name: name.to_owned(),
            ..Pool::default()
        };
        if let Some(exclusive) = section.boolean(judge, "exclusive") {
            pool.exclusive = exclusive;
        }
        match section.take("cpuLists") {
            None | Some(Value::Null) => {}
            Some(Value::Sequence(lists)) => {
                for (index, list) in lists.into_iter().enumerate() {
                    let path = format!("{path}.cpuLists[{index}]");
                    pool.lists.extend(read_list(judge, &path, list));
                }
            }
            Some(_) => judge.problem(
                &format!("{path}.cpuLists"),
                "",
                "expected a list of {Socket, Cpuset}",
            ),
        }
        section.finish(judge, &["exclusive", "cpuLists"]);
        pools.0.push(pool);
    }
    if pools.0.is_empty() {
        judge.problem(path, "", "no pools configured");
    }
    check(judge, path, &pools, machine);
    pools
}

fn read_list(judge: &mut Judge, path: &str, value: Value) -> Option<CpuList> {
    let mut section = Section::new(judge, path, value)?;
    let socket = section.text(judge, "Socket");
    let cpuset = section.text(judge, "Cpuset");
    section.finish(judge, &["Socket", "Cpuset"]);
    let socket = match socket.as_deref().map(str::parse) {
        None => 0,
        Some(Ok(socket)) => socket,
        Some(Err(_)) => {
            let typed = socket.unwrap_or_default();
            judge.problem(
                &format!("{path}.Socket"),
                &typed,
                "expected a package's number",
            );
            return None;
        }
    };
    let typed = cpuset.unwrap_or_default();
    match typed.parse::<CpuSet>() {
        Ok(cpus) if !cpus.is_empty() => Some(CpuList { socket, cpus }),
        Ok(_) => {
            judge.problem(
                &format!("{path}.Cpuset"),
                &typed,
                "expected a CPU list such as 2,18",
            );
            None
        }
        Err(error) => {
            judge.problem(&format!("{path}.Cpuset"), &typed, &error.to_string());
            None
        }
    }
}

/// CPUs that are not there, on another package than said, or in two lists.
fn check(judge: &mut Judge, path: &str, pools: &Pools, machine: Machine<'_>) {
    let topology = machine.topology;
    let mut taken: Vec<(&str, CpuSet)> = Vec::new();
    for pool in &pools.0 {
        let path = format!("{path}.{}", pool.name);
        for list in &pool.lists {
            let typed = list.cpus.to_string();
            let missing = list.cpus.difference(&topology.online);
            if !missing.is_empty() {
                let what = if missing.len() == 1 { "CPU" } else { "CPUs" };
                let online = topology.online;
                judge.problem(
                    &path,
                    &typed,
                    &format!("{what} {missing} not online on this machine ({online})"),
                );
            }
            for cpu in list.cpus.iter().filter_map(|cpu| topology.cpu(cpu)) {
                if cpu.package.0 != list.socket {
                    judge.problem(
                        &path,
                        &typed,
                        &format!(
                            "CPU {} is on socket {}, not {}",
                            cpu.id, cpu.package, list.socket
                        ),
                    );
                    break;
                }
            }
            for (other, cpus) in &taken {
                let both = cpus.intersection(&list.cpus);
                if !both.is_empty() {
                    judge.problem(
                        &path,
                        &typed,
                        &format!("CPUs {both} are in another list of pool {other:?} already"),
                    );
                }
            }
            taken.push((&pool.name, list.cpus));
        }
    }
}

/// Reads CMK's directory.
fn from_cmk(dir: &Path, machine: Machine<'_>) -> io::Result<Result<Pools, Problems>> {
    let origin = Origin::File {
        path: dir.into(),
        line: 0,
    };
    let mut judge = Judge::new(origin);
    let mut pools = Pools::default();
    for name in entries(&dir.join("pools"))? {
        let path = dir.join("pools").join(&name);
        let exclusive = std::fs::read_to_string(path.join("exclusive")).unwrap_or_default();
        let mut pool = Pool {
            name: name.clone(),
            exclusive: exclusive.trim() == "1",
            lists: Vec::new(),
        };
        for socket in entries(&path)?
            .into_iter()
            .filter(|name| name != "exclusive")
        {
            let Ok(number) = socket.parse() else {
                judge.problem(&name, &socket, "expected a package's number");
                continue;
            };
            for list in entries(&path.join(&socket))? {
                match list.parse() {
                    Ok(cpus) => pool.lists.push(CpuList {
                        socket: number,
                        cpus,
                    }),
                    Err(error) => judge.problem(&name, &list, &error.to_string()),
                }
            }
        }
        pool.lists
            .sort_by_key(|list| (list.socket, list.cpus.first()));
        pools.0.push(pool);
    }
    if pools.0.is_empty() {
        judge.problem("pools", "", "no pools configured");
    }
    check(&mut judge, "pools", &pools, machine);
    Ok(judge.result(pools))
}

/// Names in a directory, sorted.
fn entries(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests;
