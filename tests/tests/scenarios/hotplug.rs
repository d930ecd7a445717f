//! CPUs that come and go.

use super::stage::{PATIENCE, Stage, best_effort, guaranteed};
use resmgr_tests::eventually;

fn online(cpu: u32, online: bool) {
    let file = format!("/sys/devices/system/cpu/cpu{cpu}/online");
    std::fs::write(file, if online { "1" } else { "0" }).unwrap();
}

async fn state_says(stage: &Stage, text: &str) {
    let says = eventually(PATIENCE, async || stage.state().contains(text)).await;
    assert!(says, "no {text:?}\n{}\n{}", stage.state(), stage.log());
}

/// Containers of a CPU that goes offline get others; what comes back is used again.
pub(crate) async fn cpus_that_go_offline_are_replaced(stage: &mut Stage) {
    stage
        .relay(&["--policy", "static", "--reserved-resources", "cpu=750m"])
        .await;
    let shared = stage.run(&best_effort("shared")).await;
    let core = stage.run(&guaranteed("core", 2)).await;
    stage.on(&core, "2-3").await;
    stage.on(&shared, "0-1,4-15").await;

    online(15, false);
    state_says(stage, "online CPUs 0-14").await;
    stage.on(&shared, "0-1,4-14").await;
    stage.on(&core, "2-3").await;
    assert!(
        stage.log().contains("the online CPUs changed"),
        "{}",
        stage.log()
    );

    // Half of the core: what is left stays, and one is added.
    online(3, false);
    state_says(stage, "online CPUs 0-2,4-14").await;
    stage.on(&core, "1-2").await;
    stage.on(&shared, "0,4-14").await;
    let late = stage.run(&guaranteed("late", 1)).await;
    stage.on(&late, "14").await;

    online(3, true);
    online(15, true);
    state_says(stage, "online CPUs 0-15").await;
    stage.on(&shared, "0,3-13,15").await;
    stage.on(&core, "1-2").await;
    let log = stage.log();
    assert!(
        !log.contains("the kernel does not have the wanted placement"),
        "{log}"
    );
}
