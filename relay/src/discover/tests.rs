use super::*;
use resmgr_topology::{CoreKind, CpuSet, NodeId};
use std::fs;

#[cfg(feature = "hwloc")]
fn xml(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/discover/fixtures");
    dir.join(name)
}

#[cfg(feature = "hwloc")]
fn fixture(name: &str) -> TopologySource {
    TopologySource::Xml(xml(name))
}

/// Equal but for where they came from and for how much memory their nodes have.
fn assert_same_shape(mut left: Topology, mut right: Topology) {
    for topology in [&mut left, &mut right] {
        topology.origin = String::new();
        topology.notes.clear();
        topology
            .nodes
            .iter_mut()
            .for_each(|node| node.memory_bytes = 0);
    }
    assert_eq!(left, right);
}

#[test]
fn this_machine_is_the_same_through_hwloc_and_through_sysfs() {
    let root = Path::new("/");
    let machine = load(&TopologySource::Machine, root).unwrap();
    assert_eq!(machine.online, sysfs::online(root).unwrap());
    assert_eq!(machine.isolated, sysfs::isolated(root).unwrap());
    assert!(machine.nodes.iter().any(|node| node.memory_bytes > 0));
    assert_same_shape(machine, finish(sysfs::parts(root).unwrap()).unwrap());
}

#[cfg(feature = "hwloc")]
#[test]
fn an_xml_file_says_the_same_as_the_synthetic_description() {
    let read = load(&fixture("n4c16.xml"), Path::new("/")).unwrap();
    let made = Topology::synthetic("pack:2 l3:1 numa:2 core:2 pu:2").unwrap();
    assert_same_shape(read, made);
    let read = load(&fixture("dies.xml"), Path::new("/")).unwrap();
    let made = Topology::synthetic("pack:2 die:2 numa:1 l3:2 l2:2 core:1 pu:2").unwrap();
    assert_same_shape(read, made);
}

#[cfg(feature = "hwloc")]
#[test]
fn what_cannot_be_read_is_named() {
    let root = Path::new("/");
    let error = load(&TopologySource::Xml("/nonexistent.xml".into()), root).unwrap_err();
    assert_eq!(error.to_string(), "cannot read /nonexistent.xml");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.xml");
    let whole = fs::read_to_string(xml("n4c16.xml")).unwrap();
    let torn = whole.split_at(whole.len() / 2).0;
    for (text, problem) in [
        ("<nonsense", "has no <topology>"),
        (torn, "is torn, </topology> is missing"),
        (
            &*whole.replace("version=\"2.0\"", "version=\"3.0\""),
            "is of format 3.0, which hwloc 2 does not read: write it with `lstopo --of xml --export-xml-flags v2 FILE`",
        ),
        (&*whole.replace("\"PU\"", "\"P\""), "hwloc cannot load"),
    ] {
        fs::write(&path, text).unwrap();
        let error = load(&TopologySource::Xml(path.clone()), root).unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    }
    let error = load(&TopologySource::parse("pack:2 cores:3"), root).unwrap_err();
    assert!(error.to_string().contains("neither a file nor a synthetic"));
}

#[test]
fn json_reads_as_it_was_written_and_is_checked() {
    let made = Topology::synthetic("pack:2 core:2 pu:2").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.json");
    let text = serde_json::to_string(&made).unwrap();
    fs::write(&path, &text).unwrap();
    let source = TopologySource::parse(path.to_str().unwrap());
    assert_same_shape(load(&source, Path::new("/")).unwrap(), made);
    fs::write(&path, text.replace("\"id\":1,", "\"id\":0,")).unwrap();
    let error = load(&source, Path::new("/")).unwrap_err();
    assert!(error.to_string().contains("is inconsistent"), "{error}");
}

#[test]
fn a_value_of_the_topology_option_is_told_apart() {
    assert_eq!(TopologySource::parse(""), TopologySource::Machine);
    assert_eq!(
        TopologySource::parse("a.json"),
        TopologySource::Json("a.json".into())
    );
    assert_eq!(
        TopologySource::parse("pu:2"),
        TopologySource::Synthetic("pu:2".into())
    );
    assert_eq!(
        TopologySource::parse("dir/a.xml"),
        TopologySource::Xml("dir/a.xml".into())
    );
}

/// A machine of two packages of one hybrid core pair each, with a memory-only node and CPU 3 offline.
fn fake_host(dir: &Path, online: &str) {
    let write = |path: &str, text: &str| {
        let path = dir.join("sys/devices").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("system/cpu/online", online);
    write("system/cpu/isolated", "(null)\n");
    write("cpu_atom/cpus", "4\n");
    for (cpu, package, siblings) in [(0, 0, "0,2"), (2, 0, "0,2"), (3, 7, "3"), (4, 7, "4")] {
        let topology = format!("system/cpu/cpu{cpu}/topology");
        write(
            &format!("{topology}/physical_package_id"),
            &package.to_string(),
        );
        write(&format!("{topology}/thread_siblings_list"), siblings);
        let die = if package == 0 { "0,2" } else { "3-4" };
        write(&format!("{topology}/die_cpus_list"), die);
    }
    write("system/node/online", "0,2-3\n");
    for (node, cpus, distance) in [
        (0, "0,2", "10 21 17"),
        (2, "3-4", "21 10 28"),
        (3, "", "17 28 10"),
    ] {
        let node_dir = format!("system/node/node{node}");
        write(&format!("{node_dir}/cpulist"), cpus);
        write(&format!("{node_dir}/distance"), distance);
        let memory = format!("Node {node} MemTotal: 2048 kB\n");
        write(&format!("{node_dir}/meminfo"), &memory);
    }
}

#[test]
fn another_root_is_read_with_sparse_numbers_far_memory_and_kinds() {
    let dir = tempfile::tempdir().unwrap();
    fake_host(dir.path(), "0,2,4\n");
    let host = load(&TopologySource::Machine, dir.path()).unwrap();
    assert_eq!(host.all().to_string(), "0,2,4");
    assert_eq!(host.cores.len(), 2);
    assert_eq!(host.packages[1].id.0, 7);
    assert_eq!(host.distance(NodeId(0), NodeId(3)), 17);
    assert_eq!(host.nodes[2].memory_bytes, 2 << 20);
    assert_eq!(host.cpus[2].kind, CoreKind::Efficiency);
    assert_eq!(host.cpus[2].node, NodeId(2));
}

#[tokio::test]
async fn a_cpu_that_comes_online_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    fake_host(dir.path(), "0,2,4\n");
    let host = load(&TopologySource::Machine, dir.path()).unwrap();
    let mut watch = hotplug::Hotplug::new(dir.path().to_path_buf(), &host);
    assert_eq!(watch.look().await.unwrap(), None);
    fake_host(dir.path(), "0,2-4\n");
    let now = watch.look().await.unwrap().unwrap();
    assert_eq!(now.online.to_string(), "0,2-4");
    assert_eq!(watch.look().await.unwrap(), None);
}

/// A CPU as sysfs describes it: package and die as the kernel numbers them, and what shares its core and caches.
struct SysfsCpu {
    id: u32,
    package: i32,
    die: Option<String>,
    core: String,
    l2: String,
    l3: String,
    capacity: Option<u32>,
}

impl SysfsCpu {
    fn new(id: u32, package: i32, core: &str, l3: &str) -> Self {
        let [core, l2, l3] = [core, core, l3].map(str::to_owned);
        Self {
            id,
            package,
            die: None,
            core,
            l2,
            l3,
            capacity: None,
        }
    }
}

/// The kernel's mask of a list: words of 32 bits, the highest first.
fn mask(list: &str) -> String {
    let cpus: CpuSet = list.parse().unwrap();
    let highest = cpus.iter().last().map_or(0, |cpu| cpu.0);
    let word = |word: u32| {
        let bits = cpus.iter().filter(|cpu| cpu.0 / 32 == word);
        bits.map(|cpu| 1u32 << (cpu.0 % 32)).sum::<u32>()
    };
    let words = (0..=highest / 32).rev();
    let words: Vec<String> = words.map(|index| format!("{:08x}", word(index))).collect();
    words.join(",")
}

/// Writes a host as the kernel shows it, for both readers.
fn write_host(dir: &Path, cpus: &[SysfsCpu], nodes: &[(u32, &str)]) {
    let write = |path: &str, text: &str| {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    };
    let cpu_dir = "sys/devices/system/cpu";
    let online: CpuSet = cpus
        .iter()
        .map(|cpu| resmgr_topology::CpuId(cpu.id))
        .collect();
    for list in ["online", "possible", "present"] {
        write(&format!("{cpu_dir}/{list}"), &online.to_string());
    }
    for cpu in cpus {
        let dir = format!("{cpu_dir}/cpu{}", cpu.id);
        let package = cpus.iter().filter(|peer| peer.package == cpu.package);
        let package: CpuSet = package
            .map(|peer| resmgr_topology::CpuId(peer.id))
            .collect();
        let package = match cpu.package {
            -1 => cpu.core.clone(),
            _ => package.to_string(),
        };
        let set = |name: &str, list: &str| {
            write(&format!("{dir}/{name}"), &mask(list));
            write(&format!("{dir}/{name}_list"), list);
        };
        write(
            &format!("{dir}/topology/physical_package_id"),
            &cpu.package.to_string(),
        );
        write(&format!("{dir}/topology/core_id"), &cpu.id.to_string());
        for name in ["thread_siblings", "core_cpus"] {
            set(&format!("topology/{name}"), &cpu.core);
        }
        for name in ["core_siblings", "package_cpus"] {
            set(&format!("topology/{name}"), &package);
        }
        let die_id = if cpu.die.is_some() { "-1" } else { "0" };
        write(&format!("{dir}/topology/die_id"), die_id);
        set("topology/die_cpus", cpu.die.as_ref().unwrap_or(&package));
        if let Some(capacity) = cpu.capacity {
            write(&format!("{dir}/cpu_capacity"), &capacity.to_string());
        }
        for (index, (level, shared)) in [("1", &cpu.core), ("2", &cpu.l2), ("3", &cpu.l3)]
            .iter()
            .enumerate()
        {
            let cache = format!("{dir}/cache/index{index}");
            write(&format!("{cache}/level"), level);
            write(
                &format!("{cache}/type"),
                if *level == "1" { "Data" } else { "Unified" },
            );
            write(&format!("{cache}/size"), "1024K");
            write(&format!("{cache}/shared_cpu_list"), shared);
            write(&format!("{cache}/shared_cpu_map"), &mask(shared));
        }
    }
    let ids: Vec<String> = nodes.iter().map(|(id, _)| id.to_string()).collect();
    for list in ["online", "possible", "has_memory"] {
        write(&format!("sys/devices/system/node/{list}"), &ids.join(","));
    }
    for (id, cpus) in nodes {
        let dir = format!("sys/devices/system/node/node{id}");
        write(&format!("{dir}/cpulist"), cpus);
        write(&format!("{dir}/cpumap"), &mask(cpus));
        write(
            &format!("{dir}/meminfo"),
            &format!("Node {id} MemTotal: 4194304 kB"),
        );
        let row: Vec<&str> = nodes
            .iter()
            .map(|(to, _)| if to == id { "10" } else { "20" })
            .collect();
        write(&format!("{dir}/distance"), &row.join(" "));
    }
    write("proc/meminfo", "MemTotal: 16777216 kB");
    write("proc/cpuinfo", "processor : 0");
    write("proc/mounts", "sysfs /sys sysfs rw 0 0");
}

/// What both readers make of a host; hwloc's only where `lstopo` is installed.
fn read_host(cpus: &[SysfsCpu], nodes: &[(u32, &str)]) -> (Topology, Option<Topology>) {
    let dir = tempfile::tempdir().unwrap();
    write_host(dir.path(), cpus, nodes);
    let host = load(&TopologySource::Machine, dir.path()).unwrap();
    let xml = dir.path().join("host.xml");
    let written = std::process::Command::new("lstopo")
        .args(["--if", "fsroot", "--of", "xml", "-i"])
        .args([dir.path(), &xml])
        .output();
    let by_hwloc = written.is_ok_and(|output| output.status.success());
    let by_hwloc = by_hwloc.then(|| load(&TopologySource::Xml(xml), Path::new("/")).unwrap());
    (host, by_hwloc)
}

fn spans<Id>(groups: &[resmgr_topology::Group<Id>]) -> Vec<String> {
    groups.iter().map(|group| group.cpus.to_string()).collect()
}

#[test]
fn guests_whose_sockets_share_a_cache_have_a_cache_for_each_socket() {
    let cpus: Vec<_> = (0..6)
        .map(|id| SysfsCpu::new(id, id as i32, &id.to_string(), "0-5"))
        .collect();
    let (host, by_hwloc) = read_host(&cpus, &[(0, "0-5")]);
    assert_eq!(
        (host.packages.len(), host.llcs.len(), host.nodes.len()),
        (6, 6, 1)
    );
    assert_eq!(host.notes.len(), 1, "{:?}", host.notes);
    by_hwloc
        .into_iter()
        .for_each(|by_hwloc| assert_same_shape(by_hwloc, host.clone()));
}

#[test]
fn a_level_that_the_kernel_numbers_minus_one_is_none() {
    let core = |id: u32| format!("{}-{}", id / 4 * 4, id / 4 * 4 + 3);
    let pair = |id: u32| format!("{}-{}", id / 8 * 8, id / 8 * 8 + 7);
    let cpu = |id| SysfsCpu {
        die: Some(format!("{id}")),
        l2: pair(id),
        ..SysfsCpu::new(id, -1, &core(id), &pair(id))
    };
    let cpus: Vec<_> = (0..32).map(cpu).collect();
    let (host, by_hwloc) = read_host(&cpus, &[(0, "0-15"), (8, "16-31")]);
    assert_eq!((host.packages.len(), host.dies.len()), (1, 1));
    assert_eq!(
        (host.cores.len(), host.llcs.len(), host.nodes.len()),
        (8, 4, 2)
    );
    assert!(host.notes.is_empty(), "{:?}", host.notes);
    by_hwloc
        .into_iter()
        .for_each(|by_hwloc| assert_same_shape(by_hwloc, host.clone()));
}

#[test]
fn threads_of_a_core_on_two_nodes_do_not_keep_a_machine_from_being_read() {
    let core = |id: u32| format!("{}-{}", id / 2 * 2, id / 2 * 2 + 1);
    let cpus: Vec<_> = (0..8)
        .map(|id| SysfsCpu::new(id, 0, &core(id), "0-7"))
        .collect();
    let (host, by_hwloc) = read_host(&cpus, &[(0, "0,2,4,6"), (1, "1,3,5,7")]);
    assert_eq!(host.cores.len(), 8);
    assert_eq!(spans(&host.llcs), ["0-7"]);
    assert!(
        host.notes[0].contains("threads of a core on another NUMA node"),
        "{:?}",
        host.notes
    );
    // hwloc drops what does not nest itself, before we see it.
    by_hwloc
        .into_iter()
        .for_each(|by_hwloc| assert_eq!(by_hwloc.nodes.len(), 2));
}

#[test]
fn a_cpu_of_no_node_has_that_of_its_neighbours() {
    let cpus: Vec<_> = (0..4)
        .map(|id| SysfsCpu::new(id, 0, &id.to_string(), "0-3"))
        .collect();
    let (host, by_hwloc) = read_host(&cpus, &[(2, "0-2")]);
    assert_eq!(host.cpus[3].node, NodeId(2));
    by_hwloc
        .into_iter()
        .for_each(|by_hwloc| assert_same_shape(by_hwloc, host.clone()));
}

#[test]
fn cpu_numbers_up_to_the_kernels_largest_are_read() {
    let cpu = |id| SysfsCpu::new(id, i32::from(id > 5000), &id.to_string(), &id.to_string());
    let (host, by_hwloc) = read_host(
        &[cpu(0), cpu(2048), cpu(8191)],
        &[(0, "0,2048"), (1, "8191")],
    );
    assert_eq!(host.online.to_string(), "0,2048,8191");
    by_hwloc
        .into_iter()
        .for_each(|by_hwloc| assert_same_shape(by_hwloc, host.clone()));
    let dir = tempfile::tempdir().unwrap();
    write_host(dir.path(), &[cpu(0)], &[(0, "0")]);
    fs::write(dir.path().join("sys/devices/system/cpu/online"), "0-8192\n").unwrap();
    let error = load(&TopologySource::Machine, dir.path()).unwrap_err();
    let text = "CPU 8192 is beyond the largest supported number 8191";
    let source = std::error::Error::source(&error).map(ToString::to_string);
    assert_eq!(source.as_deref(), Some(text));
}

#[test]
fn efficiency_cores_are_known_by_their_capacity() {
    let cpu = |id: u32| {
        let core = if id < 4 {
            format!("{}-{}", id / 2 * 2, id / 2 * 2 + 1)
        } else {
            id.to_string()
        };
        // A favoured core is a little stronger than the rest.
        let capacity = [1024, 1024, 1009, 1009]
            .get(id as usize)
            .copied()
            .unwrap_or(600);
        SysfsCpu {
            capacity: Some(capacity),
            ..SysfsCpu::new(id, 0, &core, "0-7")
        }
    };
    let cpus: Vec<_> = (0..8).map(cpu).collect();
    let (host, _) = read_host(&cpus, &[(0, "0-7")]);
    let slow = host
        .cpus
        .iter()
        .filter(|cpu| cpu.kind == CoreKind::Efficiency);
    let slow: CpuSet = slow.map(|cpu| cpu.id).collect();
    assert_eq!(slow.to_string(), "4-7");
}
