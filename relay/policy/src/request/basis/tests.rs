use super::*;
use alloc::{vec, vec::Vec};
use proptest::prelude::*;

const MEMORY: i64 = 64 << 20;

/// As the kubelet writes a CPU request and limit.
fn kubelet(request: u32, limit: Option<u32>) -> CriResources {
    CriResources {
        cpu_shares: i64::try_from(shares_from_milli(request)).unwrap(),
        cpu_quota: limit.map_or(0, |limit| i64::from(limit) * 100),
        cpu_period: 100_000,
        memory_limit_bytes: MEMORY,
        oom_score_adj: -997,
    }
}

fn basis(shown: CriResources, pod: Option<CriResources>, annotated: Option<u32>) -> Basis {
    Basis {
        shown,
        pod,
        annotated: annotated.map(|milli| Annotated {
            cpu_request: (milli > 0).then_some(MilliCpu(milli)),
            ..Annotated::default()
        }),
        ..Basis::default()
    }
}

fn asks(basis: &Basis) -> (u32, Source) {
    let requirements = basis.requirements(QosClass::Guaranteed, 1 << 30);
    (requirements.cpu_request.0, requirements.source)
}

/// What each container of a pod asks for, the newest last.
fn judged(mut members: Vec<Basis>) -> Vec<(u32, Source)> {
    judge_pod(&mut members.iter_mut().collect::<Vec<_>>());
    members.iter().map(asks).collect()
}

fn whole(milli: u32) -> CriResources {
    kubelet(milli, Some(milli))
}

#[test]
fn an_annotation_makes_exact_what_it_agrees_with_and_yields_to_what_is_newer() {
    // 1025 shares stand for 1001m; 102 for 100m, though 99.6 were nearer.
    for milli in [1, 2, 3, 99, 100, 1001, 1999, 255_999, 300_000] {
        let exact = basis(kubelet(milli, None), None, Some(milli));
        assert_eq!(asks(&exact), (milli, Source::Annotation), "{milli}");
    }
    // Resized in place from 500m: the annotation cannot follow. Neither can it claim more than was given.
    for (claimed, shown) in [(500, 1000), (64_000, 100), (2000, 1000)] {
        let newer = basis(whole(shown), None, Some(claimed));
        let annotated = MilliCpu(claimed);
        assert_eq!(asks(&newer), (shown, Source::Newer { annotated }));
    }
    assert_eq!(
        asks(&basis(whole(1000), None, None)),
        (1000, Source::Estimate)
    );
}

#[test]
fn what_cri_cannot_show_is_the_annotations() {
    let annotated = Annotated {
        cpu_request: Some(MilliCpu(1000)),
        memory_request_bytes: Some(5),
        extended: BTreeMap::from([("example.com/x".into(), 3)]),
        ..Annotated::default()
    };
    let with = Basis {
        annotated: Some(annotated),
        ..basis(whole(2000), None, None)
    };
    let requirements = with.requirements(QosClass::Burstable, 1 << 30);
    assert_eq!(requirements.cpu_request, MilliCpu(2000));
    assert_eq!(requirements.memory_request_bytes, Some(5));
    assert_eq!(requirements.extended.len(), 1);
}

#[test]
fn containers_that_show_their_whole_pod_at_the_same_time_ask_for_nothing() {
    let pod = Some(whole(1000));
    let alone = basis(whole(1000), pod, None);
    assert_eq!(judged(vec![alone.clone()]), [(1000, Source::Estimate)]);
    let both = judged(vec![alone.clone(), alone.clone()]);
    assert_eq!(both, [(0, Source::Pod), (0, Source::Pod)]);
    // Also where each has memory of its own.
    let mut first = alone.clone();
    first.shown.memory_limit_bytes = 7;
    let mut second = alone;
    second.shown.memory_limit_bytes = 8;
    assert_eq!(
        judged(vec![first, second]),
        [(0, Source::Pod), (0, Source::Pod)]
    );
}

#[test]
fn a_container_that_runs_again_beside_others_without_a_request_has_none_either() {
    let pod = Some(whole(1000));
    for memory in [MEMORY, 7] {
        let mut container = basis(whole(1000), pod, None);
        container.shown.memory_limit_bytes = memory;
        let mut members = [container.clone(), container.clone()];
        judge_pod(&mut members.iter_mut().collect::<Vec<_>>());
        let [_ended, sibling] = members;
        let again = judged(vec![sibling, container]);
        assert_eq!(again, [(0, Source::Pod), (0, Source::Pod)], "{memory}");
    }
}

#[test]
fn a_request_of_its_own_is_kept_beside_containers_without() {
    let pod = Some(CriResources {
        memory_limit_bytes: 2 * MEMORY,
        ..whole(2000)
    });
    let own = basis(whole(1000), pod, None);
    let none = basis(
        CriResources {
            memory_limit_bytes: 2 * MEMORY,
            ..whole(2000)
        },
        pod,
        None,
    );
    let mut known = none.clone();
    known.of_pod = true;
    for members in [
        vec![own.clone(), none.clone()],
        vec![none, own.clone()],
        vec![known, own],
    ] {
        let mut asked: Vec<_> = judged(members)
            .into_iter()
            .map(|(milli, _)| milli)
            .collect();
        asked.sort_unstable();
        assert_eq!(asked, [0, 1000]);
    }
}

#[test]
fn an_empty_entry_of_the_annotation_asks_for_nothing() {
    for pod in [None, Some(whole(1000))] {
        let empty = basis(whole(1000), pod, Some(0));
        assert_eq!(judged(vec![empty]), [(0, Source::Pod)], "{pod:?}");
    }
    // Given a request by a resize: it shows less than its pod.
    let resized = basis(whole(1000), Some(whole(3000)), Some(0));
    let annotated = MilliCpu(0);
    assert_eq!(judged(vec![resized]), [(1000, Source::Newer { annotated })]);
    // Best effort.
    let none = basis(kubelet(0, None), None, Some(0));
    assert_eq!(judged(vec![none]), [(0, Source::Annotation)]);
}

#[test]
fn the_newest_gets_no_more_than_its_pod_has_left() {
    let pod = Some(kubelet(1500, None));
    let first = basis(kubelet(1000, None), pod, None);
    let second = basis(kubelet(800, None), pod, None);
    let shown = MilliCpu(800);
    assert_eq!(
        judged(vec![first, second]),
        [(1000, Source::Estimate), (500, Source::PodRest { shown })]
    );
}

#[test]
fn an_update_that_shows_less_than_the_pod_is_a_request_of_its_own() {
    let pod = Some(whole(2000));
    let mut members = [basis(whole(2000), pod, None), basis(whole(2000), pod, None)];
    judge_pod(&mut members.iter_mut().collect::<Vec<_>>());
    let [first, second] = &mut members;
    // Memory alone changes nothing.
    first.merge(&CriResources {
        memory_limit_bytes: 9,
        ..CriResources::default()
    });
    assert_eq!(asks(first), (0, Source::Pod));
    second.merge(&kubelet(1000, Some(1000)));
    assert_eq!(asks(second), (1000, Source::Estimate));
}

proptest! {
    #[test]
    fn an_ordinary_pod_gets_all_it_asks_for_and_no_pod_more_than_it_has(
        requests in proptest::collection::vec(0_u32..9000, 1..6),
        annotated in proptest::collection::vec(any::<bool>(), 6),
        pod_level in proptest::option::of(0_u32..9000),
    ) {
        let sum: u32 = requests.iter().sum();
        let pod = whole(pod_level.unwrap_or(sum));
        let members = requests.iter().zip(annotated).map(|(milli, annotated)| {
            basis(whole(*milli), Some(pod), annotated.then_some(*milli))
        });
        let asked = judged(members.collect());
        let total: u32 = asked.iter().map(|(milli, _)| *milli).sum();
        let rounding = u32::try_from(requests.len()).unwrap();
        if pod_level.is_none() {
            for ((asked, _), wanted) in asked.iter().zip(&requests) {
                prop_assert!(asked.abs_diff(*wanted) <= 2, "{asked} of {wanted}");
            }
        } else if asked.len() > 1 {
            // What earlier containers hold is theirs; the newest never adds to an excess.
            let newest = asked.last().unwrap().0;
            prop_assert!(newest == 0 || total <= pod_level.unwrap() + 2 * rounding);
        }
    }
}
