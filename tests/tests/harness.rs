//! The harness itself, against the real parts: what later tests rely on.

use resmgr_tests::{Container, Cri, Guest, Runtime, eventually, kernel, skip};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_container_of_the_private_runtime_is_where_the_kernel_says() {
    if let Some(why) = skip::no_runtime() {
        return skip::skip("harness: private runtime", &why);
    }
    let runtime = Runtime::start().unwrap();
    let parent = runtime.cgroup_parent().to_owned();
    let mut cri = Cri::connect(&runtime.socket(), &parent).await.unwrap();
    let pod = cri.run_pod("pinned", "", &[]).await.unwrap();
    let mut wanted = Container::sleeping("main");
    wanted.resources.cpuset_cpus = "0".into();
    let id = cri.run(&pod, &wanted).await.unwrap();

    assert_eq!(kernel::cpuset_cpus(&parent, &id).unwrap(), "0");
    assert!(
        eventually(Duration::from_secs(5), async || {
            kernel::allowed(&parent, &id).is_ok_and(|cpus| cpus == "0")
        })
        .await
    );
    drop(runtime);
    assert!(kernel::cgroup(&parent, &id).is_err(), "cgroup left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_runtime_comes_back_and_knows_its_containers() {
    if let Some(why) = skip::no_runtime() {
        return skip::skip("harness: runtime restart", &why);
    }
    let mut runtime = Runtime::start().unwrap();
    let parent = runtime.cgroup_parent().to_owned();
    let mut cri = Cri::connect(&runtime.socket(), &parent).await.unwrap();
    let pod = cri.run_pod("lasting", "", &[]).await.unwrap();
    let id = cri.run(&pod, &Container::sleeping("main")).await.unwrap();
    runtime.kill().unwrap();
    runtime.restart().unwrap();
    let mut cri = Cri::connect(&runtime.socket(), &parent).await.unwrap();
    cri.stop(&id).await.unwrap();
    cri.remove(&id).await.unwrap();
    cri.remove_pod(&pod).await.unwrap();
}

#[test]
fn a_guest_has_the_sockets_nodes_and_threads_asked_for() {
    let guest = Guest::n4c16();
    if let Some(why) = guest.unavailable() {
        return skip::skip("harness: guest", &why);
    }
    let ran = guest
        .run(
            "cd /sys/devices/system\n\
             echo nodes $(cat node/online)\n\
             echo node3 $(cat node/node3/cpulist)\n\
             echo package $(cat cpu/cpu8/topology/physical_package_id)\n\
             echo siblings $(cat cpu/cpu8/topology/thread_siblings_list)\n\
             echo distances $(cat node/node0/distance)\n\
             exit 7",
            |line| println!("{line}"),
        )
        .unwrap();
    assert_eq!(ran.status, 7);
    for line in [
        "nodes 0-3",
        "node3 12-15",
        "package 1",
        "siblings 8-9",
        "distances 10 12 21 21",
    ] {
        assert!(
            ran.output.lines().any(|seen| seen == line),
            "no {line:?} in {}",
            ran.output
        );
    }
}
