use super::*;
use crate::config::{Machine, Raw, overlay, resolve, resolve::tests::machine};
use resmgr_io::socket::{SocketError, bind_private};
use resmgr_proto::v1::config_client::ConfigClient;
use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};
use tonic::transport::{Channel, Endpoint, Uri};

fn validator() -> ConfigValidator {
    Arc::new(|document: &Document, node: &str| {
        let topology = machine(4);
        let machine = Machine {
            topology: &topology,
            cgroup_cpus: &|_| Err(std::io::ErrorKind::NotFound.into()),
        };
        let start = resolve(&Raw::default(), machine).unwrap();
        overlay(&start, document, node, machine)
    })
}

async fn client(path: &Path) -> ConfigClient<Channel> {
    let path: PathBuf = path.to_owned();
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(path).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        }))
        .await
        .unwrap();
    ConfigClient::new(channel)
}

fn request(entries: &[(&str, &str)]) -> SetConfigRequest {
    SetConfigRequest {
        node_name: "n".to_owned(),
        config: entries
            .iter()
            .map(|(key, text)| ((*key).to_owned(), (*text).to_owned()))
            .collect::<BTreeMap<_, _>>(),
        origin: "kube-system/x".to_owned(),
        ..SetConfigRequest::default()
    }
}

fn status() -> watch::Sender<ConfigStatus> {
    watch::Sender::default()
}

/// Answers every push: refuses `PinMemory`, applies the rest.
async fn apply_all(mut pushes: mpsc::Receiver<ConfigPush>) -> u32 {
    let mut count = 0;
    while let Some(pushed) = pushes.recv().await {
        count += 1;
        let outcome = if pushed.config.policy.slices.pin_memory {
            Err(ConfigRefusal(vec![Problem {
                key: "policy.PinMemory".to_owned(),
                value: "true".to_owned(),
                origin: crate::config::Origin::Default,
                message: "no memory nodes".to_owned(),
            }]))
        } else {
            Ok(ApplyReport {
                notes: vec!["1 container moved".to_owned()],
            })
        };
        pushed.answer.send(outcome).unwrap();
    }
    count
}

#[tokio::test]
async fn pushes_are_validated_applied_and_answered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/config.sock");
    let listener = bind_private(&path).unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(matches!(
        bind_private(&path),
        Err(SocketError::InUse { .. })
    ));
    let (sender, receiver) = mpsc::channel(1);
    let status = status();
    let told = status.subscribe();
    let server = ConfigServer::new(validator(), sender, Duration::from_secs(20), status);
    let stop = CancellationToken::new();
    let play = async {
        let mut client = client(&path).await;
        let mut push = async |entries: &[(&str, &str)]| {
            client
                .set_config(request(entries))
                .await
                .unwrap()
                .into_inner()
        };
        let good = push(&[("rebalance", "shadow")]).await;
        assert_eq!((good.error.as_str(), good.generation), ("", 1));
        assert_eq!(good.notes, ["1 container moved"]);

        let same = push(&[("rebalance", "shadow")]).await;
        assert_eq!((same.generation, same.notes.len()), (1, 0));

        let empty = push(&[]).await;
        assert_eq!((empty.error.as_str(), empty.generation), ("", 1));
        assert!(empty.notes[0].contains("ignored"));

        let bad = push(&[("policy", "Activ: static"), ("rebalance", "maybe")]).await;
        assert_eq!((bad.generation, bad.problems.len()), (1, 2));
        assert!(
            bad.error.contains("did you mean \"Active\""),
            "{}",
            bad.error
        );

        let refused = push(&[("policy", "PinMemory: true")]).await;
        assert_eq!(refused.generation, 1);
        assert!(refused.error.contains("no memory nodes"));

        let status = client
            .get_status(GetStatusRequest {})
            .await
            .unwrap()
            .into_inner();
        assert_eq!((status.generation, status.instance), (1, good.instance));
        assert!(status.error.contains("no memory nodes"));
        let known = told.borrow().clone();
        assert_eq!(
            known.applied.unwrap().document.source,
            "ConfigMap kube-system/x"
        );
        let refused = known.refused.unwrap();
        assert!(refused.why.contains("no memory nodes") && refused.outstanding);

        let accepted = request(&[("rebalance", "shadow")]);
        client.set_config(accepted).await.unwrap();
        let refused = told.borrow().refused.clone().unwrap();
        assert!(refused.why.contains("no memory nodes") && !refused.outstanding);
        assert_eq!(status.origin, "ConfigMap kube-system/x");
        drop(client);
        stop.cancel();
    };
    let (served, (), applied) = tokio::join!(
        server.serve(listener, std::convert::identity, stop.clone()),
        play,
        apply_all(receiver)
    );
    served.unwrap();
    assert_eq!(applied, 2);
    // Left behind dead, it is replaced.
    bind_private(&path).unwrap();
}

#[tokio::test]
async fn a_push_that_is_not_applied_is_given_up_in_time_and_may_be_tried_again() {
    let (sender, receiver) = mpsc::channel(1);
    let server = ConfigServer::new(validator(), sender, Duration::from_millis(50), status());
    let push = |server: &ConfigServer| {
        let server = server.clone();
        async move {
            let pushed = request(&[("rebalance", "on")]);
            server.set_config(Request::new(pushed)).await.unwrap_err()
        }
    };
    // No refusal: an agent does not try again what was refused.
    let late = push(&server).await;
    assert_eq!(late.code(), tonic::Code::Unavailable);
    assert!(late.message().contains("not applied within"), "{late}");
    drop(receiver);
    let stopping = push(&server).await;
    assert_eq!(stopping.code(), tonic::Code::Unavailable);
    assert!(stopping.message().contains("is stopping"), "{stopping}");
}

#[tokio::test]
async fn what_is_only_checked_is_validated_and_planned_and_changes_nothing() {
    let (sender, mut pushes) = mpsc::channel(1);
    let server = ConfigServer::new(validator(), sender, Duration::from_secs(20), status());
    let check = async |text: &str| {
        let asked = request(&[("rebalance", text)]);
        let reply = server.check_config(Request::new(asked)).await;
        reply.unwrap().into_inner()
    };
    let (reply, ()) = tokio::join!(check("on"), async {
        let pushed = pushes.recv().await.unwrap();
        assert!(pushed.dry);
        let notes = vec!["1 container would move".to_owned()];
        pushed.answer.send(Ok(ApplyReport { notes })).unwrap();
    });
    assert_eq!((reply.error.as_str(), reply.notes.len()), ("", 1));
    assert!(check("sideways").await.error.contains("sideways"));
    let status = server.get_status(Request::new(GetStatusRequest {})).await;
    let status = status.unwrap().into_inner();
    assert_eq!((status.generation, status.error.as_str()), (0, ""));
}

#[test]
fn a_configuration_of_a_megabyte_that_is_all_wrong_has_a_short_refusal() {
    let problem = |number: usize| Problem {
        key: format!("key{number}"),
        value: "ä".repeat(100_000),
        origin: crate::config::Origin::Default,
        message: "unknown key".to_owned(),
    };
    let problems: Vec<_> = (0..1000).map(problem).collect();
    let mut reply = SetConfigReply::default();
    refuse(&mut reply, &problems);
    assert!(reply.error.len() < 128 << 10, "{}", reply.error.len());
    assert!(reply.error.ends_with("\nand 950 more problems"));
    assert!(reply.problems[0].text.ends_with('…'));
    refuse(&mut reply, &problems[..1]);
    assert_eq!(reply.problems.len(), 1);
    assert!(!reply.error.contains("more problems"));
}
