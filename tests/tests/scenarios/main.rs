//! The scenarios that the predecessor's end-to-end tests ran, on the machine they ran on: two sockets of two
//! NUMA nodes of two cores of two threads, cgroup v2, exact CPUs as the kernel says (`cpuset.cpus.effective`
//! of the cgroup, `Cpus_allowed_list` of every process).
//!
//! The test program boots a guest and runs itself in there; one runtime serves all scenarios of a boot, one
//! pod holds all containers (they say to be in pods of their own), and each scenario has a relay of its own.
//!
//! Left out, because they belong to policies that this product does not have: going up and down a pool tree,
//! affinity and anti-affinity, colocation, memory types, page demotion (`topology-aware`), `podpools`,
//! `balloons`, `dynamic-pools`. Where one of them shows something that `static` and `static-plus` promise as
//! well (whole cores, reservations, isolated CPUs, CPUs given back), it is here with the CPUs these choose.
//! Labels, taints and capacity of the node need an API server and are tested with one.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::large_futures,
    reason = "a test program: helpers fail the test"
)]

mod hotplug;
mod isolated;
mod pools;
mod slices;
mod stage;

use futures::FutureExt as _;
use resmgr_tests::Guest;
use stage::Stage;
use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

/// Whether this is a guest whose kernel got `append`; where it is not, one is booted and runs the test named so.
fn in_guest(name: &str, append: &str) -> bool {
    let guest = Guest {
        append: append.to_owned(),
        limit: Duration::from_secs(2400),
        ..Guest::n4c16()
    };
    guest.runs(name, &[]).unwrap()
}

/// Runs scenarios one after the other; all of them, whatever becomes of one.
macro_rules! scenarios {
    ($($scenario:path),+ $(,)?) => {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let mut stage = Stage::new().await;
            let mut failed = Vec::new();
            $(
                let begun = Instant::now();
                let outcome = AssertUnwindSafe($scenario(&mut stage)).catch_unwind().await;
                let name = stringify!($scenario);
                println!("{name}: {} after {:?}", if outcome.is_ok() { "ok" } else { "FAILED" }, begun.elapsed());
                if outcome.is_err() {
                    failed.push(name);
                }
            )+
            stage.clear().await;
            assert!(failed.is_empty(), "failed: {failed:?}");
        });
    };
}

#[test]
fn pools_slices_and_hotplug_on_two_sockets() {
    if in_guest("pools_slices_and_hotplug_on_two_sockets", "") {
        scenarios![
            pools::exclusive_lists_by_number_and_socket,
            pools::the_rest_is_in_the_shared_pool,
            pools::cmk_isolate_in_every_place,
            pools::no_affinity_is_told_its_cpus_and_not_pinned,
            pools::refusals_say_why,
            slices::exclusive_cpus_are_disjoint_and_come_by_whole_cores,
            slices::reserved_lists_are_kept,
            slices::available_cpus_are_a_list_or_a_cgroups,
            slices::illegal_reservations_do_not_start,
            slices::a_killed_or_completed_container_frees_its_cpus_at_once,
            slices::init_containers_are_freed_in_time,
            slices::mixed_requests_are_split,
            slices::too_much_sharing_spills_to_the_reserved,
            slices::what_a_killed_relay_took_is_given_back,
            hotplug::cpus_that_go_offline_are_replaced,
        ];
    }
}

#[test]
fn an_isolated_core_of_two_sockets() {
    if in_guest("an_isolated_core_of_two_sockets", "isolcpus=8,9") {
        scenarios![
            isolated::one_cpu_or_one_core_is_isolated_unless_opted_out,
            isolated::a_mixed_request_takes_isolated_cpus_for_its_whole_part,
        ];
    }
}

#[test]
fn isolated_cpus_that_make_no_core() {
    if in_guest("isolated_cpus_that_make_no_core", "isolcpus=8,10") {
        scenarios![isolated::relaxed_isolation_gives_isolated_cpus_that_make_no_core];
    }
}
