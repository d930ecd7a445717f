//! Calls that do not end as they should: streams cut short, clients that leave, a runtime that hangs or
//! dies. With the real containerd behind the relay.
use k8s_cri::v1;
use resmgr_tests::{
    Container, Cri, Pod, Relay, Runtime, eventually, kernel, runtime::IMAGE, skip, wire::Wire,
};
use std::{collections::HashMap, time::Duration};

const LIMIT: Duration = Duration::from_secs(60);
const VERSION: &str = "/runtime.v1.RuntimeService/Version";
/// A server stream that every containerd has, on the socket of its CRI.
const EVENTS: &str = "/containerd.services.events.v1.Events/Subscribe";
const STATIC: [&str; 4] = ["--policy", "static", "--reserved-resources", "cpu=1000m"];

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_either_side_cuts_short_ends_alone() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("cri: streams cut short", &why);
    }
    let mut runtime = Runtime::start().unwrap();
    let relay = Relay::start(&runtime, &["--dump", "reset,full:.*"]).unwrap();
    let wire = Wire::connect(&relay.socket()).await.unwrap();
    let mut first = wire.open(EVENTS, &[]).await.unwrap();
    let mut second = wire.open(EVENTS, &[]).await.unwrap();
    // The streams are open once something is heard on them.
    for stream in [&mut first, &mut second] {
        let heard = async {
            loop {
                let label = format!("at={:?}", std::time::Instant::now());
                let mut ctr = runtime.ctr();
                let output = ctr.args(["images", "label", IMAGE, &label]).output();
                assert!(output.unwrap().status.success());
                let next = tokio::time::timeout(Duration::from_millis(200), stream.next());
                if let Ok(part) = next.await {
                    return part.unwrap();
                }
            }
        };
        let heard = tokio::time::timeout(LIMIT, heard).await.unwrap();
        assert!(heard.is_some_and(|data| !data.is_empty()));
    }
    // The client leaves one; the other and the connection go on.
    drop(first);
    assert_eq!(wire.call(VERSION, &[]).await.unwrap().status(), Some(0));
    let mut ctr = runtime.ctr();
    let output = ctr.args(["images", "label", IMAGE, "end=near"]).output();
    assert!(output.unwrap().status.success());
    let next = tokio::time::timeout(LIMIT, second.next()).await.unwrap();
    assert!(next.unwrap().is_some(), "{}", relay.log());
    // The runtime leaves the other: its end says so, and the connection still goes on.
    runtime.kill().unwrap();
    let (status, text) = tokio::time::timeout(LIMIT, second.end())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(status, "14", "{text}");
    assert!(text.contains("broke"), "{text}");
    runtime.restart().unwrap();
    assert_eq!(wire.call(VERSION, &[]).await.unwrap().status(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_hears_why_when_the_runtime_is_absent_and_outlives_one_that_hangs() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("cri: deadlines", &why);
    }
    let mut runtime = Runtime::start().unwrap();
    let relay = Relay::start(&runtime, &[]).unwrap();
    let wire = Wire::connect(&relay.socket()).await.unwrap();
    assert_eq!(wire.call(VERSION, &[]).await.unwrap().status(), Some(0));
    runtime.pause().unwrap();
    // The client's own deadline ends the call: the relay must not keep it, nor answer for the runtime.
    let hanging = wire.call_with(VERSION, &[], &[("grpc-timeout", "300m")]);
    let given_up = tokio::time::timeout(Duration::from_millis(600), hanging).await;
    assert!(given_up.is_err(), "{given_up:?}");
    let patient = wire.call(VERSION, &[]);
    let resume = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        runtime.resume().unwrap();
    };
    let (patient, ()) = tokio::join!(patient, resume);
    assert_eq!(patient.unwrap().status(), Some(0));

    runtime.kill().unwrap();
    let absent = wire
        .call_with(VERSION, &[], &[("grpc-timeout", "900m")])
        .await;
    let absent = absent.unwrap();
    assert_eq!(absent.status(), Some(14), "{absent:?}");
    let text = absent.message();
    let known = text.contains("cannot be reached") || text.contains("broke");
    assert!(known && text.contains("containerd.sock"), "{text}");
    // A call with time enough waits for the runtime to come back.
    let waits = wire.call_with(VERSION, &[], &[("grpc-timeout", "59S")]);
    let restart = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        tokio::task::block_in_place(|| runtime.restart()).unwrap();
    };
    let (waits, ()) = tokio::join!(waits, restart);
    assert_eq!(waits.unwrap().status(), Some(0), "{}", relay.log());
}

/// Removes whatever containers there are of `pod`; whether nobody has a place any more.
async fn nobody_is_left(cri: &mut Cri, relay: &Relay, name: &str) -> bool {
    let list = v1::ListContainersRequest::default();
    let Ok(list) = cri.client.list_containers(list).await else {
        return false;
    };
    let found = list.into_inner().containers;
    for container in &found {
        drop(cri.remove(&container.id).await);
    }
    found.is_empty()
        && relay
            .ask(&["state"])
            .is_ok_and(|state| !state.contains(name))
}

/// Creations that are cut off by `cut`, each a little later than the one before.
async fn cut_off(cri: &Cri, pod: &Pod, name: &str) {
    for n in 0..12_u64 {
        let container = Container::sleeping(&format!("{name}{n}")).guaranteed(1);
        let mut cri = cri.clone();
        let creation = cri.create(pod, &container);
        // Some end well, some are refused because an earlier one is not settled yet.
        drop(tokio::time::timeout(Duration::from_millis(n * 4), creation).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_is_cut_off_leaves_no_cpu_taken() {
    let what = "cri: cancelled creations";
    if let Some(why) = skip::no_relay() {
        return skip::skip(what, &why);
    }
    if kernel::online().unwrap() == "0" {
        return skip::skip(what, "needs two CPUs");
    }
    let mut runtime = Runtime::start().unwrap();
    let relay = Relay::start(&runtime, &STATIC).unwrap();
    let parent = runtime.cgroup_parent().to_owned();
    let mut cri = Cri::connect(&relay.socket(), &parent).await.unwrap();
    let pod = cri.run_pod("pod", "", &[]).await.unwrap();

    cut_off(&cri, &pod, "lost-cancelled").await;
    // Now it is the runtime that goes, amid a creation.
    let container = Container::sleeping("lost-orphan").burstable(100);
    let mut creator = cri.clone();
    let creation = creator.create(&pod, &container);
    let kill = async {
        tokio::time::sleep(Duration::from_millis(8)).await;
        runtime.kill().unwrap();
    };
    let (outcome, ()) = tokio::join!(creation, kill);
    if let Err(error) = outcome {
        let status = error.downcast::<tonic::Status>().unwrap();
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    }
    runtime.restart().unwrap();

    // What nobody knows the end of keeps its place for half a minute: it may come into being yet.
    let clean = eventually(2 * LIMIT, async || {
        nobody_is_left(&mut cri, &relay, "lost-").await
    })
    .await;
    let state = relay.ask(&["state"]).unwrap();
    assert!(clean, "{state}\n{}", relay.log());
    // There is one CPU to be had alone: it is free again.
    let whole = Container::sleeping("whole").guaranteed(1);
    let id = cri.run(&pod, &whole).await.unwrap();
    assert_ne!(
        kernel::allowed(&parent, &id).unwrap(),
        kernel::online().unwrap()
    );
    cri.stop(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_with_annotations_of_many_mib_is_created_and_shown_through_hooks() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("cri: large intercepted messages", &why);
    }
    let runtime = Runtime::start().unwrap();
    let relay = Relay::start(&runtime, &["--policy", "none"]).unwrap();
    let mut cri = Cri::connect(&relay.socket(), runtime.cgroup_parent())
        .await
        .unwrap();
    let pod = cri.run_pod("large", "", &[]).await.unwrap();
    let metadata = v1::ContainerMetadata {
        name: "large".into(),
        attempt: 0,
    };
    let request = |octets: usize| v1::CreateContainerRequest {
        pod_sandbox_id: pod.id.clone(),
        config: Some(v1::ContainerConfig {
            metadata: Some(metadata.clone()),
            image: Some(v1::ImageSpec {
                image: IMAGE.into(),
                ..v1::ImageSpec::default()
            }),
            annotations: HashMap::from([("large".to_owned(), "x".repeat(octets))]),
            ..v1::ContainerConfig::default()
        }),
        sandbox_config: Some(pod.config.clone()),
    };
    // containerd takes requests of 16 MiB: more is refused by it, not by the relay.
    let refused = cri.client.create_container(request(17 << 20)).await;
    let refused = refused.unwrap_err();
    assert_eq!(
        refused.code(),
        tonic::Code::ResourceExhausted,
        "{refused:?}"
    );
    assert!(
        refused.message().contains("received message larger"),
        "{refused:?}"
    );
    let octets = 15 << 20;
    let created = cri.client.create_container(request(octets)).await.unwrap();
    let container_id = created.into_inner().container_id;
    let status = v1::ContainerStatusRequest {
        container_id,
        verbose: false,
    };
    let status = cri
        .client
        .container_status(status)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.status.unwrap().annotations["large"].len(), octets);
}
