//! Containers that end by themselves, with a real runtime and the kernel as witness.

use resmgr_tests::{Container, Cri, Relay, Runtime, eventually, kernel, skip};
use std::time::Duration;

/// Nothing is looked at by itself within a test's time: what is noticed was told by the kernel.
const STATIC: [&str; 6] = [
    "--policy",
    "static",
    "--reserved-resources",
    "cpu=1000m",
    "--reconcile-interval",
    "1h",
];

#[tokio::test(flavor = "multi_thread")]
async fn an_init_container_that_ends_frees_its_cpus_for_the_next_create() {
    let why = skip::no_relay()
        .or_else(|| (kernel::online().unwrap() == "0").then(|| "needs two CPUs".to_owned()));
    if let Some(why) = why {
        return skip::skip("exits", &why);
    }
    let runtime = Runtime::start().unwrap();
    let relay = Relay::start(&runtime, &STATIC).unwrap();
    let parent = runtime.cgroup_parent();
    let mut cri = Cri::connect(&relay.socket(), parent).await.unwrap();
    let pod = cri.run_pod("shared", "besteffort", &[]).await.unwrap();
    let shared = cri.run(&pod, &Container::sleeping("shared")).await.unwrap();
    let all = kernel::allowed(parent, &shared).unwrap();

    // All exclusive CPUs there are, until it is told to end.
    let count = i64::try_from(std::thread::available_parallelism().unwrap().get()).unwrap() - 1;
    let pod = cri.run_pod("mine", "", &[]).await.unwrap();
    let mut init = Container::script("init", "until [ -e /told/end ]; do sleep 0.1; done");
    let told = runtime.folder().join("told");
    std::fs::create_dir(&told).unwrap();
    init.mounts
        .push((told.display().to_string(), "/told".into()));
    cri.run(&pod, &init.guaranteed(count)).await.unwrap();
    assert_ne!(kernel::allowed(parent, &shared).unwrap(), all);
    std::fs::write(told.join("end"), "").unwrap();
    let back = eventually(Duration::from_secs(60), async || {
        kernel::allowed(parent, &shared).unwrap() == all
    })
    .await;
    assert!(back, "{}\n{}", relay.ask(&["state"]).unwrap(), relay.log());

    let main = Container::sleeping("main").guaranteed(count);
    let main = cri.run(&pod, &main).await;
    assert!(main.is_ok(), "{main:?}\n{}", relay.log());
}
