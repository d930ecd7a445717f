//! A relay in a container that is stopped through that relay: the runtime answers when the relay has ended, so the
//! relay does not wait for it.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use k8s_cri::v1;
use resmgr_tests::{Container, Cri, Relay, Runtime, built, eventually, skip};
use std::{os::unix::net::UnixStream, path::Path, time::Duration};

/// Beyond it something hangs, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);

/// cri-resmgr as the program of a container, with the sockets and folders that [`Relay::start`] would give it.
fn relay_in_container(runtime: &Runtime, policy: &str) -> Container {
    let path = |name: &str| runtime.folder().join(name).display().to_string();
    let program = built("cri-resmgr").unwrap();
    let arguments = [
        ["--runtime-socket", &path("containerd.sock")],
        ["--relay-socket", &path("relay/relay.sock")],
        ["--relay-dir", &path("relay/state")],
        ["--config-socket", &path("relay/config.sock")],
        ["--agent-socket", "disabled"],
        // Longer than the test has patience: a drain to the end would be noticed.
        ["--drain-timeout", "10m"],
        ["--policy", policy],
    ];
    let mut container = Container::program("cri-resmgr", &program, arguments.as_flattened());
    let folder = runtime.folder().display().to_string();
    container.mounts.push((folder.clone(), folder));
    container
}

fn stop_request(id: &str) -> v1::StopContainerRequest {
    v1::StopContainerRequest {
        container_id: id.to_owned(),
        // The runtime would kill it only then.
        timeout: 600,
    }
}

/// Runs a script in a container.
async fn shell(cri: &Cri, id: &str, script: &str) -> Result<v1::ExecSyncResponse, tonic::Status> {
    let request = v1::ExecSyncRequest {
        container_id: id.to_owned(),
        cmd: ["/bin/sh", "-c", script].map(str::to_owned).into(),
        timeout: 0,
    };
    let reply = cri.client.clone().exec_sync(request).await?;
    Ok(reply.into_inner())
}

async fn status(cri: &mut Cri, id: &str) -> v1::ContainerStatus {
    let request = v1::ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: false,
    };
    let reply = cri.client.container_status(request).await.unwrap();
    reply.into_inner().status.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_own_container_is_stopped_through_it_does_not_wait_for_itself() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("own container", &why);
    }
    for policy in ["null", "none"] {
        let runtime = Runtime::start().unwrap();
        let folder = runtime.folder().join("relay");
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("relay.sock");
        let mut direct = connect(&runtime.socket(), &runtime).await;
        let pod = direct.run_pod("relay", "", &[]).await.unwrap();
        let sibling = Container::sleeping("sibling");
        let sibling = direct.run(&pod, &sibling).await.unwrap();
        let own = relay_in_container(&runtime, policy);
        let own = direct.run(&pod, &own).await.unwrap();
        let listens = eventually(PATIENCE, async || UnixStream::connect(&socket).is_ok()).await;
        assert!(listens, "{:?}", status(&mut direct, &own).await);

        let mut through = connect(&socket, &runtime).await;
        // A call that ends when the test says so.
        let exec = tokio::spawn({
            let (through, sibling) = (through.clone(), sibling.clone());
            let script = ": > /tmp/begun; until [ -e /tmp/go ]; do sleep 0.1; done; echo done";
            async move { shell(&through, &sibling, script).await }
        });
        let begun = eventually(PATIENCE, async || {
            let seen = shell(&direct, &sibling, "[ -e /tmp/begun ]").await;
            seen.unwrap().exit_code == 0
        });
        assert!(begun.await);

        let stopped = through.client.stop_container(stop_request(&own));
        let stopped = tokio::time::timeout(PATIENCE, stopped).await.unwrap();
        let refused = stopped.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
        assert!(refused.message().contains("call again"), "{refused}");

        // The relay is still there for the other call.
        assert!(!exec.is_finished());
        assert!(!direct.exited(&own).await.unwrap());
        shell(&direct, &sibling, ": > /tmp/go").await.unwrap();
        let answer = exec.await.unwrap().unwrap();
        assert_eq!(answer.stdout, b"done\n");

        // It ends by itself.
        let ended = eventually(PATIENCE, async || direct.exited(&own).await.unwrap()).await;
        let status = status(&mut direct, &own).await;
        assert!(ended && status.exit_code == 0, "{status:?}");

        // The kubelet calls again, through the next relay.
        let _next = Relay::start(&runtime, &["--policy", policy]).unwrap();
        let mut through = connect(&socket, &runtime).await;
        through
            .client
            .stop_container(stop_request(&own))
            .await
            .unwrap();
    }
}

async fn connect(socket: &Path, runtime: &Runtime) -> Cri {
    Cri::connect(socket, runtime.cgroup_parent()).await.unwrap()
}
