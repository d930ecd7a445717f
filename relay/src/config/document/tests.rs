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
        ("policy.topology-awre", "", "unknown key"),
        ("policy.static.Rdt", "on", "RDT is not supported"),
        ("policy", "statik: {}", "policy.statik: unknown field"),
        (
            "policy",
            "static-plus: {BurstableExclusiv: true}",
            "policy.static-plus.BurstableExclusiv: unknown field",
        ),
        (
            "policy",
            "Active: null",
            "policy.Active: YAML's null is no value: write \"null\" in quotes",
        ),
        ("policy", "active:", "write \"null\" in quotes"),
        ("policy", "Active: ~", "write \"null\" in quotes"),
        ("policy.Active", "null", "write \"null\" in quotes"),
        (
            "policy",
            "Active: stp\nstp: {pools: {a: {cpuLists: [{Cpuset: '90'}]}}}\n",
            "policy.static-pools.pools.a: ",
        ),
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
            "Secrets: true",
            "can only be given at start, with --dump-secrets",
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
fn a_map_of_cri_resource_manager_keeps_what_exists_here() {
    let config = pushed(&[
        ("policy", "Active: static\nReservedResources: {cpu: 1}\n"),
        ("policy.static", "RelaxedIsolation: true"),
        // Pools of a machine with more sockets than this one.
        (
            "policy.stp",
            "ConfDirPath: /etc/cmk\nLabelNode: true\npools:\n  wide: {exclusive: true, cpuLists: [{Socket: 3, Cpuset: '40,41'}]}",
        ),
        ("policy.topology-aware", "PreferIsolatedCPUs: true"),
        ("policy.balloons.node1.example.com", "BalloonTypes: []"),
        ("rdt", "partitions: {default: {l3Allocation: 60%}}"),
        ("resource-manager.control", "x"),
        ("instrumentation", "HTTPEndpoint: :8891"),
        ("dump", "Config: off:.*\nFile: /var/log/calls.dump\nDebug: true"),
        ("logger", "Debug: policy\nKlog: {skip_headers: true}"),
    ])
    .unwrap();
    assert!(config.policy.slices.relaxed_isolation && config.policy.pools.label_node);
    assert_eq!(config.policy.pools.pushed, None);
    assert!(config.log.debug.on("policy"));
    for (part, count) in [
        (
            "policy.topology-aware has no effect: it does not exist here",
            1,
        ),
        ("policy.balloons.node1.example.com has no effect", 1),
        ("rdt has no effect", 1),
        ("resource-manager.control has no effect", 1),
        ("instrumentation has no effect", 1),
        (
            "policy.static-pools.ConfDirPath has no effect: it can only be given at start, with --static-pools-conf-dir",
            1,
        ),
        ("policy.static-pools.pools.wide has no effect: ", 1),
        (
            "dump.File has no effect: it can only be given at start, with --dump-file",
            1,
        ),
        ("dump.Debug has no effect", 1),
        ("logger.Klog has no effect", 1),
        ("has no effect", 10),
    ] {
        let notes = config.notes.iter().filter(|note| note.contains(part));
        assert_eq!(notes.count(), count, "{part}: {:#?}", config.notes);
    }
}

#[test]
fn dotted_and_nested_mean_the_same() {
    let apart = pushed(&[
        (
            "policy",
            "Active: static-pools\nReservedResources: {CPU: 2}",
        ),
        ("policy.static", "RelaxedIsolation: true"),
        ("policy.static-plus", "BurstableExclusive: false"),
        (
            "policy.static-pools",
            "LabelNode: true\npools: {few: {cpuLists: [{Cpuset: 6}]}}",
        ),
        ("dump", "Config: full:.*"),
        ("logger", "Debug: policy\nLevel: warn"),
    ])
    .unwrap();
    let nested = pushed(&[
        (
            "policy",
            "active: stp\nStatic: {relaxedisolation: on}\nstatic-plus:\n  BurstableExclusive: no\n\
             stp:\n  LabelNode: true\n  pools: {few: {cpuLists: [{Cpuset: 6}]}}\nReservedResources: {cpu: 2}",
        ),
        ("dump.Config", "full:.*"),
        ("logger", "Level: warn"),
        ("logger.Debug", "policy"),
    ])
    .unwrap();
    let dotted = pushed(&[
        ("policy.Active", "static-pools"),
        ("policy.ReservedResources.CPU", "2"),
        ("policy.static.RelaxedIsolation", "true"),
        ("policy.static-plus.BurstableExclusive", "false"),
        ("policy.static-pools.LabelNode", "true"),
        ("policy.stp.pools", "few: {cpuLists: [{Cpuset: 6}]}"),
        ("dump.Config", "full:.*"),
        ("logger.Debug", "policy"),
        ("logger.Level", "warn"),
    ])
    .unwrap();
    for written in [nested, dotted] {
        assert_eq!(format!("{written:?}"), format!("{apart:?}"));
    }
    let unknown = pushed(&[("policy", "topology-aware: {PinCPU: true}")]).unwrap();
    assert_eq!(
        unknown.notes,
        ["policy.topology-aware has no effect: it does not exist here"]
    );
    // The node's own key beats what stands within the general one.
    let own = pushed(&[
        ("policy", "static: {RelaxedIsolation: true}"),
        ("policy.static.RelaxedIsolation", "true"),
        ("policy.static.node1.example.com", "RelaxedIsolation: false"),
    ]);
    assert!(!own.unwrap().policy.slices.relaxed_isolation);
    for (twice, problem) in [
        (
            [("policy", "static: {}"), ("policy.static", "Rdt: off")],
            "policy.static: means the same as key \"policy.static\"",
        ),
        (
            [("policy", "stp: {}\nstatic-pools: {}"), ("logger", "")],
            "policy.stp: means the same as key \"policy.static-pools\"",
        ),
        (
            [("logger", "debug: policy"), ("logger.Debug", "policy")],
            "logger.Debug: is given twice",
        ),
    ] {
        let refused = pushed(&twice).unwrap_err().to_string();
        assert!(refused.contains(problem), "{refused}");
    }
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
