use super::*;
use crate::config::{OnFailure, Raw, resolve, resolve::tests::machine};
use proptest::prelude::*;
use resmgr_policy::QosClass;

fn document(entries: &[(&str, &str)]) -> Document {
    Document {
        source: "ConfigMap x".to_owned(),
        entries: entries
            .iter()
            .map(|(key, text)| ((*key).to_owned(), (*text).to_owned()))
            .collect(),
    }
}

fn laid_over(document: &Document) -> Result<Config, Problems> {
    let topology = machine(8);
    let machine = Machine {
        topology: &topology,
        cgroup_cpus: &|_| Err(std::io::ErrorKind::NotFound.into()),
    };
    let start = resolve(&Raw::default(), machine).unwrap();
    overlay(&start, document, "node1.example.com", machine)
}

fn pushed(entries: &[(&str, &str)]) -> Result<Config, Problems> {
    laid_over(&document(entries))
}

#[test]
fn every_key_takes_effect() {
    let config = pushed(&[
        (
            "policy",
            "Active: static\nreservedResources: {cpu: 1000m}\nAvailableResources:\n  CPU: 0-3,5\nPinMemory: on\nFailPolicy: pass\nTimeout: 2s\n",
        ),
        ("policy.static", "RelaxedIsolation: true\nRdt: off"),
        ("policy.static-plus", "BurstableExclusive: false\n"),
        ("policy.stp", "pools: {a: {cpuLists: [{Socket: 0, Cpuset: '1'}]}}\nLabelNode: true"),
        ("rebalance", "shadow\n"),
        ("dump", "Config: reset,full:.*"),
        ("logger", "Debug: policy,message\nLevel: debug"),
    ])
    .unwrap();
    let policy = &config.policy;
    assert_eq!(policy.name, PolicyName::Static);
    assert_eq!(policy.slices.available, Some("0-3,5".parse().unwrap()));
    assert_eq!(
        policy.fail.choose("x", QosClass::Burstable),
        OnFailure::Pass
    );
    assert_eq!(policy.timeout.as_secs(), 2);
    assert!(
        policy.slices.pin_memory
            && policy.slices.relaxed_isolation
            && !policy.slices.burstable_exclusive
    );
    assert_eq!(policy.pools.pushed.as_ref().unwrap().pools.len(), 1);
    assert_eq!(policy.rebalance, RebalanceMode::Shadow);
    assert_eq!(
        config.dump.rules.target("Version"),
        crate::dump::rule::Target::Full
    );
    assert!(config.log.debug.on("message"));
}

#[test]
fn the_nodes_own_key_beats_the_general_one_and_other_nodes_are_not_asked() {
    let relaxed =
        |entries: &[(&str, &str)]| pushed(entries).unwrap().policy.slices.relaxed_isolation;
    let (yes, no) = ("RelaxedIsolation: true", "RelaxedIsolation: false");
    let own = "policy.static.node1.example.com";
    assert!(relaxed(&[("policy.static", no), (own, yes)]));
    assert!(!relaxed(&[("policy.static", yes), (own, no)]));
    assert!(!relaxed(&[("policy.static.node2", "RelaxedIsolation: [")]));
}

#[test]
fn what_is_not_said_is_as_at_start() {
    let config = pushed(&[("policy", "PinMemory: true")]).unwrap();
    assert_eq!(config.policy.name, PolicyName::Null);
    assert_eq!(pushed(&[]).unwrap().policy.name, PolicyName::Null);
    assert!(pushed(&[("policy", ""), ("dump", "\n")]).is_ok());
}

#[test]
fn every_mistake_is_named_with_its_key_and_what_would_be_right() {
    for (key, text, part) in [
        ("polcy", "", "unknown key; did you mean \"policy\"?"),
        ("policy.statc", "", "did you mean \"policy.static\"?"),
        ("policy.topology-aware", "", "unknown key"),
        (
            "policy",
            "Activ: static",
            "policy.Activ: unknown field; did you mean \"Active\"?",
        ),
        ("policy", "Active: x", "expected one of"),
        ("policy", "Active: static", "needs CPUs set aside"),
        (
            "policy",
            "AvailableResources: {CPU: 7-9}",
            "CPUs 8-9 not online",
        ),
        ("policy", "ReservedResources: 3", "expected fields"),
        ("policy", "[", "not YAML"),
        ("policy", "FailPolicy: maybe", "expected refuse"),
        ("policy", "Timeout: 0s", "more than 0"),
        ("policy.static", "Rdt: on", "RDT is not supported"),
        (
            "policy.static",
            "RelaxedIsolation: maybe",
            "expected true or false",
        ),
        ("rebalance", "maybe", "expected one of off, shadow, on"),
        ("dump", "Config: 'ful:.*'", "unknown target"),
        (
            "dump",
            "File: /etc/passwd",
            "can only be given at start, with --dump-file",
        ),
        ("logger", "Debug: polcy", "did you mean \"policy\"?"),
        ("policy.stp", "pools: {}", "no pools configured"),
    ] {
        let error = pushed(&[(key, text)]).unwrap_err().to_string();
        assert!(error.contains(part), "{key} {text:?}: {error}");
        assert!(error.contains(&format!("[ConfigMap x, {key}]")), "{error}");
    }
    let both = pushed(&[("policy.stp", ""), ("policy.static-pools", "")]).unwrap_err();
    assert!(both.to_string().contains("means the same"), "{both}");
}

#[test]
fn what_has_no_effect_is_noted() {
    let config = pushed(&[("logger", "Debug: policy,cpuallocator")]).unwrap();
    assert_eq!(
        config.notes,
        ["log source cpuallocator has no effect: nothing is logged under it"]
    );
}

#[test]
fn all_problems_come_at_once() {
    let problems = pushed(&[
        ("policy", "Active: x\nPinMemory: 3"),
        ("dump", "Config: 'off:['"),
    ]);
    assert_eq!(problems.unwrap_err().0.len(), 3);
}

#[test]
fn files_are_manifests_or_their_data() {
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata:\n  policy.static: |\n    RelaxedIsolation: true\n";
    let data = "policy.static:\n  RelaxedIsolation: true\n";
    for text in [manifest, data] {
        let document = Document::from_file(text, "file").unwrap();
        assert!(
            laid_over(&document)
                .unwrap()
                .policy
                .slices
                .relaxed_isolation,
            "{text}"
        );
    }
    assert!(Document::from_file("kind: Pod", "file").is_err());
    assert!(Document::from_file("[", "file").is_err());
}

proptest! {
    #[test]
    fn no_document_panics(key in "policy(\\.(static|stp|static-plus))?|dump|logger|rebalance|\\PC{0,9}", text in "\\PC{0,40}|[a-zA-Z:{}\\[\\], \n-]{0,40}") {
        let _outcome = pushed(&[(&key, &text)]);
        let _outcome = Document::from_file(&text, "x");
    }
}
