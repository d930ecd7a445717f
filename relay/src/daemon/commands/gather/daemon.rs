//! What a running daemon says by itself.

use super::{
    file::{ArchiveFile, FileContent, LIMIT, within},
    places::Places,
};
use crate::inspect::client;
use serde_json::{Value, json};
use std::path::PathBuf;
use tokio::time::Instant;

/// The view of the machine.
pub(super) const TOPOLOGY: &str = "/api/v1/topology";
/// Containers that are explained.
const MAX_CONTAINERS: usize = 256;
/// Moments of the last hour whose samples are gathered: a minute apart.
const MAX_MOMENTS: usize = 60;

/// The daemon behind a socket of views.
pub(super) struct Daemon {
    socket: PathBuf,
}

/// The ids of the containers of a state.
pub(super) fn container_ids(state: &Value) -> Vec<String> {
    let containers = state["containers"].as_array();
    let ids = containers.into_iter().flatten();
    let ids = ids.filter_map(|container| container["id"].as_str());
    ids.map(str::to_owned).collect()
}

/// A name that is a file's whatever a client of the runtime called its container.
fn file_name(container: &str, id: &str) -> String {
    let safe = |text: &str, length| -> String {
        let characters = text.chars().filter(|character| {
            character.is_ascii_alphanumeric() || matches!(character, '-' | '.')
        });
        characters.take(length).collect()
    };
    format!("{}-{}.json", safe(container, 63), safe(id, 64))
}

impl Daemon {
    /// The daemon that serves its views there, if one runs.
    pub(super) fn behind(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// A view, or why it cannot be had.
    pub(super) async fn view(&self, view: &str) -> Result<Value, String> {
        within(client::fetch(&self.socket, view)).await
    }

    /// A file of what a view answered.
    pub(super) fn file(
        &self,
        name: &str,
        purpose: &str,
        view: &str,
        answer: Result<Value, String>,
    ) -> ArchiveFile {
        let origin = format!("{view} of the daemon behind {}", self.socket.display());
        ArchiveFile::new(name, purpose, &origin, answer.map(FileContent::Json))
    }

    /// Why each container of a state is where it is; those that are not explained in time are named.
    pub(super) async fn explanations(&self, state: Option<&Value>) -> Vec<ArchiveFile> {
        let none = Vec::new();
        let containers = state.and_then(|state| state["containers"].as_array());
        let containers = containers.unwrap_or(&none);
        let end = Instant::now() + LIMIT;
        let mut files = Vec::new();
        for container in containers.iter().take(MAX_CONTAINERS) {
            if Instant::now() >= end {
                break;
            }
            let text = |field: &str| container[field].as_str().unwrap_or_default();
            let view = format!("/explain/{}", text("id"));
            let answer = self.view(&view).await;
            let name = format!("explain/{}", file_name(text("container"), text("id")));
            let purpose = format!(
                "why {}/{}/{} is where it is",
                text("namespace"),
                text("pod"),
                text("container")
            );
            files.push(self.file(&name, &purpose, &view, answer));
        }
        let rest = containers.len() - files.len();
        if rest > 0 {
            let purpose = format!("why {rest} more containers are where they are");
            let why = format!(
                "left out: beyond {MAX_CONTAINERS} containers, or {} s",
                LIMIT.as_secs()
            );
            files.push(self.file("explain/", &purpose, "/explain", Err(why)));
        }
        files
    }

    /// What the scheduler did.
    pub(super) async fn top(&self) -> ArchiveFile {
        let answer = match self.view("/top").await {
            Ok(Value::Null) => Err("nothing is measured (--ebpf-telemetry)".to_owned()),
            answer => answer,
        };
        let purpose = "what the scheduler did to each container since it was first seen";
        self.file("top.json", purpose, "/top", answer)
    }

    /// The last hour, a sample a minute.
    pub(super) async fn history(&self) -> ArchiveFile {
        let purpose =
            "the last hour, a sample a minute: CPUs, containers and where they were wanted";
        let view = "/api/v1/history";
        let answer = self.view(view).await;
        let answer = match answer {
            Ok(index) => self.samples(index).await,
            Err(why) => Err(why),
        };
        self.file("history.json", purpose, view, answer)
    }

    async fn samples(&self, index: Value) -> Result<Value, String> {
        let moments = index["samples"].as_array().cloned().unwrap_or_default();
        if moments.is_empty() {
            return Err("there are no samples yet, or nothing is measured".to_owned());
        }
        let end = Instant::now() + LIMIT;
        let mut samples = Vec::new();
        // The newest first, as they may not all be had in time.
        let step = moments.len().div_ceil(MAX_MOMENTS);
        for moment in moments.iter().rev().step_by(step) {
            if Instant::now() >= end {
                break;
            }
            // A moment that is forgotten meanwhile is left out.
            samples.extend(self.view(&format!("/api/v1/history/{moment}")).await);
        }
        samples.reverse();
        Ok(json!({"interval_s": index["interval_s"], "moments": moments, "samples": samples}))
    }

    /// The machine as the daemon has it; without a daemon as it is found now.
    pub(super) async fn topology(
        &self,
        answer: Result<Value, String>,
        places: &Places,
    ) -> ArchiveFile {
        let name = "topology.json";
        let purpose = "the machine, for --topology of cri-resmgr and of the simulator";
        match answer {
            Ok(topology) => self.file(name, purpose, TOPOLOGY, Ok(topology)),
            Err(why) => {
                let origin = format!("found now, for the daemon does not say: {why}");
                ArchiveFile::new(name, purpose, &origin, places.topology().await)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_leads_nowhere_else() {
        assert_eq!(file_name("db", "0123"), "db-0123.json");
        assert_eq!(file_name("../../etc/x", "/0\n1"), "....etcx-01.json");
        assert!(file_name(&"x".repeat(999), &"y".repeat(999)).len() < 200);
    }

    #[tokio::test]
    async fn a_daemon_that_does_not_run_leaves_reasons() {
        let folder = tempfile::tempdir().unwrap();
        let daemon = Daemon::behind(folder.path().join("none.sock"));
        assert!(daemon.explanations(None).await.is_empty());
        for file in [daemon.top().await, daemon.history().await] {
            let why = file.content.unwrap_err();
            assert!(why.contains("none.sock"), "{why}");
        }
    }
}
