//! The dump of a pod's life: every call, in order, in the file.

use resmgr_tests::{Container, Cri, Relay, Runtime, eventually, skip};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn the_dump_file_holds_every_call_of_a_pods_life_in_order() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("dump: a pod's life", &why);
    }
    let runtime = Runtime::start().unwrap();
    let file = runtime.folder().join("dump");
    let shown = file.display().to_string();
    // Word for word as in the predecessor's README: one dash, a space before the value.
    let relay = Relay::start(
        &runtime,
        &[
            "-policy",
            "null",
            "-dump",
            "reset,full:.*",
            "-dump-file",
            &shown,
        ],
    )
    .unwrap();
    let mut cri = Cri::connect(&relay.socket(), runtime.cgroup_parent())
        .await
        .unwrap();
    let pod = cri.run_pod("dumped", "", &[]).await.unwrap();
    let id = cri.run(&pod, &Container::sleeping("main")).await.unwrap();
    cri.stop(&id).await.unwrap();
    cri.remove(&id).await.unwrap();
    cri.remove_pod(&pod).await.unwrap();

    let order = [
        "RunPodSandbox",
        "CreateContainer",
        "StartContainer",
        "StopContainer",
        "RemoveContainer",
        "StopPodSandbox",
        "RemovePodSandbox",
    ];
    let complete = eventually(Duration::from_secs(60), async || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let mut rest = text.as_str();
        order.iter().all(|method| match rest.split_once(method) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
    })
    .await;
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(complete, "dump:\n{text}\nlog:\n{}", relay.log());
    assert!(text.contains(&id), "no container id in the dump");
}
