//! What the kernel itself says in sysfs: `Documentation/ABI/stable/sysfs-devices-system-cpu`,
//! `sysfs-devices-node` and `Documentation/admin-guide/cputopology.rst`.

use super::error::DiscoverError;
use resmgr_topology::{
    CoreId, CoreKind, Cpu, CpuId, CpuSet, DieId, L2Id, LlcId, Node, NodeId, PackageId, Parts,
    parse_nodes,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The text of a file.
///
/// # Errors
/// [`DiscoverError::Read`].
pub(super) fn read(path: &Path) -> Result<String, DiscoverError> {
    fs::read_to_string(path).map_err(|source| DiscoverError::Read {
        path: path.to_path_buf(),
        source,
    })
}

/// The trimmed text of a kernel file; `None` when there is no such file.
fn read_if_any(path: &Path) -> Result<Option<String>, DiscoverError> {
    match read(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(DiscoverError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn value<T: FromStr>(path: &Path, expected: &'static str) -> Result<Option<T>, DiscoverError> {
    let Some(value) = read_if_any(path)? else {
        return Ok(None);
    };
    let parsed = value.parse().ok();
    parsed.map(Some).ok_or_else(|| DiscoverError::Value {
        path: path.to_path_buf(),
        value,
        expected,
    })
}

fn cpu_list(path: &Path) -> Result<Option<CpuSet>, DiscoverError> {
    let Some(list) = read_if_any(path)? else {
        return Ok(None);
    };
    let parsed = list.parse();
    parsed.map(Some).map_err(|source| DiscoverError::CpuList {
        path: path.to_path_buf(),
        source,
    })
}

fn cpu_dir(host_root: &Path) -> PathBuf {
    host_root.join("sys/devices/system/cpu")
}

fn node_dir(host_root: &Path) -> PathBuf {
    host_root.join("sys/devices/system/node")
}

/// CPUs online now.
///
/// # Errors
/// [`DiscoverError`] when the kernel's file cannot be read.
pub(super) fn online(host_root: &Path) -> Result<CpuSet, DiscoverError> {
    let path = cpu_dir(host_root).join("online");
    let set = cpu_list(&path)?;
    set.ok_or_else(|| DiscoverError::Read {
        path,
        source: io::ErrorKind::NotFound.into(),
    })
}

/// CPUs isolated by the kernel's command line.
///
/// # Errors
/// [`DiscoverError`] when the kernel's file says something else than a list.
pub(super) fn isolated(host_root: &Path) -> Result<CpuSet, DiscoverError> {
    let path = cpu_dir(host_root).join("isolated");
    // Kernels of 6.1 to 6.3 print "(null)" when there are none.
    if read_if_any(&path)?.is_none_or(|text| text.starts_with('(')) {
        return Ok(CpuSet::EMPTY);
    }
    Ok(cpu_list(&path)?.unwrap_or_default())
}

/// NUMA nodes and the table of their distances; one node with everything on a kernel without NUMA.
fn nodes(host_root: &Path) -> Result<(Vec<Node>, Vec<Vec<u16>>), DiscoverError> {
    let dir = node_dir(host_root);
    let path = dir.join("online");
    let Some(list) = read_if_any(&path)? else {
        let node = Node {
            id: NodeId(0),
            cpus: online(host_root)?,
            memory_bytes: memory(&host_root.join("proc/meminfo"))?,
        };
        return Ok((vec![node], vec![vec![10]]));
    };
    let ids = parse_nodes(&list).map_err(|_not_a_list| DiscoverError::Value {
        path,
        value: list,
        expected: "a list of NUMA nodes such as 0-1",
    })?;
    let mut nodes = Vec::new();
    let mut distances = Vec::new();
    for id in ids {
        let dir = dir.join(format!("node{id}"));
        nodes.push(Node {
            id,
            cpus: cpu_list(&dir.join("cpulist"))?.unwrap_or_default(),
            memory_bytes: memory(&dir.join("meminfo"))?,
        });
        let row = read_if_any(&dir.join("distance"))?.unwrap_or_default();
        let row = row.split_whitespace().filter_map(|word| word.parse().ok());
        distances.push(row.collect::<Vec<u16>>());
    }
    if distances.iter().any(|row| row.len() != nodes.len()) {
        distances.clear();
    }
    Ok((nodes, distances))
}

/// `MemTotal` in bytes.
fn memory(path: &Path) -> Result<u64, DiscoverError> {
    let text = read_if_any(path)?.unwrap_or_default();
    let total = text.lines().find_map(|line| {
        let (_, rest) = line.split_once("MemTotal:")?;
        let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    });
    Ok(total.unwrap_or(0))
}

/// Corrects a description by what the kernel says now: online and isolated CPUs, nodes, distances.
///
/// # Errors
/// [`DiscoverError`] when the kernel's files cannot be read.
pub(super) fn complete(parts: &mut Parts, host_root: &Path) -> Result<(), DiscoverError> {
    let online = online(host_root)?;
    let isolated = isolated(host_root)?;
    let (nodes, distances) = nodes(host_root)?;
    let efficient = efficient(host_root, parts)?;
    let nowhere = NodeId(nodes.iter().map(|node| node.id.0 + 1).max().unwrap_or(0));
    for cpu in &mut parts.cpus {
        let node = nodes.iter().find(|node| node.cpus.contains(cpu.id));
        cpu.node = node.map_or(nowhere, |node| node.id);
        if efficient.contains(cpu.id) {
            cpu.kind = CoreKind::Efficiency;
        }
    }
    let known: CpuSet = parts.cpus.iter().map(|cpu| cpu.id).collect();
    parts.nodes = nodes;
    parts.distances = distances;
    parts.online = Some(online.intersection(&known));
    parts.isolated = isolated.intersection(&known);
    Ok(())
}

/// CPUs of efficiency cores: those the driver of hybrid Intel processors names, or else those of much less
/// capacity than the strongest (`cpu_capacity`, thousandths of the strongest of the machine at its highest
/// frequency); a favoured core is only a little stronger than the rest.
fn efficient(host_root: &Path, parts: &Parts) -> Result<CpuSet, DiscoverError> {
    if let Some(atom) = cpu_list(&host_root.join("sys/devices/cpu_atom/cpus"))? {
        return Ok(atom);
    }
    let mut capacities = Vec::new();
    for cpu in &parts.cpus {
        let path = cpu_dir(host_root).join(format!("cpu{}/cpu_capacity", cpu.id));
        if let Some(capacity) = value::<u64>(&path, "a number")? {
            capacities.push((cpu.id, capacity));
        }
    }
    let strongest = capacities.iter().map(|(_, capacity)| *capacity).max();
    let weak = |capacity| strongest.is_some_and(|strongest| capacity * 4 <= strongest * 3);
    let weak = capacities
        .into_iter()
        .filter(|(_, capacity)| weak(*capacity));
    Ok(weak.map(|(cpu, _)| cpu).collect())
}

/// Describes the machine from sysfs alone.
///
/// # Errors
/// [`DiscoverError`] when the kernel's files cannot be read.
pub(super) fn parts(host_root: &Path) -> Result<Parts, DiscoverError> {
    let dir = cpu_dir(host_root);
    let mut cpus = Vec::new();
    for id in online(host_root)?.iter() {
        cpus.push(describe(&dir.join(format!("cpu{id}")), id)?);
    }
    let mut parts = Parts {
        cpus,
        origin: "this machine".to_owned(),
        ..Parts::default()
    };
    complete(&mut parts, host_root)?;
    Ok(parts)
}

/// Groups are named by the lowest CPU in them: unique over the machine, unlike `core_id`.
fn describe(dir: &Path, id: CpuId) -> Result<Cpu, DiscoverError> {
    let topology = dir.join("topology");
    let lowest = |path: PathBuf| -> Result<Option<u32>, DiscoverError> {
        Ok(cpu_list(&path)?
            .and_then(|set| set.first())
            .map(|cpu| cpu.0))
    };
    // Kernels say -1 of a level that the machine does not have.
    let number = |name| -> Result<Option<u32>, DiscoverError> {
        let number: Option<i64> = value(&topology.join(name), "a number")?;
        Ok(number.and_then(|number| u32::try_from(number).ok()))
    };
    let package = number("physical_package_id")?;
    let core = lowest(topology.join("thread_siblings_list"))?.unwrap_or(id.0);
    let die = match (package, number("die_id")?) {
        (Some(_), Some(_)) => lowest(topology.join("die_cpus_list"))?,
        _ => None,
    };
    let package = package.unwrap_or(0);
    let die = die.unwrap_or(package);
    let (mut l2, mut l3) = (None, None);
    for index in 0..16 {
        let cache = dir.join(format!("cache/index{index}"));
        let Some(level) = value::<u32>(&cache.join("level"), "a number")? else {
            break;
        };
        if read_if_any(&cache.join("type"))?.is_some_and(|kind| kind == "Instruction") {
            continue;
        }
        let shared = lowest(cache.join("shared_cpu_list"))?;
        match level {
            2 => l2 = shared,
            3 => l3 = shared,
            _ => {}
        }
    }
    Ok(Cpu {
        id,
        core: CoreId(core),
        l2: L2Id(l2.unwrap_or(core)),
        llc: LlcId(l3.or(l2).unwrap_or(die)),
        die: DieId(die),
        node: NodeId(0),
        package: PackageId(package),
        kind: CoreKind::Performance,
    })
}
