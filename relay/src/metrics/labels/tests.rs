use super::*;
use crate::{
    enforce::CgroupSettings,
    manager::{Book, Snapshot},
    metrics::{placement::PlacementMetrics, registry::Metrics, scheduler::SchedulerMetrics},
    telemetry::{
        ContainerTelemetry, ForeignRun, Interference, InterferenceSource, Quality, Totals,
        sample::LabelledSample,
    },
};
use proptest::prelude::*;
use resmgr_common::bucket;
use resmgr_io::metrics::TextFormat;
use resmgr_policy::{ContainerId, Placement, Policy, QosClass, Requirements, Unplaced};
use resmgr_topology::{CpuId, CpuSet, NodeId, Topology};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc};

/// A container that a client has made, and that the telemetry may have no name of.
#[derive(Clone, Debug)]
struct Made {
    name: ContainerName,
    known: bool,
    pool: &'static str,
}

fn made() -> impl Strategy<Value = Made> {
    let word = || prop::sample::select(vec!["a", "b", "", "\"} 1\n#\\"]).prop_map(str::to_owned);
    let name = (word(), word(), word(), word(), 0..3_u32);
    let pool = prop::sample::select(vec!["shared", "reserved"]);
    (name, any::<bool>(), pool).prop_map(|(name, known, pool)| {
        let (namespace, pod, container, uid, attempt) = name;
        let name = ContainerName {
            namespace,
            pod,
            container,
            uid,
            attempt,
        };
        Made { name, known, pool }
    })
}

fn id(index: usize) -> ContainerId {
    ContainerId(format!("c{index}").into())
}

fn measured(all: &[Made]) -> LabelledSample {
    let mut sample = LabelledSample::default();
    sample.snapshot.quality = Quality::Exact;
    let harm = Interference {
        preemptions: 1,
        wait_ns: 1,
    };
    let sources = (0..all.len()).map(|index| InterferenceSource::Container(id(index)));
    let sources = sources.chain([
        InterferenceSource::Kernel,
        InterferenceSource::Ended,
        InterferenceSource::Rest,
    ]);
    let interference: BTreeMap<_, _> = sources.map(|source| (source, harm)).collect();
    for (index, made) in all.iter().enumerate() {
        sample.snapshot.containers.push(ContainerTelemetry {
            id: id(index),
            cpus: CpuSet::EMPTY,
            exclusive: CpuSet::EMPTY,
            total: Totals {
                voluntary: made.name.attempt.into(),
                ..Totals::default()
            },
            run_ns: BTreeMap::new(),
            outside_ns: 0,
            foreign: Vec::new(),
            interference: interference.clone(),
            resident: BTreeMap::from([(NodeId(0), 1)]),
        });
        if made.known {
            sample.names.insert(id(index), made.name.clone());
        }
    }
    sample
}

fn placed(all: &[Made]) -> Snapshot {
    let entry = |(index, made): (usize, &Made)| {
        let ContainerName {
            namespace,
            pod,
            container,
            uid,
            attempt,
        } = &made.name;
        let placement = Placement {
            pool: Some(made.pool.into()),
            ..Placement::default()
        };
        let entry = json!({
            "request": {
                "id": id(index),
                "pod": {"sandbox": "", "uid": uid, "name": pod, "namespace": namespace},
                "name": container,
                "qos": QosClass::default(),
                "requirements": Requirements::default(),
                "init": false,
                "annotations": {},
                "env": [],
            },
            "placement": made.known.then_some(placement),
            "arrival": index,
            "stage": "running",
            "asked": CgroupSettings::default(),
            "cgroup_parent": "",
            "attempt": attempt,
        });
        (id(index).0.to_string(), entry)
    };
    let entries: serde_json::Map<String, Value> = all.iter().enumerate().map(entry).collect();
    let book = json!({"policy": "static", "next_arrival": all.len(), "entries": entries});
    let book: Book = serde_json::from_value(book).unwrap();
    let topology = Arc::new(Topology::synthetic("pack:1 core:2 pu:1").unwrap());
    let policy: Arc<dyn Policy> = Arc::new(Unplaced::NONE);
    let mut snapshot = Snapshot::empty(&policy, topology);
    snapshot.containers = book.containers;
    snapshot
}

/// Name and labels of a sample.
type Series = (String, BTreeMap<String, String>);

/// Reads a sample line of either format, by the grammar that both share.
fn series(line: &str) -> Option<Series> {
    let is_letter = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '_';
    let mut letters = line.chars().peekable();
    let word = |letters: &mut std::iter::Peekable<std::str::Chars<'_>>| -> String {
        std::iter::from_fn(|| letters.next_if(is_letter)).collect()
    };
    let name = word(&mut letters);
    let mut labels = BTreeMap::new();
    if letters.next_if_eq(&'{').is_some() {
        while letters.next_if_eq(&'}').is_none() {
            let label = word(&mut letters);
            (letters.next()? == '=' && letters.next()? == '"').then_some(())?;
            let mut value = String::new();
            loop {
                match letters.next()? {
                    '"' => break,
                    '\\' => value.push(match letters.next()? {
                        'n' => '\n',
                        escaped @ ('"' | '\\') => escaped,
                        _ => return None,
                    }),
                    letter => value.push(letter),
                }
            }
            labels.insert(label, value).is_none().then_some(())?;
            letters.next_if_eq(&',');
        }
    }
    (letters.next()? == ' ' && !name.is_empty()).then_some(())?;
    letters.collect::<String>().parse::<f64>().ok()?;
    Some((name, labels))
}

proptest! {
    #[test]
    fn whatever_containers_are_called_a_page_parses_and_no_two_series_have_the_same_labels(
        all in prop::collection::vec(made(), 0..12),
    ) {
        let measured = Arc::new(measured(&all));
        let (_changes, snapshots) = tokio::sync::watch::channel(Arc::new(placed(&all)));
        let metrics = Metrics::default();
        metrics.register(|registry| {
            registry.register_collector(Box::new(PlacementMetrics::new(snapshots)));
            let collector = SchedulerMetrics::new(move || Arc::clone(&measured));
            registry.register_collector(Box::new(collector));
        });
        for format in [TextFormat::Prometheus, TextFormat::OpenMetrics] {
            let page = format.render(metrics.page().unwrap());
            let mut known = BTreeSet::new();
            let mut family = "";
            for line in page.lines() {
                if let Some(head) = line.strip_prefix("# ") {
                    family = head.split(' ').nth(1).unwrap_or_default();
                    continue;
                }
                let Some(series) = series(line) else {
                    return Err(TestCaseError::fail(format!("{line:?} is no sample\n{page}")));
                };
                prop_assert!(series.0.starts_with(family), "{line} below {family}");
                prop_assert!(known.insert(series), "{line} twice\n{page}");
            }
        }
    }
}

fn page(sample: LabelledSample) -> String {
    let sample = Arc::new(sample);
    let metrics = Metrics::default();
    metrics.register(|registry| {
        let collector = SchedulerMetrics::new(move || Arc::clone(&sample));
        registry.register_collector(Box::new(collector));
    });
    metrics.page().unwrap()
}

proptest! {
    #[test]
    fn waits_by_length_are_those_that_were_counted(
        waits in prop::collection::vec(0..1_u64 << 34, 0..200),
    ) {
        let name = ContainerName::default();
        let made = Made { name, known: true, pool: "shared" };
        let mut sample = measured(&[made]);
        let total = &mut sample.snapshot.containers[0].total;
        for wait_ns in &waits {
            total.wait_histogram[bucket(*wait_ns)] += 1;
            total.wait_wake_ns += wait_ns;
        }
        let page = page(sample);
        let values: Vec<_> = page.lines().filter_map(|line| {
            let rest = line.strip_prefix("cri_resmgr_scheduler_wait_duration_seconds_")?;
            let (series, value) = rest.rsplit_once(' ')?;
            let le = series.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
            Some((series.split('{').next()?, le, value.parse::<f64>().ok()?))
        }).collect();
        let of = |name| values.iter().find(|value| value.0 == name).unwrap().2;
        let sum: u64 = waits.iter().sum();
        prop_assert!((of("sum") - sum as f64 / 1e9).abs() < 1e-6);
        let buckets: Vec<_> = values.iter().filter(|value| value.0 == "bucket").collect();
        prop_assert_eq!(buckets.len(), 11);
        let mut below = (0.0, 0.0);
        for (_, le, count) in buckets {
            let bound: f64 = le.unwrap().parse().unwrap();
            let naive = waits.iter().filter(|wait_ns| (**wait_ns as f64) < bound * 1e9).count();
            prop_assert_eq!(*count, naive as f64, "{}", page);
            prop_assert!(bound > below.0 && *count >= below.1);
            below = (bound, *count);
        }
        prop_assert_eq!(below, (f64::INFINITY, of("count")));
    }
}

#[test]
fn foreign_time_is_shown_by_source_and_its_sum_counts_nothing_twice() {
    let made = |name: &str| Made {
        name: ContainerName {
            container: name.to_owned(),
            ..ContainerName::default()
        },
        known: true,
        pool: "shared",
    };
    let mut sample = measured(&[made("robbed"), made("alone"), made("shared")]);
    for container in &mut sample.snapshot.containers[..2] {
        container.exclusive = "2-3".parse().unwrap();
    }
    let chronyd = InterferenceSource::HostCgroup("system.slice/chronyd.service".into());
    let runs = [
        (2, &chronyd, 1_500_000_000),
        (3, &chronyd, 500_000_000),
        (3, &InterferenceSource::Container(id(2)), 250_000_000),
        (3, &InterferenceSource::Container(id(7)), 125_000_000),
        (2, &InterferenceSource::Rest, 62_500_000),
    ];
    sample.snapshot.containers[0].foreign = runs
        .map(|(cpu, source, run_ns)| ForeignRun {
            cpu: CpuId(cpu),
            source: source.clone(),
            run_ns,
        })
        .into();
    sample.violated.insert(id(0));
    let page = page(sample);
    let violated = page
        .lines()
        .filter(|line| line.starts_with("cri_resmgr_exclusivity_violated{"))
        .map(|line| (line.contains("\"robbed\""), line.ends_with("} 1")));
    assert_eq!(violated.collect::<Vec<_>>(), [(false, false), (true, true)]);
    let seconds = page.lines().filter_map(|line| {
        let labels = line.strip_prefix("cri_resmgr_scheduler_foreign_seconds_total{")?;
        let (labels, value) = labels.rsplit_once("} ")?;
        let container = labels.split('"').nth(5)?;
        let by = labels.rsplit('"').nth(1)?;
        Some((container, by, value))
    });
    assert_eq!(
        seconds.collect::<Vec<_>>(),
        [
            ("alone", "other", "0.0"),
            ("robbed", "//shared", "0.25"),
            ("robbed", "c7", "0.125"),
            ("robbed", "other", "0.0625"),
            ("robbed", "system.slice/chronyd.service", "2.0"),
        ]
    );
}

#[test]
fn of_two_attempts_in_one_pod_the_newer_is_shown_and_of_two_pods_of_one_name_both() {
    let made = |uid: &str, attempt| Made {
        name: ContainerName {
            namespace: "default".to_owned(),
            pod: "db-0".to_owned(),
            container: "db".to_owned(),
            uid: uid.to_owned(),
            attempt,
        },
        known: true,
        pool: "shared",
    };
    let page = page(measured(&[made("u1", 7), made("u1", 3), made("u2", 1)]));
    let voluntary = page
        .lines()
        .filter(|line| line.contains("kind=\"voluntary\""));
    assert_eq!(
        voluntary.collect::<Vec<_>>(),
        [("u1", 7), ("u2", 1)].map(|(uid, count)| format!(
            "cri_resmgr_scheduler_switches_total{{namespace=\"default\",pod=\"db-0\",container=\"db\",uid=\"{uid}\",\
             kind=\"voluntary\"}} {count}.0"
        ))
    );
}
