use super::*;
use resmgr_topology::{CoreKind, NodeId};
use std::{fs, time::Duration};

#[cfg(feature = "hwloc")]
fn fixture(name: &str) -> TopologySource {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/discover/fixtures");
    TopologySource::Xml(dir.join(name))
}

/// Equal but for where they came from and for how much memory their nodes have.
fn assert_same_shape(mut left: Topology, mut right: Topology) {
    for topology in [&mut left, &mut right] {
        topology.origin = String::new();
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

#[test]
fn what_cannot_be_read_is_named() {
    let root = Path::new("/");
    let error = load(&TopologySource::Xml("/nonexistent.xml".into()), root).unwrap_err();
    assert_eq!(error.to_string(), "cannot read /nonexistent.xml");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.xml");
    fs::write(&path, "<nonsense").unwrap();
    let error = load(&TopologySource::Xml(path), root).unwrap_err();
    assert!(error.to_string().contains("hwloc cannot load"), "{error}");
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
    fs::write(&path, text.replace("\"node\":0", "\"node\":5")).unwrap();
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
    let watch = hotplug::Hotplug::new(dir.path().to_path_buf(), &host);
    let mut watch = watch.every(Duration::from_millis(1));
    fake_host(dir.path(), "0,2-4\n");
    let now = watch.changed().await.unwrap();
    assert_eq!(now.online.to_string(), "0,2-4");
}

#[test]
fn threads_of_a_core_share_its_caches_whatever_the_machine_says() {
    let mut parts = Topology::synthetic("pack:1 core:2 pu:2")
        .unwrap()
        .into_parts();
    for cpu in &mut parts.cpus {
        cpu.l2 = resmgr_topology::L2Id(cpu.id.0);
        cpu.llc = resmgr_topology::LlcId(cpu.id.0);
    }
    assert!(Topology::from_parts(parts.clone()).is_err());
    assert_eq!(mend_caches(&mut parts).to_string(), "1,3");
    let topology = finish(parts).unwrap();
    assert_eq!((topology.l2s.len(), topology.llcs.len()), (2, 2));
}
