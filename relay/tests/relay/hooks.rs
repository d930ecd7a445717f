//! Calls that a hook or an observer sees.

use crate::scene::{PATIENCE, Scene, both, call, hangs, message};
use async_trait::async_trait;
use bytes::Bytes;
use cri_resmgr::cri::{
    intercept::{After, Before, Call, CallOutcome, Interceptor, Status},
    observe::{Event, Interest, Kind, Observer},
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::timeout;

/// Appends to every request; refuses paths with `refuse`; records outcomes.
#[derive(Debug, Default)]
struct Hook(Arc<Mutex<Vec<String>>>);

struct Ending(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl Interceptor for Hook {
    fn wants(&self, path: &str) -> bool {
        path.starts_with("/hook")
    }

    async fn before(&self, call: &Call, request: &Bytes) -> Before {
        if call.path.contains("refuse") {
            return Before::Refuse(Status {
                code: 9,
                message: "no room".into(),
            });
        }
        let request = Some([&request[..], b"+overlay"].concat().into());
        Before::Forward {
            request,
            after: Some(Box::new(Ending(Arc::clone(&self.0)))),
        }
    }
}

#[async_trait]
impl After for Ending {
    async fn after(self: Box<Self>, outcome: CallOutcome) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let text = match outcome {
            CallOutcome::Reply(body) => format!("reply of {}", body.len()),
            CallOutcome::Failed(status) => format!("failed {}", status.code),
            CallOutcome::Unknown(_) => "unknown".into(),
        };
        self.0.lock().unwrap().push(text);
    }
}

#[tokio::test]
async fn a_hook_rewrites_the_request_and_has_run_before_the_client_sees_the_end() {
    let hook = Arc::new(Hook::default());
    let scene = Scene::new(both, Some(hook.clone()), Vec::new());
    let _runtime = scene.runtime();
    let client = scene.client().await;
    let reply = call(&client, "/hook/C", message(b"body")).await.unwrap();
    assert_eq!(
        (reply.data, &*reply.status),
        (message(b"body+overlay"), "0")
    );
    assert_eq!(*hook.0.lock().unwrap(), ["reply of 12"]);
    let refused = call(&client, "/hook/refuse", message(b"body"))
        .await
        .unwrap();
    assert_eq!((&*refused.status, &*refused.text), ("9", "no room"));
    assert_eq!(
        call(&client, "/hook/no", message(b"b"))
            .await
            .unwrap()
            .status,
        "9"
    );
    assert_eq!(hook.0.lock().unwrap()[1..], ["failed 9"]);
    // A request far larger than every window, held whole; flow control is even afterwards.
    let large = vec![1; 32 << 20];
    for _ in 0..2 {
        let reply = call(&client, "/hook/C", message(&large)).await.unwrap();
        assert_eq!(reply.data.len(), large.len() + 8 + 5);
    }
    let small = call(&client, "/a.b/C", message(&[2; 200_000]))
        .await
        .unwrap();
    assert_eq!(small.data, message(&[2; 200_000]));
}

#[tokio::test]
async fn a_hook_hears_that_the_outcome_is_unknown_when_the_runtime_dies() {
    let hook = Arc::new(Hook::default());
    let scene = Scene::new(both, Some(hook.clone()), Vec::new());
    let runtime = scene.runtime();
    let client = scene.client().await;
    let hanging = call(&client, "/hook/hang", message(b""));
    let kill = async {
        hangs(&scene.dir.path().join("runtime")).await;
        runtime.abort();
    };
    let (reply, ()) = tokio::join!(hanging, kill);
    assert_eq!(reply.unwrap().status, "14");
    timeout(PATIENCE, async {
        while hook.0.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(*hook.0.lock().unwrap(), ["unknown"]);
}

#[derive(Debug, Default)]
struct Seen(Mutex<Vec<String>>);

impl Observer for Seen {
    fn interest(&self, path: &str) -> Interest {
        if path.contains("secret") {
            Interest::None
        } else {
            Interest::Bodies
        }
    }

    fn observe(&self, call: &Arc<Call>, kind: Kind, event: Event) {
        let text = match event {
            Event::Request { body } => format!("request {}", body.len()),
            Event::Rewritten { body } => format!("rewritten {}", body.len()),
            Event::Reply { body } => format!("reply {}", body.len()),
            Event::TooLong { octets, limit, .. } => format!("{octets} above {limit}"),
            Event::End {
                failed,
                total,
                runtime,
            } => {
                assert!(runtime <= total);
                format!("end {}", failed.map_or(0, |s| s.code))
            }
        };
        self.0
            .lock()
            .unwrap()
            .push(format!("{} {kind:?} {} {text}", call.seq, call.method()));
    }
}

#[tokio::test]
async fn observers_see_every_message_in_order() {
    let seen = Arc::new(Seen::default());
    let hook = Arc::new(Hook::default());
    let scene = Scene::new(both, Some(hook), vec![seen.clone()]);
    let _runtime = scene.runtime();
    let client = scene.client().await;
    let two = [message(&[1; 50_000]), message(b"")].concat();
    call(&client, "/a.b/C", two.into()).await.unwrap();
    call(&client, "/a.b/secret", message(b"x")).await.unwrap();
    call(&client, "/hook/C", message(b"body")).await.unwrap();
    let above = vec![3; (16 << 20) + 1];
    call(&client, "/a.b/C", message(&above)).await.unwrap();
    let expected = [
        "1 Passthrough C request 50000",
        "1 Passthrough C request 0",
        "1 Passthrough C reply 50000",
        "1 Passthrough C reply 0",
        "1 Passthrough C end 0",
        "3 Intercepted C request 4",
        "3 Intercepted C rewritten 12",
        "3 Intercepted C reply 12",
        "3 Intercepted C end 0",
        "4 Passthrough C 16777217 above 16777216",
        "4 Passthrough C 16777217 above 16777216",
        "4 Passthrough C end 0",
    ];
    assert_eq!(*seen.0.lock().unwrap(), expected);
}
