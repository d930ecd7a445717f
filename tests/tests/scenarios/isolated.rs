//! CPUs that the kernel keeps for itself (`isolcpus=`): given out whole, never shared.

use super::stage::{Stage, best_effort, burstable, guaranteed};

const PREFER: &str = "cri-resource-manager.intel.com/prefer-isolated-cpus";
const STATIC: [&str; 4] = ["--policy", "static", "--reserved-resources", "cpu=750m"];
const PLUS: [&str; 4] = [
    "--policy",
    "static-plus",
    "--reserved-resources",
    "cpu=750m",
];

/// With `isolcpus=8,9`.
pub(crate) async fn one_cpu_or_one_core_is_isolated_unless_opted_out(stage: &mut Stage) {
    stage.relay(&STATIC).await;
    let shared = stage.run(&best_effort("shared")).await;
    stage.on(&shared, "0-7,10-15").await;
    let below = stage.run(&burstable("below", 500)).await;
    stage.on(&below, "0-7,10-15").await;
    let one = stage.run(&guaranteed("one", 1)).await;
    stage.on(&one, "8").await;
    let wish = stage
        .run(&guaranteed("wish", 1).annotation(PREFER, "true"))
        .await;
    stage.on(&wish, "9").await;
    stage.on(&shared, "0-7,10-15").await;
    for id in [one, wish] {
        stage.end(&id).await;
    }
    let never = stage
        .run(&guaranteed("never", 1).annotation(PREFER, "false"))
        .await;
    stage.on(&never, "10").await;
    let core = stage.run(&guaranteed("core", 2)).await;
    stage.on(&core, "8-9").await;
    stage.end(&core).await;
    let wish = stage
        .run(&guaranteed("both", 2).annotation(PREFER, "true"))
        .await;
    stage.on(&wish, "8-9").await;
    stage.end(&wish).await;
    let three = stage.run(&guaranteed("three", 3)).await;
    // Of the socket with fewer free CPUs.
    stage.on(&three, "12-14").await;
    stage.on(&shared, "0-7,11,15").await;
}

/// With `isolcpus=8,9`.
pub(crate) async fn a_mixed_request_takes_isolated_cpus_for_its_whole_part(stage: &mut Stage) {
    stage.relay(&PLUS).await;
    let mixed = stage.run(&burstable("mixed", 2500)).await;
    stage.on(&mixed, "1-15").await;
    let shared = stage.run(&best_effort("shared")).await;
    stage.on(&shared, "1-7,10-15").await;
    stage.end(&mixed).await;
    let out = stage
        .run(&burstable("out", 2500).annotation(PREFER, "false"))
        .await;
    stage.on(&out, "1-7,10-15").await;
    stage.on(&shared, "1-7,12-15").await;
    let below = stage.run(&burstable("below", 900)).await;
    stage.on(&below, "1-7,12-15").await;
    let two = stage.run(&guaranteed("two", 2)).await;
    stage.on(&two, "8-9").await;
    // Isolated CPUs are used up: a slice of the others.
    let three = stage.run(&guaranteed("three", 3)).await;
    stage.on(&three, "12-14").await;
}

/// With `isolcpus=8,10`: no core is isolated whole.
pub(crate) async fn relaxed_isolation_gives_isolated_cpus_that_make_no_core(stage: &mut Stage) {
    stage.relay(&STATIC).await;
    let strict = stage.run(&guaranteed("strict", 2)).await;
    stage.on(&strict, "12-13").await;
    let relaxed = [&STATIC[..], &["--static-policy-relaxed-isolation"]].concat();
    stage.relay(&relaxed).await;
    let loose = stage.run(&guaranteed("loose", 2)).await;
    stage.on(&loose, "8,10").await;
    let shared = stage.run(&best_effort("shared")).await;
    stage.on(&shared, "0-7,9,11-15").await;
}
