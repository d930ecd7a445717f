//! The shipped Roles hold what is needed and nothing more: each right taken away alone breaks something
//! that has a name, and given back it works again, without a restart.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use cri_resmgr::control::agent_client::{AgentClient, PodEvent, PodEventReason};
use resmgr_tests::{
    agent::{Agent, Receiver},
    apiserver::{self, ApiServer, Process, free_port},
    built,
    cluster::SOON,
    eventually,
    skip::skip,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, process::Command, time::SystemTime};

fn start(what: &str, manifest: &str) -> Option<ApiServer> {
    if let Some(why) = apiserver::missing() {
        skip(what, &why);
        return None;
    }
    let api = ApiServer::start().unwrap();
    api.kubectl(&["apply", "-f", manifest]).unwrap();
    Some(api)
}

/// One verb on one resource, and the Role that gives it.
#[derive(Clone, Debug)]
struct Right {
    role: Value,
    rule: usize,
    resource: String,
    verb: String,
}

impl Right {
    /// All that the Roles of an account give.
    fn all(api: &ApiServer, account: &str) -> Vec<Self> {
        let mut rights = Vec::new();
        for kind in ["roles", "clusterroles"] {
            let list = api.get(&[kind, "--all-namespaces"]).unwrap();
            let own = list["items"].as_array().unwrap().iter();
            for role in own.filter(|role| role["metadata"]["name"] == account) {
                for (index, rule) in role["rules"].as_array().unwrap().iter().enumerate() {
                    let texts = |key: &str| {
                        let all = rule[key].as_array().unwrap().iter();
                        all.map(|text| text.as_str().unwrap().to_owned())
                            .collect::<Vec<_>>()
                    };
                    for (resource, verb) in texts("resources").iter().flat_map(|resource| {
                        texts("verbs")
                            .into_iter()
                            .map(move |verb| (resource.clone(), verb))
                    }) {
                        rights.push(Self {
                            role: role.clone(),
                            rule: index,
                            resource,
                            verb,
                        });
                    }
                }
            }
        }
        rights
    }

    fn name(&self) -> (&str, &str) {
        (&self.resource, &self.verb)
    }

    /// What the API server says to whoever lacks it.
    fn words(&self) -> String {
        format!("cannot {} resource \"{}\"", self.verb, self.resource)
    }

    fn take_away(&self, api: &ApiServer) {
        let mut role = self.role.clone();
        let rule = &mut role["rules"][self.rule];
        let verbs: Vec<Value> = rule["verbs"].as_array().unwrap().clone();
        let verbs: Vec<Value> = verbs
            .into_iter()
            .filter(|verb| *verb != self.verb.as_str())
            .collect();
        // A rule without a verb is refused: nothing is a verb that nobody uses.
        rule["verbs"] = if verbs.is_empty() {
            json!(["nothing"])
        } else {
            Value::Array(verbs)
        };
        Self::put(api, role);
    }

    fn give_back(&self, api: &ApiServer) {
        Self::put(api, self.role.clone());
    }

    fn put(api: &ApiServer, mut role: Value) {
        for field in [
            "resourceVersion",
            "uid",
            "creationTimestamp",
            "managedFields",
        ] {
            role["metadata"].as_object_mut().unwrap().remove(field);
        }
        api.apply(&role.to_string()).unwrap();
    }
}

const DEFAULT: &str = "cri-resmgr-config.default";
/// Where the pod is that an Event is about.
const POD_NAMESPACE: &str = "kube-public";
const GROUP: &str = "cri-resource-manager.intel.com/group";

/// The agent, somebody who receives what it pushes, and somebody who asks for node operations.
struct Scene<'a> {
    api: &'a ApiServer,
    receiver: Receiver,
    agent: Agent,
    client: AgentClient,
    number: usize,
    /// What earlier agents logged.
    skip_bytes: usize,
}

fn map(api: &ApiServer, name: &str, text: &str) {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name, "namespace": "kube-system" },
        "data": { "policy": text },
    });
    api.apply(&map.to_string()).unwrap();
}

fn label(api: &ApiServer, group: &str) {
    let label = format!("{GROUP}={group}");
    api.kubectl(&["label", "--overwrite", "node", "n1", &label])
        .unwrap();
}

impl Scene<'_> {
    fn log(&self) -> String {
        self.agent.log().split_off(self.skip_bytes)
    }

    fn has(&self, text: &str) -> bool {
        let got = self.receiver.got();
        got.last().is_some_and(|last| last.config["policy"] == text)
    }

    async fn comes(&self, text: &str) {
        assert!(
            eventually(SOON, async || self.has(text)).await,
            "{text}: {}",
            self.log()
        );
    }

    /// What is needed before the right is.
    async fn prepare(&self, right: (&str, &str)) {
        let first = format!("first {}", self.number);
        match right {
            ("configmaps" | "nodes", "watch") | ("nodes/status", "patch") => {
                self.comes(&first).await
            }
            ("events", "patch") => {
                self.comes(&first).await;
                for text in ["BAD", "good", "BAD"] {
                    map(self.api, DEFAULT, text);
                    self.comes(text).await;
                }
            }
            ("events", "create") => map(self.api, DEFAULT, &format!("BAD {}", self.number)),
            _ => {}
        }
        match right {
            ("configmaps", "watch") => map(self.api, DEFAULT, "second"),
            ("nodes", "watch") => label(self.api, "g2"),
            _ => {}
        }
    }

    /// Whether what the right is for has come to pass.
    async fn works(&self, right: (&str, &str)) -> Result<(), String> {
        let or = |works: bool| if works { Ok(()) } else { Err(self.log()) };
        match right {
            ("configmaps", "list") => or(self.has(&format!("first {}", self.number))),
            ("configmaps", "watch") => or(self.has("second")),
            ("nodes", "list") => or(self.has(&format!("first {}", self.number))),
            ("nodes", "watch") => or(self.has("of group g2")),
            ("nodes", "get") => self
                .client
                .node()
                .await
                .map(drop)
                .map_err(|error| error.to_string()),
            ("nodes", "patch") => {
                let own = format!("a.b/c{}", self.number);
                self.client
                    .set_label(&own, Some("x"))
                    .await
                    .map_err(|error| error.to_string())?;
                let metadata = &self.api.get(&["node", "n1"]).unwrap()["metadata"];
                or(metadata["annotations"]
                    .to_string()
                    .contains("config-status"))
            }
            ("nodes/status", "patch") => {
                let count = BTreeMap::from([("a.b/c".to_owned(), self.number.to_string())]);
                self.client
                    .set_capacity(count)
                    .await
                    .map_err(|error| error.to_string())?;
                let status = &self.api.get(&["node", "n1"]).unwrap()["status"];
                or(status["conditions"]
                    .to_string()
                    .contains("CriResmgrConfigured"))
            }
            ("events", verb) => {
                let events = self.api.get(&["events", "-n", "default"]).unwrap();
                let mut refusals = events["items"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter(|event| event["reason"] == "ConfigurationRefused");
                or(refusals.any(|event| verb == "create" || event["series"]["count"] == 2))?;
                // In other namespaces too: the same right is for Events about pods.
                let moved = PodEvent {
                    namespace: POD_NAMESPACE.to_owned(),
                    pod: "db-0".to_owned(),
                    uid: "u".to_owned(),
                    reason: PodEventReason::Moved,
                    message: "moved".to_owned(),
                    at: SystemTime::now(),
                };
                let recorded = self.client.record_event(&moved).await;
                recorded.map_err(|error| error.to_string())?;
                let events = self.api.get(&["events", "-n", POD_NAMESPACE]).unwrap();
                let mut events = events["items"].as_array().unwrap().iter();
                or(events.any(|event| verb == "create" || event["series"]["count"].is_number()))
            }
            other => Err(format!("nothing is known to need {other:?}: is it needed?")),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_right_of_the_agent_is_needed_and_all_together_suffice() {
    let Some(api) = start("the agent's rights", "deploy/kustomize/base/agent.yaml") else {
        return;
    };
    let rights = Right::all(&api, "cri-resmgr-agent");
    assert!(rights.len() >= 9, "{rights:?}");
    for (number, right) in rights.iter().enumerate() {
        let fresh = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" } });
        drop(api.kubectl(&["delete", "--ignore-not-found", "node", "n1"]));
        for namespace in ["default", POD_NAMESPACE] {
            api.kubectl(&["delete", "events", "--all", "-n", namespace])
                .unwrap();
        }
        api.apply(&fresh.to_string()).unwrap();
        right.take_away(&api);
        label(&api, "g1");
        let first = match right.name() {
            ("nodes", "list") => "cri-resmgr-config.group.g1",
            _ => DEFAULT,
        };
        map(&api, "cri-resmgr-config.group.g2", "of group g2");
        map(&api, first, &format!("first {number}"));
        let old_log = std::fs::read_to_string(api.folder().join("agent.log")).unwrap_or_default();
        let scene = Scene {
            receiver: Receiver::start(&api.folder().join("config.sock")).unwrap(),
            client: AgentClient::new(api.folder().join("agent.sock")),
            agent: Agent::start(&api).unwrap(),
            api: &api,
            number,
            skip_bytes: old_log.len(),
        };
        scene.prepare(right.name()).await;

        let words = right.words();
        let forbidden = async || {
            let told = scene.works(right.name()).await.err().unwrap_or_default();
            told.contains(&words) || scene.log().contains(&words)
        };
        assert!(
            eventually(SOON, forbidden).await,
            "{right:?}\n{}",
            scene.log()
        );
        assert!(
            scene.works(right.name()).await.is_err(),
            "{right:?} is not needed"
        );

        right.give_back(&api);
        let mut why = String::new();
        let works = async || match scene.works(right.name()).await {
            Ok(()) => true,
            Err(error) => {
                why = error;
                false
            }
        };
        assert!(eventually(SOON, works).await, "{right:?}\n{why}");
        for name in [
            "cri-resmgr-config.group.g1",
            "cri-resmgr-config.group.g2",
            DEFAULT,
        ] {
            let delete = [
                "delete",
                "--ignore-not-found",
                "-n",
                "kube-system",
                "configmap",
                name,
            ];
            api.kubectl(&delete).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_right_of_the_webhook_is_needed_and_all_together_suffice() {
    let Some(api) = start("the webhook's rights", "deploy/kustomize/base/webhook.yaml") else {
        return;
    };
    let rights = Right::all(&api, "cri-resmgr-webhook");
    let names: Vec<_> = rights.iter().map(Right::name).collect();
    let resource = "mutatingwebhookconfigurations";
    assert_eq!(names, [(resource, "get"), (resource, "patch")]);
    for (number, right) in rights.iter().enumerate() {
        let shipped = ["apply", "-f", "deploy/kustomize/base/webhook.yaml"];
        api.kubectl(&["delete", resource, "cri-resmgr"]).unwrap();
        api.kubectl(&shipped).unwrap();
        right.take_away(&api);
        let log = api.folder().join(format!("webhook{number}.log"));
        let _webhook = Process::start(
            Command::new(built("cri-resmgr-webhook").unwrap())
                .arg(format!("-port={}", free_port().unwrap()))
                .args(["-self-signed=cri-resmgr", "-host=127.0.0.1", "-kubeconfig"])
                .arg(api.kubeconfig("webhook")),
            &log,
        )
        .unwrap();
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        let registered = || {
            let found = api.get(&[resource, "cri-resmgr"]).unwrap();
            found["webhooks"][0]["clientConfig"]["caBundle"].is_string()
        };
        assert!(
            eventually(SOON, async || said().contains(&right.words())).await,
            "{}",
            said()
        );
        assert!(!registered(), "{right:?} is not needed");
        right.give_back(&api);
        assert!(
            eventually(SOON, async || registered()).await,
            "{right:?}\n{}",
            said()
        );
    }
}
