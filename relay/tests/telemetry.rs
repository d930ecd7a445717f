//! What telemetry says is what the kernel says: compared with cpuacct or `cpu.stat`, `schedstat` and
//! `/proc/PID/status`, in ratios and counts.
//!
//! Needs root, the kernel's type information and the built BPF object; says so and passes without.

#[path = "telemetry/bench.rs"]
#[expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail and speak as tests do"
)]
mod bench;

use bench::{Cgroup, Child, Load, stolen_ns, telemetry, until};
use cri_resmgr::telemetry::{InterferenceSource, Quality};
use resmgr_common::CSS_ENTRIES;
use resmgr_policy::ContainerId;
use resmgr_topology::{CpuId, CpuSet};
use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

fn id(name: &str) -> ContainerId {
    ContainerId(name.into())
}

fn ratio(ours: u64, kernel: u64) -> f64 {
    ours as f64 / kernel.max(1) as f64
}

/// Whether ours is the kernel's within a hundredth. Time in flight is the clock's: it may hold what was
/// `stolen` meanwhile, which the kernel takes off.
fn is_run(ours: u64, kernel: u64, stolen: u64) -> bool {
    ratio(ours, kernel) >= 0.99 && ratio(ours.saturating_sub(stolen), kernel) <= 1.01
}

#[test]
fn cpu_time_of_a_spinner_is_the_kernels_on_every_cpu_and_nowhere_else() {
    let Some((telemetry, topology)) = telemetry() else {
        return;
    };
    for cpu in topology.online.iter() {
        let cgroup = Cgroup::new("spin");
        telemetry
            .register(id("spin"), &cgroup.path, CpuSet::single(cpu), CpuSet::EMPTY)
            .unwrap();
        let stolen_before = stolen_ns();
        let spinner = Child::start(&cgroup, Load::Spin, Some(cpu.0));
        until("it has run", || cgroup.run_ns() > 1_500_000_000);
        // The test may be preempted between two readings: our number must lie between two of the kernel's, which
        // lag behind until the next tick.
        let kernel_earlier = cgroup.run_ns();
        let in_flight = telemetry.snapshot().containers[0].total.run_ns;
        let lags = cgroup.run_ns();
        until("a tick", || cgroup.run_ns() != lags);
        let kernel_later = cgroup.run_ns();
        let stolen = stolen_ns() - stolen_before;
        spinner.stop();
        let seen = telemetry.snapshot().containers.remove(0);
        let kernel = cgroup.run_ns();
        assert!(
            ratio(in_flight, kernel_earlier) >= 0.99
                && ratio(in_flight.saturating_sub(stolen), kernel_later) <= 1.01,
            "in flight on CPU {cpu}: {in_flight}, {stolen} stolen, not from {kernel_earlier} to {kernel_later}"
        );
        let exact = seen.run_ns[&cpu];
        assert!(
            is_run(exact, kernel, stolen),
            "on CPU {cpu}: {exact}, {stolen} stolen, against {kernel}"
        );
        // The child was forked elsewhere and moved: what it ran there is counted too.
        let elsewhere: u64 = seen
            .run_ns
            .iter()
            .filter(|(at, _)| **at != cpu)
            .map(|(_, run)| run)
            .sum();
        assert_eq!(seen.outside_ns, elsewhere);
        telemetry.unregister(&id("spin"));
    }
}

#[test]
fn switches_of_a_ping_pong_pair_are_those_of_proc_status() {
    let Some((telemetry, _)) = telemetry() else {
        return;
    };
    let cgroup = Cgroup::new("pingpong");
    telemetry
        .register(id("pair"), &cgroup.path, CpuSet::EMPTY, CpuSet::EMPTY)
        .unwrap();
    let pair = Child::start(&cgroup, Load::PingPong, Some(0));
    // What it did before it entered the cgroup only the kernel has counted.
    let sample = || {
        pair.freeze();
        let (voluntary, involuntary) = cgroup.switches();
        let ours = telemetry.snapshot().containers.remove(0).total;
        (ours, voluntary, involuntary)
    };
    let (before, voluntary_before, involuntary_before) = sample();
    pair.thaw();
    until("5000 switches", || {
        cgroup.switches().0 > voluntary_before + 5000
    });
    let (after, voluntary, involuntary) = sample();
    let voluntary = voluntary - voluntary_before;
    let all = voluntary + involuntary - involuntary_before;
    let seen = after.voluntary - before.voluntary;
    let all_seen = seen + after.involuntary - before.involuntary;
    let share = ratio(all_seen, all);
    assert!((0.99..=1.01).contains(&share), "{all_seen} against {all}");
    let share = ratio(seen, voluntary);
    assert!((0.99..=1.01).contains(&share), "{seen} against {voluntary}");
}

#[test]
fn not_one_switch_is_lost_at_the_highest_rate_this_machine_does() {
    let Some((telemetry, topology)) = telemetry() else {
        return;
    };
    let cgroup = Cgroup::new("rate");
    telemetry
        .register(id("rate"), &cgroup.path, CpuSet::EMPTY, CpuSet::EMPTY)
        .unwrap();
    let pairs: Vec<_> = topology
        .online
        .iter()
        .map(|cpu| Child::start(&cgroup, Load::PingPong, Some(cpu.0)))
        .collect();
    let sample = || {
        pairs.iter().for_each(Child::freeze);
        let (voluntary, involuntary) = cgroup.switches();
        let ours = telemetry.snapshot();
        let total = &ours.containers[0].total;
        (
            total.voluntary + total.involuntary,
            voluntary + involuntary,
            ours.switches,
        )
    };
    let (before, kernel_before, all_before) = sample();
    let began = Instant::now();
    pairs.iter().for_each(Child::thaw);
    thread::sleep(Duration::from_secs(2));
    until("10,000 switches", || {
        let (voluntary, involuntary) = cgroup.switches();
        voluntary + involuntary > kernel_before + 10_000
    });
    let (after, kernel_after, all_after) = sample();
    let share = ratio(after - before, kernel_after - kernel_before);
    let rate = (all_after - all_before) as f64 / began.elapsed().as_secs_f64();
    println!("{rate:.0} switches a second");
    assert!((0.999..=1.001).contains(&share), "{share}");
}

#[test]
fn a_cgroup_that_inherits_the_kernels_id_of_a_dead_one_inherits_nothing_else() {
    const ROUNDS: usize = 25;
    let Some((telemetry, _)) = telemetry() else {
        return;
    };
    // The machine is busy meanwhile, in a cgroup that stays.
    let (stays, keeper) = (Cgroup::new("stays"), id("stays"));
    telemetry
        .register(keeper.clone(), &stays.path, CpuSet::EMPTY, CpuSet::EMPTY)
        .unwrap();
    let stolen_before = stolen_ns();
    let spinner = Child::start(&stays, Load::Spin, None);
    // The heirs stay and keep their ids: the number of remembered cgroups shows those remembered for nothing.
    let (mut inherited, mut remembered, mut heirs) = (0, Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let name = id(&format!("dead-{round}"));
        let dead = Cgroup::new("dead");
        while telemetry
            .register(name.clone(), &dead.path, CpuSet::EMPTY, CpuSet::EMPTY)
            .is_err()
        {
            telemetry.sample();
        }
        let total = || {
            let seen = telemetry.snapshot().containers;
            let container = seen.into_iter().find(|container| container.id == name);
            container.unwrap().total
        };
        Child::start(&dead, Load::Burst, None).wait();
        let before = total();
        // It enters one hierarchy after another, and is counted in both from its first sleep there.
        let share = ratio(before.run_ns, dead.run_ns());
        assert!((0.9..=1.1).contains(&share), "{round}: {share}");
        // It dies registered: what the program remembers of its id stays, until another has the id.
        drop(dead);
        let entries = telemetry.map_entries();
        for _ in 0..3 {
            let heir = Cgroup::new("heir");
            Child::start(&heir, Load::Hops(2), None).wait();
            heirs.push(heir);
        }
        assert_eq!(total(), before, "{round}");
        inherited += usize::from(telemetry.map_entries() < entries);
        remembered.push(telemetry.remembered_cgroups());
        telemetry.unregister(&name);
    }
    spinner.stop();
    let stolen = stolen_ns() - stolen_before;
    let seen = telemetry.snapshot().containers.remove(0).total.run_ns;
    let kernel = stays.run_ns();
    assert!(
        is_run(seen, kernel, stolen),
        "{seen}, {stolen} stolen, against {kernel}"
    );
    println!("{inherited} ids were inherited; remembered: {remembered:?}");
    assert!(inherited > 0, "no id was used twice");
    // The rest of the machine is remembered too, now more of it, now less.
    let least = remembered[ROUNDS / 2..].iter().min();
    assert!(least < Some(&ROUNDS), "none is forgotten: {remembered:?}");
    telemetry.unregister(&keeper);
    assert_eq!(telemetry.map_entries(), 0);
}

#[test]
fn waits_on_a_cpu_overloaded_three_to_one_are_those_of_schedstat() {
    overload(Some(0), |_| 3);
}

#[test]
fn waits_under_balancing_of_an_overload_of_three_to_one_are_those_of_schedstat() {
    overload(None, |cpus| 3 * cpus);
}

/// So many spinners for five seconds: what they ran and waited is what the kernel counts.
#[expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail and speak as tests do"
)]
fn overload(pin: Option<u32>, count: impl Fn(usize) -> usize) {
    let Some((telemetry, topology)) = telemetry() else {
        return;
    };
    let cgroup = Cgroup::new("overload");
    telemetry
        .register(id("many"), &cgroup.path, CpuSet::EMPTY, CpuSet::EMPTY)
        .unwrap();
    let spinners: Vec<_> = (0..count(topology.online.len()))
        .map(|_| Child::start(&cgroup, Load::Spin, pin))
        .collect();
    // While they are frozen, no thread is amid a wait that only one side has counted. What the threads waited
    // before they entered the cgroup only the kernel has counted.
    let sample = || {
        spinners.iter().for_each(Child::freeze);
        let ours = telemetry.snapshot().containers.remove(0).total;
        (ours, cgroup.wait_ns(), cgroup.run_ns())
    };
    let (before, kernel_waited, kernel_ran) = sample();
    spinners.iter().for_each(Child::thaw);
    thread::sleep(Duration::from_secs(5));
    let (seen, kernel_waits, kernel_runs) = sample();
    let waited = ratio(
        seen.wait_ns() - before.wait_ns(),
        kernel_waits - kernel_waited,
    );
    assert!((0.995..=1.005).contains(&waited), "waited {waited}");
    let ran = ratio(seen.run_ns - before.run_ns, kernel_runs - kernel_ran);
    assert!((0.995..=1.005).contains(&ran), "ran {ran}");
    println!("waited {waited:.6}, ran {ran:.6} of what the kernel says");
    assert!(seen.wait_preempt_ns > seen.wait_wake_ns, "{seen:?}");
    let counted: u64 = seen.wait_histogram.iter().sum();
    let most = seen.voluntary + seen.involuntary + spinners.len() as u64;
    assert!(counted > 0 && counted <= most, "{counted} of {most}");
}

#[test]
fn throttling_by_a_quota_is_told_apart_from_contention() {
    let Some((telemetry, _)) = telemetry() else {
        return;
    };
    let cgroup = Cgroup::new("quota");
    // Little enough that it is used up on a CPU of which others have most.
    cgroup.quota(10_000, 100_000);
    telemetry
        .register(id("tight"), &cgroup.path, CpuSet::EMPTY, CpuSet::EMPTY)
        .unwrap();
    let stolen_before = stolen_ns();
    let spinner = Child::start(&cgroup, Load::Spin, Some(0));
    until("it is throttled", || cgroup.throttled_ns() > 2_000_000_000);
    cgroup.quota(-1, 100_000);
    // The last throttling is booked as it runs again.
    let ran = cgroup.run_ns();
    until("it runs again", || cgroup.run_ns() > ran + 100_000_000);
    spinner.stop();
    let stolen = stolen_ns() - stolen_before;
    let seen = telemetry.snapshot().containers.remove(0).total;
    let kernel = cgroup.throttled_ns();
    // The queue's clock stands still for what is stolen, the clock of the kernel's sum does not.
    let least = ratio(seen.throttled_ns + stolen, kernel);
    let most = ratio(seen.throttled_ns, kernel);
    assert!(
        least >= 0.98 && most <= 1.02,
        "{}, {stolen} stolen, against {kernel}",
        seen.throttled_ns
    );
    assert!(seen.wait_throttled_ns > kernel / 2, "{seen:?}");
}

#[test]
fn an_intruder_on_an_exclusive_cpu_is_named_with_its_time() {
    let Some((telemetry, topology)) = telemetry() else {
        return;
    };
    let cpu = topology.online.iter().last().unwrap();
    let (owner, intruder) = (Cgroup::new("owner"), Cgroup::new("intruder"));
    let own = CpuSet::single(cpu);
    telemetry
        .register(id("owner"), &owner.path, own, own)
        .unwrap();
    let elsewhere = CpuSet::single(CpuId(900));
    telemetry
        .register(id("intruder"), &intruder.path, elsewhere, CpuSet::EMPTY)
        .unwrap();
    let at_home = Child::start(&owner, Load::Spin, Some(cpu.0));
    let away = Child::start(&intruder, Load::Spin, Some(cpu.0));
    until("both have run", || {
        owner.run_ns().min(intruder.run_ns()) > 500_000_000
    });
    at_home.stop();
    away.stop();
    let seen = telemetry.snapshot().containers;
    let owner_seen = seen.iter().find(|seen| seen.id == id("owner")).unwrap();
    let intruder_seen = seen.iter().find(|seen| seen.id == id("intruder")).unwrap();
    let by = InterferenceSource::Container(id("intruder"));
    let named: u64 = owner_seen
        .foreign
        .iter()
        .filter(|foreign| foreign.source == by && foreign.cpu == cpu)
        .map(|foreign| foreign.run_ns)
        .sum();
    assert_eq!(named, intruder_seen.run_ns[&cpu]);
    let share = ratio(intruder_seen.total.run_ns, intruder.run_ns());
    assert!((0.99..=1.01).contains(&share), "{share}");
    assert_eq!(intruder_seen.outside_ns, intruder_seen.total.run_ns);
    // Every preemption has a source, and most of the wait is the intruder's.
    assert!(owner_seen.total.preempted_by_others > 0);
    let counted: u64 = owner_seen
        .interference
        .values()
        .map(|sum| sum.preemptions)
        .sum();
    assert_eq!(counted, owner_seen.total.preempted_by_others);
    let by_intruder = owner_seen.interference[&by];
    assert!(by_intruder.preemptions > 0, "{:?}", owner_seen.interference);
    let blamed: u64 = owner_seen
        .interference
        .values()
        .map(|sum| sum.wait_ns)
        .sum();
    let contention = owner_seen.total.wait_wake_ns + owner_seen.total.wait_preempt_ns;
    assert_eq!(blamed, contention, "{owner_seen:?}");
    // Its only thread cannot have waited for itself.
    let itself = InterferenceSource::Container(id("owner"));
    assert!(
        !owner_seen.interference.contains_key(&itself),
        "{owner_seen:?}"
    );
    let worst = owner_seen
        .interference
        .iter()
        .max_by_key(|(_, sum)| sum.wait_ns);
    assert!(by_intruder.wait_ns > 0 && worst.is_some(), "{owner_seen:?}");
    // A container that ends takes its past along; nothing leaps.
    telemetry.unregister(&id("intruder"));
    let seen = telemetry.snapshot().containers.remove(0);
    let left: u64 = seen.interference.values().map(|sum| sum.wait_ns).sum();
    let since = seen.total.wait_wake_ns + seen.total.wait_preempt_ns - contention;
    assert_eq!(left, blamed - by_intruder.wait_ns + since, "{seen:?}");
}

#[test]
fn a_service_of_the_host_on_an_exclusive_cpu_is_named_by_its_cgroup() {
    // Found at the start: later ones within ten seconds.
    let slice = Cgroup::new("test.slice");
    let service = slice.child("burner.service");
    let worker = service.child("worker");
    let Some((telemetry, topology)) = telemetry() else {
        return;
    };
    let cpu = topology.online.iter().last().unwrap();
    let owner = Cgroup::new("owner");
    let own = CpuSet::single(cpu);
    telemetry
        .register(id("owner"), &owner.path, own, own)
        .unwrap();
    let outside = telemetry.snapshot().outside.run_ns;
    let at_home = Child::start(&owner, Load::Spin, Some(cpu.0));
    let away = Child::start(&worker, Load::Spin, Some(cpu.0));
    until("both have run", || {
        owner.run_ns().min(worker.run_ns()) > 500_000_000
    });
    at_home.stop();
    away.stop();
    let seen = telemetry.snapshot();
    let by = InterferenceSource::HostCgroup(service.path[1..].into());
    let owner_seen = &seen.containers[0];
    let ran = owner_seen.foreign.iter().filter(|run| run.source == by);
    let share = ratio(ran.map(|run| run.run_ns).sum(), worker.run_ns());
    assert!(
        (0.99..=1.01).contains(&share),
        "{share}: {:?}",
        owner_seen.foreign
    );
    assert!(seen.outside.run_ns - outside >= worker.run_ns() / 100 * 99);
    let blamed = owner_seen.interference[&by];
    assert!(
        blamed.preemptions > 0 && blamed.wait_ns > 0,
        "{:?}",
        owner_seen.interference
    );
    // A container that comes to be there takes the place of the service.
    telemetry
        .register(
            id("burner"),
            &service.path,
            CpuSet::single(CpuId(900)),
            CpuSet::EMPTY,
        )
        .unwrap();
    let back = Child::start(&worker, Load::Burst, Some(cpu.0));
    back.wait();
    let seen = telemetry.snapshot();
    let burner = seen
        .containers
        .iter()
        .find(|seen| seen.id == id("burner"))
        .unwrap();
    let of = |source| {
        let owner = seen.containers.iter().find(|seen| seen.id == id("owner"));
        let runs = owner.unwrap().foreign.iter();
        let runs = runs.filter(|run| run.source == source);
        runs.map(|run| run.run_ns).sum::<u64>()
    };
    assert!(burner.total.run_ns > 40_000_000, "{burner:?}");
    assert_eq!(
        of(InterferenceSource::Container(id("burner"))),
        burner.run_ns[&cpu]
    );
}

#[test]
fn every_forced_hop_between_cpus_is_one_migration() {
    let Some((telemetry, topology)) = telemetry() else {
        return;
    };
    if topology.online.len() < 2 {
        println!("skipped: needs two CPUs");
        return;
    }
    let cgroup = Cgroup::new("hops");
    telemetry
        .register(id("hops"), &cgroup.path, CpuSet::EMPTY, CpuSet::EMPTY)
        .unwrap();
    let first = topology.online.iter().next().unwrap();
    let hopper = Child::start(&cgroup, Load::Hops(200), Some(first.0));
    hopper.wait();
    let seen = telemetry.snapshot().containers.remove(0).total;
    let moved: u64 = seen.migrations.iter().sum();
    // It enters pinned to where the first hop leads.
    assert_eq!(moved, 199, "{:?}", seen.migrations);
    assert!(seen.distance >= moved * 10, "{}", seen.distance);
}

#[test]
fn threads_in_cgroups_below_the_registered_one_are_the_containers() {
    let Some((telemetry, _)) = telemetry() else {
        return;
    };
    let cgroup = Cgroup::new("nested");
    telemetry
        .register(id("outer"), &cgroup.path, CpuSet::EMPTY, CpuSet::EMPTY)
        .unwrap();
    let inner = cgroup.child("payload");
    let spinner = Child::start(&inner, Load::Spin, None);
    until("it has run", || inner.run_ns() > 700_000_000);
    spinner.stop();
    let seen = telemetry.snapshot().containers.remove(0).total;
    let share = ratio(seen.run_ns, inner.run_ns());
    assert!((0.99..=1.01).contains(&share), "{share}");
}

#[test]
fn a_cgroup_too_deep_to_be_found_is_warned_of_once_for_each_cpu() {
    let Some((telemetry, topology)) = telemetry() else {
        return;
    };
    let mut chain = vec![Cgroup::new("deep")];
    for _ in 0..20 {
        chain.push(chain[chain.len() - 1].child("er"));
    }
    telemetry
        .register(id("deep"), &chain[0].path, CpuSet::EMPTY, CpuSet::EMPTY)
        .unwrap();
    let logged = logged(|| {
        for _ in 0..3 {
            for cpu in topology.online.iter() {
                Child::start(&chain[20], Load::Hops(0), Some(cpu.0)).wait();
                // Negative answers are forgotten when another container comes.
                telemetry.unregister(&id("other"));
                telemetry
                    .register(id("other"), &chain[1].path, CpuSet::EMPTY, CpuSet::EMPTY)
                    .unwrap();
            }
            telemetry.sample();
        }
    });
    telemetry.unregister(&id("other"));
    let warnings = logged.matches("too deep").count();
    assert!(
        (1..=topology.online.len()).contains(&warnings),
        "{logged:?}"
    );
    assert!(logged.contains("WARN"), "{logged}");
    while chain.pop().is_some() {}
}

#[test]
fn a_cgroup_beyond_the_table_is_warned_of_and_measured_all_the_same() {
    let Some((telemetry, topology)) = telemetry() else {
        return;
    };
    let available = bench::available_mib();
    if available < 4096 {
        let why = format!("65,536 cgroups take 1.6 GiB of memory, {available} MiB are there");
        bench::skip("a cgroup beyond the table of cgroups", &why);
        return;
    }
    let full = Cgroup::new("full");
    // The kernel gives each the least id that is free: none within the table is left.
    let crowd = full.crowd(CSS_ENTRIES);
    // An id that a dying cgroup gives back meanwhile goes to one of these; not all of them get one.
    let wide: Vec<_> = (0..4).map(|_| Cgroup::new("wide")).collect();
    for cgroup in &wide {
        telemetry
            .register(id(&cgroup.path), &cgroup.path, CpuSet::EMPTY, CpuSet::EMPTY)
            .unwrap();
    }
    let logged = logged(|| {
        for cgroup in &wide {
            Child::start(cgroup, Load::Burst, None).wait();
        }
        let seen = telemetry.sample().containers;
        for (cgroup, container) in wide.iter().zip(&seen) {
            assert_eq!(container.id, id(&cgroup.path));
            let share = ratio(container.total.run_ns, cgroup.run_ns());
            assert!((0.9..=1.1).contains(&share), "{share}");
        }
    });
    drop(crowd);
    let warnings = logged.matches("more cgroups than the table").count();
    assert!(
        (1..=topology.online.len()).contains(&warnings),
        "{logged:?}"
    );
    assert!(logged.contains("WARN"), "{logged}");
}

/// What is logged during `work`.
fn logged(work: impl FnOnce()) -> String {
    let log = LogBuffer::default();
    let into = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || into.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, work);
    let text = log.0.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&text).into_owned()
}

/// A log kept in memory.
#[derive(Clone, Default)]
struct LogBuffer(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for LogBuffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn containers_beyond_the_capacity_make_the_quality_partial() {
    let Some((telemetry, _)) = telemetry() else {
        return;
    };
    let cgroups: Vec<_> = (0..9).map(|_| Cgroup::new("crowd")).collect();
    let refused = cgroups.iter().enumerate().filter(|(number, cgroup)| {
        let name = format!("crowd-{number}");
        telemetry
            .register(id(&name), &cgroup.path, CpuSet::EMPTY, CpuSet::EMPTY)
            .is_err()
    });
    assert_eq!(refused.count(), 1);
    telemetry.set_running(9);
    let seen = telemetry.snapshot();
    assert_eq!(seen.quality, Quality::Partial);
    assert_eq!(
        seen.shortfall().as_deref(),
        Some("only 8 of 9 containers are measured")
    );
    telemetry.unregister(&id("crowd-0"));
    telemetry.set_running(7);
    let seen = telemetry.snapshot();
    assert_eq!((seen.quality, seen.running), (Quality::Exact, 7));
}

#[test]
fn a_thousand_containers_come_and_go_without_being_mixed_up() {
    let Some((telemetry, _)) = telemetry() else {
        return;
    };
    // Far more containers than slots: each must give its slot back, and find it empty.
    for round in 0..1000 {
        let cgroup = Cgroup::new("churn");
        let name = format!("churn-{round}");
        while telemetry
            .register(id(&name), &cgroup.path, CpuSet::EMPTY, CpuSet::EMPTY)
            .is_err()
        {
            // Freed slots are reused only after a few sweeps.
            telemetry.sample();
        }
        if round % 20 == 0 {
            Child::start(&cgroup, Load::Burst, None).wait();
            let seen = telemetry.snapshot().containers.remove(0);
            assert_eq!(seen.id, id(&name));
            let share = ratio(seen.total.run_ns, cgroup.run_ns());
            assert!((0.9..=1.1).contains(&share), "{round}: {share}");
        } else {
            let seen = telemetry.snapshot().containers.remove(0);
            assert_eq!(seen.total.run_ns, 0, "{round}");
        }
        telemetry.unregister(&id(&name));
    }
    assert_eq!(telemetry.snapshot().containers.len(), 0);
    assert_eq!(telemetry.map_entries(), 0);
}

#[test]
fn the_program_tells_what_it_costs() {
    let Some((telemetry, _)) = telemetry() else {
        return;
    };
    let cgroup = Cgroup::new("cost");
    let pair = Child::start(&cgroup, Load::PingPong, Some(0));
    let cost = telemetry.cost(Duration::from_millis(500)).unwrap();
    pair.stop();
    assert!(
        cost.raw_ns > 0.0 && cost.empty_ns > 0.0 && cost.switches_per_s > 100.0,
        "{cost:?}"
    );
    println!("{cost:?}, net {:.0} ns", cost.net_ns());
}
