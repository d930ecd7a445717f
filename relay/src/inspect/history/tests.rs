use super::*;
use crate::telemetry::{Totals, sample::ContainerName};
use resmgr_topology::CpuSet;

const SECOND: u64 = 1_000_000_000;

/// A reading after `seconds`: each container ran on two of `cpus` for a thousandth of the time on each, and waited twice
/// as long as it ran; the first ran and waited most.
fn reading(seconds: u64, containers: usize, cpus: u32) -> Arc<LabelledSample> {
    let ns = seconds * SECOND;
    let id = |number: usize| ContainerId(format!("{number:064x}").into());
    let share = |number: usize| ns / 1000 / (number as u64 + 1);
    let measured = |number: usize| {
        let first = u32::try_from(number).unwrap();
        let on = [first, first + 1].map(|cpu| (CpuId(cpu % cpus), share(number)));
        let run_ns = BTreeMap::from(on);
        let ran = run_ns.values().sum();
        ContainerTelemetry {
            id: id(number),
            cpus: CpuSet::EMPTY,
            exclusive: CpuSet::EMPTY,
            total: Totals {
                wait_wake_ns: ran,
                wait_preempt_ns: ran,
                ..Totals::default()
            },
            run_ns,
            outside_ns: 0,
            foreign: Vec::new(),
            interference: BTreeMap::new(),
            resident: BTreeMap::new(),
        }
    };
    let name = |number: usize| ContainerName {
        namespace: "default".to_owned(),
        pod: format!("pod-{number}"),
        container: "c".to_owned(),
        ..ContainerName::default()
    };
    Arc::new(LabelledSample {
        snapshot: TelemetrySnapshot {
            at_ns: ns,
            containers: (0..containers).map(measured).collect(),
            busy_ns: (0..cpus).map(|cpu| (CpuId(cpu), ns / 4)).collect(),
            ..TelemetrySnapshot::default()
        },
        names: (0..containers)
            .map(|number| (id(number), name(number)))
            .collect(),
        ..LabelledSample::default()
    })
}

/// A state in which these containers are placed on a list of CPUs.
fn placed(containers: usize, cpus: &str) -> StateView {
    let container = |number: usize| ContainerView {
        id: format!("{number:064x}"),
        namespace: "default".to_owned(),
        pod: format!("pod-{number}"),
        container: "c".to_owned(),
        cpus: cpus.to_owned(),
        ..ContainerView::default()
    };
    StateView {
        containers: (0..containers).map(container).collect(),
        ..StateView::default()
    }
}

#[test]
fn a_sample_has_the_rates_since_the_one_before() {
    let mut history = History::default();
    history.observe(100, placed(1, "0-1"), reading(10, 2, 2));
    assert_eq!(history.view().samples, [0; 0], "rates need two readings");
    history.observe(110, placed(1, "0-1"), reading(20, 2, 2));
    history.observe(120, placed(1, "0-1"), reading(20, 2, 2));
    assert_eq!(history.view().samples, [110], "nothing new was measured");

    let past = history.at(110).unwrap();
    assert_eq!(past.busy_milli, BTreeMap::from([(0, 250), (1, 250)]));
    // Of each CPU 1 ms/s for the first container and 0.5 ms/s for the second, waited for twice as long.
    assert_eq!(past.wait_us_per_s, BTreeMap::from([(0, 3000), (1, 3000)]));
    let lines = past.containers.iter().map(|past| {
        let container = &past.container;
        let (used, wait) = (past.used_mcpu, past.wait_us_per_s);
        format!("{}:{} {used} {wait}", container.pod, container.cpus)
    });
    assert_eq!(
        lines.collect::<Vec<_>>(),
        ["pod-0:0-1 2 4000", "pod-1: 1 2000"]
    );
    assert_eq!(history.at(100), None);
}

#[test]
fn the_containers_that_run_and_wait_most_are_kept() {
    let mut history = History::default();
    history.observe(100, placed(300, "0"), reading(10, 300, 1));
    history.observe(110, placed(301, "0"), reading(20, 300, 1));
    let past = history.at(110).unwrap();
    assert_eq!((past.containers.len(), past.left_out), (CONTAINERS, 45));
    assert_eq!(past.containers[0].container.pod, "pod-0");
}

#[test]
fn a_container_is_kept_once_for_as_long_as_nothing_of_it_changes() {
    let mut history = History::default();
    for (at, cpus) in [(0, "0"), (10, "0"), (20, "0"), (30, "1")] {
        history.observe(at, placed(1, cpus), reading(10 + at, 1, 2));
    }
    let views = history
        .samples
        .iter()
        .map(|sample| &sample.containers[0].container);
    let views: Vec<_> = views.collect();
    assert!(Arc::ptr_eq(views[0], views[1]));
    assert_eq!((&*views[1].cpus, &*views[2].cpus), ("0", "1"));
}

/// What docs/status.md promises.
#[test]
fn an_hour_of_512_cpus_and_1000_containers_needs_less_than_4_mib() {
    let mut history = History::default();
    for sample in 0..=SAMPLES as u64 + 5 {
        history.observe(
            sample,
            placed(1000, "0-511"),
            reading(10 + sample, 1000, 512),
        );
    }
    assert_eq!(history.samples.len(), SAMPLES);
    assert_eq!(history.samples[0].wait.len(), 512);
    assert!(history.octets < 4 << 20, "{}", history.octets);
}

#[test]
fn where_samples_are_large_fewer_are_kept() {
    let mut history = History::default();
    for sample in 0..SAMPLES as u64 {
        // The lists change all the time.
        let cpus = format!("{sample},").repeat(1000);
        history.observe(sample, placed(100, &cpus), reading(10 + sample, 100, 2));
        assert!(history.octets <= OCTETS);
    }
    let kept = history.samples.len();
    assert!((2..SAMPLES).contains(&kept), "{kept}");
    let sum: usize = history.samples.iter().map(|sample| sample.octets).sum();
    assert_eq!(history.octets, sum);
}
