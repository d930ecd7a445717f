//! `static` and `static-plus`: exclusive CPUs sliced off the shared ones.
//!
//! Expected CPUs follow from the order of the allocator: the fullest socket, node and cache that hold the request, whole
//! cores, then the rest of a broken core. CPUs of a core are neighbours; nodes are 0-3, 4-7, 8-11, 12-15.

use super::stage::{PATIENCE, Stage, Who, best_effort, burstable, guaranteed};
use resmgr_tests::{eventually, kernel};

/// 750m reserved are CPU 0: never given out, and shared.
pub(crate) async fn exclusive_cpus_are_disjoint_and_come_by_whole_cores(stage: &mut Stage) {
    stage
        .relay(&["--policy", "static", "--reserved-resources", "cpu=750m"])
        .await;
    let shared = stage.run(&best_effort("shared")).await;
    stage.on(&shared, "0-15").await;
    let all = stage.run(&guaranteed("all", 15)).await;
    stage.on(&all, "1-15").await;
    stage.on(&shared, "0").await;
    let error = stage.refused(&guaranteed("more", 1)).await;
    assert!(error.contains("static: not enough capacity"), "{error}");
    stage.end(&all).await;
    stage.on(&shared, "0-15").await;

    for (name, cpus, wanted, left) in [
        ("one", 1, "1", "0,2-15"),
        ("another", 1, "2", "0,3-15"),
        ("three", 3, "4-6", "0,3,7-15"),
        ("third", 3, "8-10", "0,3,7,11-15"),
        ("fourth", 3, "12-14", "0,3,7,11,15"),
        // No core is whole any more: at least they are on one socket.
        ("pair", 2, "3,7", "0,11,15"),
    ] {
        let id = stage.run(&guaranteed(name, cpus)).await;
        stage.on(&id, wanted).await;
        stage.on(&shared, left).await;
    }
    let burst = stage.run(&burstable("burst", 2000)).await;
    stage.on(&burst, "0,11,15").await;
    let mut part = guaranteed("part", 1);
    part.container.resources.cpu_shares = 1536;
    part.container.resources.cpu_quota = 150_000;
    let part = stage.run(&part).await;
    stage.on(&part, "0,11,15").await;
}

/// A list is reserved as it is given.
pub(crate) async fn reserved_lists_are_kept(stage: &mut Stage) {
    for (reserved, rest) in [("10-11", "0-9,12-15"), ("7,11", "0-6,8-10,12-15")] {
        let words = format!("cpu=cpuset:{reserved}");
        let arguments = ["--policy", "static", "--reserved-resources", &words];
        stage.relay(&arguments).await;
        let most = stage.run(&guaranteed("most", 14)).await;
        stage.on(&most, rest).await;
        let shared = stage.run(&best_effort("shared")).await;
        stage.on(&shared, reserved).await;
    }
}

/// As a list, and as the path of a cgroup, absolute and relative.
pub(crate) async fn available_cpus_are_a_list_or_a_cgroups(stage: &mut Stage) {
    let cgroup = std::path::Path::new("/sys/fs/cgroup/resmgr-available");
    std::fs::create_dir_all(cgroup).unwrap();
    std::fs::write(cgroup.join("cpuset.cpus"), "4-7,8-11").unwrap();
    for available in [
        "cpu=cpuset:4-7,8-11",
        "cpu=/resmgr-available",
        "cpu=cgroup:resmgr-available",
    ] {
        let arguments = [
            "--policy",
            "static",
            "--available-resources",
            available,
            "--reserved-resources",
            "cpu=cpuset:11",
        ];
        stage.relay(&arguments).await;
        let three = stage.run(&guaranteed("three", 3)).await;
        // The node with fewer free CPUs.
        stage.on(&three, "8-10").await;
        if available.contains(',') {
            for name in ["first", "second"] {
                let shared = stage.run(&burstable(name, 980)).await;
                stage.on(&shared, "4-7,11").await;
            }
        }
    }
    stage.clear().await;
    std::fs::remove_dir(cgroup).unwrap();
}

/// Nothing is started with a configuration that cannot be.
pub(crate) async fn illegal_reservations_do_not_start(stage: &mut Stage) {
    stage.clear().await;
    for (available, reserved, why) in [
        (
            "cpu=cpuset:4-7,8-11",
            "cpu=cpuset:3-4",
            "not among the available",
        ),
        (
            "cpu=cpuset:2-11",
            "cpu=11",
            "more than the available 10000m",
        ),
        (
            "cpu=cpuset:4-17",
            "cpu=1",
            "16-17 not online on this machine",
        ),
        (
            "cpu=/no-such-cgroup",
            "cpu=1",
            "cannot read the cpuset of cgroup",
        ),
    ] {
        for policy in ["static", "static-plus"] {
            let said = stage.no_relay(&[
                "--policy",
                policy,
                "--available-resources",
                available,
                "--reserved-resources",
                reserved,
            ]);
            assert!(
                said.contains("exit status: 2") && said.contains(why),
                "{said}"
            );
        }
    }
}

/// Its CPUs are free as soon as it has ended, not when the kubelet removes it.
pub(crate) async fn a_killed_or_completed_container_frees_its_cpus_at_once(stage: &mut Stage) {
    stage
        .relay(&["--policy", "static", "--reserved-resources", "cpu=750m"])
        .await;
    let shared = stage.run(&best_effort("shared")).await;
    let killed = stage.run(&guaranteed("killed", 1)).await;
    stage.on(&killed, "1").await;
    stage.on(&shared, "0,2-15").await;
    stage.kill(&killed);
    stage.on(&shared, "0-15").await;
    // As the kubelet restarts it: created anew beside the dead one.
    let again = stage.run(&guaranteed("again", 1)).await;
    stage.on(&again, "1").await;
    let mut short = guaranteed("short", 2);
    let told = stage.runtime.folder().join("told");
    std::fs::create_dir(&told).unwrap();
    let until = "until [ -e /told/end ]; do sleep 0.1; done";
    short.container.command = ["/bin/sh", "-c", until].map(str::to_owned).into();
    let mount = (told.display().to_string(), "/told".to_owned());
    short.container.mounts.push(mount);
    let short = stage.run(&short).await;
    stage.on(&shared, "0,4-15").await;
    std::fs::write(told.join("end"), "").unwrap();
    let gone = eventually(PATIENCE, async || stage.exited(&short).await).await;
    assert!(gone);
    stage.on(&shared, "0,2-15").await;
}

/// One after the other they have more than there is; the next is created as soon as the runtime says that
/// the one before has ended, without another word to the relay.
pub(crate) async fn init_containers_are_freed_in_time(stage: &mut Stage) {
    stage
        .relay(&["--policy", "static", "--reserved-resources", "cpu=750m"])
        .await;
    for name in ["init-1", "init-2", "init-3"] {
        let mut init = guaranteed(name, 10);
        init.container.command = vec!["/bin/true".into()];
        let id = stage.run(&init).await;
        assert!(eventually(PATIENCE, async || stage.exited(&id).await).await);
    }
    // On different sockets; the second on a whole node and, as CPU 0 is reserved, the rest of its core.
    let first = stage.run(&guaranteed("first", 8)).await;
    stage.on(&first, "8-15").await;
    let second = stage.run(&guaranteed("second", 5)).await;
    stage.on(&second, "1,4-7").await;
}

/// Whole CPUs are exclusive, the rest of a request is shared, whatever the class.
pub(crate) async fn mixed_requests_are_split(stage: &mut Stage) {
    let arguments = [
        "--policy",
        "static-plus",
        "--reserved-resources",
        "cpu=cpuset:10-11",
    ];
    stage.relay(&arguments).await;
    let system = |who: Who| who.namespace("kube-system");
    for who in [
        system(guaranteed("system-guaranteed", 1)),
        system(burstable("system-burstable", 2000)),
        system(best_effort("system-besteffort")),
    ] {
        let id = stage.run(&who).await;
        stage.on(&id, "10-11").await;
    }
    let half = stage.run(&burstable("half", 500)).await;
    stage.on(&half, "0-9,12-15").await;
    // One of the socket with fewer free CPUs.
    let more = stage.run(&burstable("more", 1500)).await;
    stage.on(&more, "0-9,12-15").await;
    stage.on(&half, "0-7,9,12-15").await;
    // A whole core of the same socket.
    let two = stage.run(&burstable("two", 2400)).await;
    stage.on(&two, "0-7,9,12-15").await;
    stage.on(&more, "0-9,14-15").await;
    stage.on(&half, "0-7,9,14-15").await;
    // The rest of the broken one; nobody else's change widens it.
    let own = stage.run(&guaranteed("own", 1)).await;
    stage.on(&own, "9").await;
    stage.on(&half, "0-7,14-15").await;
    stage.end(&two).await;
    stage.on(&half, "0-7,12-15").await;
    stage.on(&own, "9").await;
    let only = burstable("guaranteed-only", 2400);
    let arguments = [&arguments[..], &["--static-plus-burstable-exclusive=false"]].concat();
    stage.relay(&arguments).await;
    let only = stage.run(&only).await;
    stage.on(&only, "0-9,12-15").await;
}

/// Shared parts beyond what is left to share get the reserved CPUs too: first come, first served.
pub(crate) async fn too_much_sharing_spills_to_the_reserved(stage: &mut Stage) {
    let arguments = [
        "--policy",
        "static-plus",
        "--reserved-resources",
        "cpu=750m",
    ];
    stage.relay(&arguments).await;
    let first = stage.run(&burstable("first", 500)).await;
    stage.on(&first, "1-15").await;
    let most = stage.run(&guaranteed("most", 14)).await;
    let second = stage.run(&burstable("second", 700)).await;
    stage.on(&most, "2-15").await;
    stage.on(&first, "1").await;
    stage.on(&second, "0-1").await;
    let error = stage.refused(&guaranteed("last", 1)).await;
    assert!(
        error.contains("the shared pool keeps at least one CPU"),
        "{error}"
    );
    stage.end(&most).await;
    stage.on(&second, "1-15").await;
}

/// The kernel empties no cpuset of a cgroup with tasks: it lists all then, and has what its parent has.
pub(crate) async fn what_a_killed_relay_took_is_given_back(stage: &mut Stage) {
    let reserved = ["--reserved-resources", "cpu=750m", "--pin-memory"];
    stage
        .relay(&[&["--policy", "static"], &reserved[..]].concat())
        .await;
    let mine = stage.run(&guaranteed("mine", 1)).await;
    stage.on(&mine, "1").await;
    let shared = stage.run(&best_effort("shared")).await;
    stage.on(&shared, "0,2-15").await;
    let parent = stage.runtime.cgroup_parent().to_owned();
    assert_eq!(kernel::cpuset_mems(&parent, &mine).unwrap(), "0");
    let said = stage.restore();
    assert!(said.starts_with("2 containers"), "{said}");
    for id in [&mine, &shared] {
        stage.on(id, "0-15").await;
    }
    assert_eq!(kernel::cpuset_mems(&parent, &mine).unwrap(), "0-3");
}
