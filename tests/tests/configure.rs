//! Configuration pushed into a running cri-resmgr, as the node agent pushes it.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use hyper_util::rt::TokioIo;
use resmgr_proto::v1::{SetConfigReply, SetConfigRequest, config_client::ConfigClient};
use resmgr_tests::{Container, Cri, Relay, Runtime, eventually, kernel, skip};
use std::{path::PathBuf, time::Duration};
use tonic::transport::{Channel, Endpoint};

async fn push(socket: PathBuf, key: &str, text: &str) -> SetConfigReply {
    let channel: Channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(
        tower::service_fn(move |_uri| {
            let socket = socket.clone();
            async move {
                tokio::net::UnixStream::connect(socket)
                    .await
                    .map(TokioIo::new)
            }
        }),
    );
    let request = SetConfigRequest {
        node_name: "node".into(),
        config: [(key.to_owned(), text.to_owned())].into(),
        ..SetConfigRequest::default()
    };
    let mut client = ConfigClient::new(channel);
    // The relay listens before the configuration socket is served.
    let mut reply = None;
    let answered = eventually(Duration::from_secs(10), async || {
        reply = client.set_config(request.clone()).await.ok();
        reply.is_some()
    })
    .await;
    assert!(answered);
    reply.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_document_moves_what_runs_and_a_bad_one_changes_nothing() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("configure", &why);
    }
    let online = kernel::online().unwrap();
    if online == "0" {
        return skip::skip("configure", "needs two CPUs");
    }
    let runtime = Runtime::start().unwrap();
    let arguments = ["--policy", "static", "--reserved-resources", "cpu=1000m"];
    let relay = Relay::start(&runtime, &arguments).unwrap();
    let parent = runtime.cgroup_parent();
    let mut cri = Cri::connect(&relay.socket(), parent).await.unwrap();
    let pod = cri.run_pod("shared", "besteffort", &[]).await.unwrap();
    let shared = cri.run(&pod, &Container::sleeping("shared")).await.unwrap();
    let pod = cri.run_pod("mine", "", &[]).await.unwrap();
    cri.run(&pod, &Container::sleeping("mine").guaranteed(1))
        .await
        .unwrap();
    let settles = async |wanted: &dyn Fn(&str) -> bool| {
        eventually(Duration::from_secs(10), async || {
            kernel::allowed(parent, &shared).is_ok_and(|cpus| wanted(&cpus))
        })
        .await
    };
    assert!(
        settles(&|cpus| cpus != online).await,
        "an exclusive CPU was given away"
    );

    let socket = relay.folder().join("config.sock");
    let refused = push(socket.clone(), "policy", "Activ: none").await;
    assert!(
        refused.error.contains("Active"),
        "the nearest right key is named: {refused:?}"
    );
    assert!(settles(&|cpus| cpus != online).await);
    assert!(relay.ask(&["state"]).unwrap().starts_with("policy static,"));

    let accepted = push(socket, "policy", "Active: none").await;
    assert_eq!(accepted.error, "", "{}", relay.log());
    assert!(relay.ask(&["state"]).unwrap().starts_with("policy none,"));
    assert!(settles(&|cpus| cpus == online).await, "{}", relay.log());
}
