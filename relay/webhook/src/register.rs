//! Writes the authority of a certificate made here into the MutatingWebhookConfiguration, and
//! writes it again when it was taken out.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::admit::base64;

/// How often it is checked, in seconds.
const CHECK: Duration = Duration::from_secs(10);

/// Keeps the authority registered, for ever; one log line per change of state.
pub(crate) async fn keep(client: Client, name: &str, authority_pem: &str) {
    let api = Api::<MutatingWebhookConfiguration>::all(client);
    let bundle = base64(authority_pem.as_bytes());
    let mut failing = false;
    loop {
        match register(&api, name, &bundle).await {
            Ok(changed) => {
                if changed || failing {
                    info!(name, "registered the certificate's authority");
                }
                failing = false;
            }
            Err(error) => {
                if !failing {
                    warn!(name, %error, "cannot register the authority; trying until it works");
                }
                failing = true;
            }
        }
        tokio::time::sleep(if failing { CHECK / 5 } else { CHECK }).await;
    }
}

/// Whether it had to be written.
async fn register(
    api: &Api<MutatingWebhookConfiguration>,
    name: &str,
    bundle: &str,
) -> Result<bool, kube::Error> {
    let found = serde_json::to_value(api.get(name).await?).map_err(kube::Error::SerdeError)?;
    let hooks = found["webhooks"]
        .as_array()
        .map(Vec::len)
        .unwrap_or_default();
    let place = |index: usize| format!("/webhooks/{index}/clientConfig/caBundle");
    let wrong: Vec<Value> = (0..hooks)
        .map(place)
        .filter(|path| found.pointer(path) != Some(&Value::from(bundle)))
        .map(|path| json!({ "op": "add", "path": path, "value": bundle }))
        .collect();
    if wrong.is_empty() {
        return Ok(false);
    }
    let version = found["metadata"]["resourceVersion"].clone();
    let mut all =
        vec![json!({ "op": "test", "path": "/metadata/resourceVersion", "value": version })];
    all.extend(wrong);
    let patch = serde_json::from_value(Value::Array(all)).map_err(kube::Error::SerdeError)?;
    api.patch(name, &PatchParams::default(), &Patch::Json::<()>(patch))
        .await?;
    Ok(true)
}

/// A client with the credentials of a file or of the pod.
pub(crate) async fn client(kubeconfig: Option<&PathBuf>) -> anyhow::Result<Client> {
    let mut config = match kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("cannot use the kubeconfig {}", path.display()))?
        }
        None => Config::incluster().context(
            "not in a pod with a service account; outside a cluster give --kubeconfig FILE",
        )?,
    };
    config.connect_timeout = Some(Duration::from_secs(5));
    Client::try_from(config).context("cannot make a client of the API server")
}
