//! hwloc's objects, as parts of our model.

use super::error::DiscoverError;
use hwlocality::{
    Topology as Hwloc,
    object::{TopologyObject, attributes::ObjectAttributes, types::ObjectType},
    topology::builder::BuildFlags,
};
use resmgr_topology::{
    CoreId, CoreKind, Cpu, CpuId, CpuSet, DieId, L2Id, LlcId, Node, NodeId, PackageId, Parts,
};
use std::path::Path;

/// The machine we run on, all of it: not only what our own cgroup may use.
pub(super) fn from_machine() -> Result<Parts, DiscoverError> {
    let failed = |why: String| DiscoverError::Hwloc {
        from: "this machine".to_owned(),
        why,
    };
    let builder = Hwloc::builder()
        .with_flags(BuildFlags::INCLUDE_DISALLOWED)
        .map_err(|error| failed(error.to_string()))?;
    let hwloc = builder.build().map_err(|error| failed(error.to_string()))?;
    convert(&hwloc, "this machine")
}

/// A file that `lstopo --of xml` wrote.
pub(super) fn from_xml(path: &Path) -> Result<Parts, DiscoverError> {
    let text = super::sysfs::read(path)?;
    let from = path.display().to_string();
    let failed = |why: String| DiscoverError::Hwloc {
        from: from.clone(),
        why,
    };
    // hwloc's own message tells no broken file from another.
    if let Some(why) = unreadable(&text) {
        return Err(failed(why));
    }
    let hwloc = Hwloc::builder()
        .from_xml_file(path)
        .map_err(|error| failed(error.to_string()))?
        .with_flags(BuildFlags::INCLUDE_DISALLOWED)
        .map_err(|error| failed(error.to_string()))?
        .build()
        .map_err(|error| failed(error.to_string()))?;
    convert(&hwloc, &from)
}

/// Why the text is no XML that hwloc 2 reads, as far as that can be told.
fn unreadable(text: &str) -> Option<String> {
    let element = text.split_once("<topology").map(|(_, element)| element);
    let Some(element) = element else {
        return Some("the file has no <topology>: write it with `lstopo --of xml FILE`".to_owned());
    };
    let attributes = element.split('>').next().unwrap_or_default();
    let version = attributes.split_once("version=\"").map(|(_, value)| value);
    let version = version.and_then(|value| value.split('"').next());
    if let Some(version) = version.filter(|version| !version.starts_with(['1', '2'])) {
        return Some(format!(
            "the file is of format {version}, which hwloc 2 does not read: write it with \
             `lstopo --of xml --export-xml-flags v2 FILE`"
        ));
    }
    let complete = text.trim_end().ends_with("</topology>");
    (!complete).then(|| {
        "the file is torn, </topology> is missing: write it again with `lstopo --of xml FILE`"
            .to_owned()
    })
}

fn convert(hwloc: &Hwloc, from: &str) -> Result<Parts, DiscoverError> {
    let missing = |kind: &str| DiscoverError::Hwloc {
        from: from.to_owned(),
        why: format!("a {kind} has no number of the operating system"),
    };
    let index = |object: &TopologyObject, kind| {
        let index = object
            .os_index()
            .and_then(|index| u32::try_from(index).ok());
        index.ok_or_else(|| missing(kind))
    };

    let mut nodes: Vec<(Node, CpuSet)> = Vec::new();
    for object in hwloc.objects_with_type(ObjectType::NUMANode) {
        let memory_bytes = match object.attributes() {
            Some(ObjectAttributes::NUMANode(memory)) => memory.local_memory().map_or(0, u64::from),
            _ => 0,
        };
        let node = Node {
            id: NodeId(index(object, "NUMA node")?),
            cpus: CpuSet::EMPTY,
            memory_bytes,
        };
        nodes.push((node, span(object)));
    }

    let efficient = efficient(hwloc);
    let mut cpus = Vec::new();
    for pu in hwloc.objects_with_type(ObjectType::PU) {
        let id = CpuId(index(pu, "processing unit")?);
        let logical = |ty| {
            let found = pu.first_ancestor_with_type(ty)?;
            u32::try_from(found.logical_index()).ok()
        };
        // A package without a number is one that the kernel numbers -1: there is no such level, and no dies.
        let package = pu.first_ancestor_with_type(ObjectType::Package);
        let package = package.and_then(|package| index(package, "package").ok());
        let die = package.and_then(|_| logical(ObjectType::Die));
        let package = package.unwrap_or(0);
        // What is missing coincides with the next narrower or wider level; numbers only have to differ.
        let core = logical(ObjectType::Core).unwrap_or(id.0);
        let die = die.unwrap_or(package);
        let l2 = logical(ObjectType::L2Cache);
        let llc = logical(ObjectType::L3Cache).or(l2).unwrap_or(die);
        cpus.push(Cpu {
            id,
            core: CoreId(core),
            l2: L2Id(l2.unwrap_or(core)),
            llc: LlcId(llc),
            die: DieId(die),
            node: home(&nodes, id),
            package: PackageId(package),
            kind: if efficient.contains(id) {
                CoreKind::Efficiency
            } else {
                CoreKind::Performance
            },
        });
    }
    Ok(Parts {
        cpus,
        distances: distances(hwloc, &nodes).unwrap_or_default(),
        nodes: nodes.into_iter().map(|(node, _)| node).collect(),
        online: None,
        isolated: CpuSet::EMPTY,
        origin: from.to_owned(),
        notes: Vec::new(),
    })
}

fn span(object: &TopologyObject) -> CpuSet {
    let set = object.cpuset();
    let indexes = set.iter().flat_map(|set| set.iter_set());
    indexes
        .filter_map(|index| u32::try_from(usize::from(index)).ok())
        .map(CpuId)
        .collect()
}

/// hwloc gives memory-only nodes the CPUs nearest to them, so a CPU may have several nodes. Its own is
/// the one with the fewest CPUs, and of those the lowest: the kernel numbers nodes with CPUs first. One that is not described
/// when it has none.
fn home(nodes: &[(Node, CpuSet)], cpu: CpuId) -> NodeId {
    let near = nodes.iter().filter(|(_, span)| span.contains(cpu));
    let home = near.min_by_key(|(node, span)| (span.len(), node.id));
    home.map_or_else(
        || {
            NodeId(
                nodes
                    .iter()
                    .map(|(node, _)| node.id.0 + 1)
                    .max()
                    .unwrap_or(0),
            )
        },
        |(node, _)| node.id,
    )
}

/// CPUs of the least powerful kind, when there are several kinds and hwloc could rank them.
fn efficient(hwloc: &Hwloc) -> CpuSet {
    let Ok(mut kinds) = hwloc.cpu_kinds() else {
        return CpuSet::EMPTY;
    };
    if kinds.len() < 2 {
        return CpuSet::EMPTY;
    }
    let least = kinds.next().filter(|kind| kind.efficiency.is_some());
    least.map_or(CpuSet::EMPTY, |kind| {
        let indexes = kind.cpuset.iter_set().map(usize::from);
        indexes
            .filter_map(|index| u32::try_from(index).ok())
            .map(CpuId)
            .collect()
    })
}

/// The latency table, if it covers every node.
fn distances(hwloc: &Hwloc, nodes: &[(Node, CpuSet)]) -> Option<Vec<Vec<u16>>> {
    let tables = hwloc.distances_with_type(None, ObjectType::NUMANode).ok()?;
    let table = tables.iter().find(|table| {
        let name = table.name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name == "NUMALatency")
    })?;
    let ids: Vec<_> = table
        .objects()
        .map(|object| u32::try_from(object?.os_index()?).ok())
        .collect();
    let position = |node: &Node| ids.iter().position(|id| *id == Some(node.id.0));
    let entry = |from: usize, to: usize| {
        let value = table.distances().get(from * ids.len() + to)?;
        u16::try_from(*value).ok()
    };
    let row = |from: usize| -> Option<Vec<u16>> {
        let columns = nodes.iter().map(|(node, _)| entry(from, position(node)?));
        columns.collect()
    };
    nodes.iter().map(|(node, _)| row(position(node)?)).collect()
}
