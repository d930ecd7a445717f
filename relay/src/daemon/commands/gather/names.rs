//! Names of namespaces, pods, containers and nodes, kept or replaced by hashes.
//!
//! Names are learnt from all files first: from the fields that hold them, and where `NAMESPACE/POD/CONTAINER` stands
//! in a text. Then they are replaced wherever they occur as words, in the log too. A name that is also a word of the
//! language or of cri-resmgr is replaced there as well: rather a word too many than a name.

use super::file::{ArchiveFile, FileContent, each_document};
use regex::{Captures, Regex, RegexBuilder};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeSet, sync::LazyLock};

/// Fields whose text is a name.
const NAME_FIELDS: [&str; 4] = ["namespace", "pod", "container", "node"];
/// Fields whose text is a word of cri-resmgr, without which a document cannot be read back.
const OWN_FIELDS: [&str; 5] = ["event", "kind", "policy", "qos", "stage"];
/// Namespaces that every cluster has: they say nothing of it.
const COMMON_NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// How large the expression of all names may become, octets.
const MAX_EXPRESSION_BYTES: usize = 256 << 20;

/// What becomes of names.
#[derive(Debug)]
pub(super) struct Names {
    /// All names, the longest first; `None` where they are kept.
    words: Option<Regex>,
    machine: String,
}

impl Names {
    /// Names stay.
    pub(super) fn kept() -> Self {
        Self {
            words: None,
            machine: String::new(),
        }
    }

    /// The names of the host and those that the files hold are replaced by hashes, which differ between machines.
    ///
    /// # Errors
    /// When there are too many.
    pub(super) fn replaced(
        machine: &str,
        host: &str,
        files: &[ArchiveFile],
    ) -> Result<Self, regex::Error> {
        let mut learnt = NameSet::default();
        learnt.add(host);
        for file in files {
            match &file.content {
                Ok(FileContent::Json(document)) => learnt.document(document),
                Ok(FileContent::JsonLines(lines)) => {
                    for line in lines.lines() {
                        if let Ok(document) = serde_json::from_str(line) {
                            learnt.document(&document);
                        }
                    }
                }
                Ok(FileContent::Text(text)) => learnt.text(text),
                Ok(FileContent::Machine(_)) | Err(_) => {}
            }
        }
        Ok(Self {
            words: Some(learnt.expression()?),
            machine: machine.to_owned(),
        })
    }

    /// What was done to names, for people.
    pub(super) fn note(&self) -> &'static str {
        match &self.words {
            None => "Names of pods are in clear.",
            Some(_) => {
                "Names of namespaces, pods, containers and the node are replaced: `name-` and a hash, the same for\n\
                 each occurrence."
            }
        }
    }

    /// The text with names replaced where they occur as words.
    pub(super) fn replace(&self, text: &str) -> String {
        let hash = |found: &Captures<'_>| self.hash(&found[0]);
        match &self.words {
            None => text.to_owned(),
            Some(words) => words.replace_all(text, hash).into_owned(),
        }
    }

    /// A file's octets.
    pub(super) fn render(&self, content: &FileContent) -> Vec<u8> {
        match content {
            FileContent::Json(document) => {
                let mut document = document.clone();
                self.document(&mut document);
                format!("{document:#}\n").into_bytes()
            }
            FileContent::JsonLines(lines) => {
                each_document(lines, |document| self.document(document)).into_bytes()
            }
            FileContent::Text(text) => self.replace(text).into_bytes(),
            FileContent::Machine(text) => text.clone().into_bytes(),
        }
    }

    fn hash(&self, name: &str) -> String {
        if is_common(name) {
            return name.to_owned();
        }
        let hash = Sha256::new()
            .chain_update(&self.machine)
            .chain_update([0])
            .chain_update(name)
            .finalize();
        let hash: String = hash
            .iter()
            .take(5)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("name-{hash}")
    }

    fn document(&self, value: &mut Value) {
        if self.words.is_none() {
            return;
        }
        match value {
            Value::String(text) => *text = self.replace(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.document(item)),
            Value::Object(fields) => {
                let named = std::mem::take(fields).into_iter();
                *fields = named
                    .map(|(field, mut value)| {
                        match &mut value {
                            // Also a number, which is no word elsewhere.
                            Value::String(name) if NAME_FIELDS.contains(&&*field) => {
                                *name = self.whole(name);
                            }
                            Value::String(_) if OWN_FIELDS.contains(&&*field) => {}
                            value => self.document(value),
                        }
                        // No field of ours has such a character: it is a cgroup, or an annotation.
                        let is_data = field.contains(['/', '.']);
                        (if is_data { self.replace(&field) } else { field }, value)
                    })
                    .collect();
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn whole(&self, name: &str) -> String {
        match is_name(name) {
            true => self.hash(name),
            false => self.replace(name),
        }
    }
}

fn is_common(name: &str) -> bool {
    COMMON_NAMESPACES.contains(&name)
}

/// Whether a text can be a name of Kubernetes; a container's id is none.
fn is_name(text: &str) -> bool {
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let is_id = text.len() >= 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    !text.is_empty() && text.bytes().all(of_name) && !is_id
}

/// Names that occur.
#[derive(Debug, Default)]
struct NameSet(BTreeSet<String>);

impl NameSet {
    fn add(&mut self, name: &str) {
        // A number is no word: it would be found in every list of CPUs.
        if is_name(name) && name.contains(|character: char| character.is_ascii_alphabetic()) {
            self.0.insert(name.to_owned());
        }
    }

    /// Names of a text: `NAMESPACE/POD/CONTAINER`, and what follows `pod=`, `"pod":"` and the like.
    fn text(&mut self, text: &str) {
        static NAMED: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(r#"\b(?:namespace|pod|container|node)(?:=|":)"?([A-Za-z0-9._-]+)"#)
                .expect("a constant")
        });
        for found in NAMED.captures_iter(text) {
            self.add(&found[1]);
        }
        let of_path =
            |character: char| character.is_ascii_alphanumeric() || "./_-".contains(character);
        for word in text.split(|character| !of_path(character)) {
            let parts: Vec<_> = word.trim_end_matches('.').split('/').collect();
            let is_cgroup = word.starts_with("kubepods") || word.contains(".slice");
            if let [namespace, pod, container] = parts[..]
                && !is_cgroup
                && parts.iter().all(|part| is_name(part))
            {
                [namespace, pod, container]
                    .into_iter()
                    .for_each(|name| self.add(name));
            }
        }
    }

    fn document(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.text(text),
            Value::Array(items) => items.iter().for_each(|item| self.document(item)),
            Value::Object(fields) => {
                for (field, value) in fields {
                    match value {
                        Value::String(name) if NAME_FIELDS.contains(&&**field) => self.add(name),
                        value => self.document(value),
                    }
                    self.text(field);
                }
                // What a policy is asked about a container.
                if let Some(pod) = fields.get("pod").filter(|pod| pod.is_object()) {
                    let names = [fields.get("name"), pod.get("name")];
                    for name in names.into_iter().flatten().filter_map(Value::as_str) {
                        self.add(name);
                    }
                }
                if fields.get("name").is_some_and(|name| name == "fail-policy") {
                    let rules = fields
                        .get("value")
                        .and_then(Value::as_str)
                        .unwrap_or_default();
                    let places = rules.split(',').filter_map(|rule| rule.split_once('='));
                    for (place, _outcome) in places {
                        self.add(place.split('/').next().unwrap_or_default().trim());
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn expression(self) -> Result<Regex, regex::Error> {
        let mut names: Vec<_> = self.0.into_iter().filter(|name| !is_common(name)).collect();
        // A name that begins another comes after it.
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        let names: Vec<_> = names.iter().map(|name| regex::escape(name)).collect();
        let any = match names.is_empty() {
            true => "[a&&b]".to_owned(), // nothing
            false => names.join("|"),
        };
        // What a name begins and ends with is a letter or a digit; a name may be part of a longer one with dashes.
        RegexBuilder::new(&format!(r"(?-u:\b)(?:{any})(?-u:\b)"))
            .size_limit(MAX_EXPRESSION_BYTES)
            .build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(content: FileContent) -> ArchiveFile {
        ArchiveFile::new("x", "x", "x", Ok(content))
    }

    fn rendered(names: &Names, files: &[ArchiveFile]) -> Vec<String> {
        let contents = files.iter().map(|file| file.content.as_ref().unwrap());
        let files = contents.map(|content| names.render(content));
        files.map(|file| String::from_utf8(file).unwrap()).collect()
    }

    #[test]
    fn names_are_replaced_alike_in_documents_lines_and_log() {
        let files = [
            file(FileContent::Json(json!({"policy": "static", "containers": [{
                "namespace": "bank", "pod": "ledger-0", "container": "db", "cpus": "0-3", "id": "00ff",
            }, {"namespace": "default", "pod": "17", "container": "static"}],
            "options": [{"name": "fail-policy", "value": "refuse,hidden-ns/BestEffort=pass"}]}))),
            file(FileContent::JsonLines(
                r#"{"event":"create","request":{"name":"sidecar","pod":{"name":"web-7","namespace":"shop"}}}"#.into(),
            )),
            file(FileContent::Text(
                "db of bank/ledger-0/db: no room; gone/old-1/job went, pod=late-1 on n1, dbms, hidden-ns, CPUs 0-3,17"
                    .into(),
            )),
        ];
        let names = Names::replaced("machine", "n1", &files).unwrap();
        let texts = rendered(&names, &files);
        let all = texts.join("\n");
        for name in [
            "bank",
            "ledger-0",
            "sidecar",
            "web-7",
            "shop",
            "gone",
            "old-1",
            "job",
            "late-1",
            "n1",
            "hidden-ns",
        ] {
            assert!(!all.contains(name), "{name}\n{all}");
        }
        let db = names.replace("db");
        assert!(db.starts_with("name-") && db.len() == 15, "{db}");
        assert_eq!(all.matches(&db).count(), 3, "{all}");
        assert!(all.contains("dbms") && all.contains("CPUs 0-3,17"), "{all}");
        let state: Value = serde_json::from_str(&texts[0]).unwrap();
        assert_eq!(state["policy"], "static");
        assert_eq!(state["containers"][1]["namespace"], "default");
        assert_ne!(state["containers"][1]["pod"], "17");
        let trace: Value = serde_json::from_str(&texts[1]).unwrap();
        assert_eq!(trace["event"], "create");
        let machine = [file(FileContent::Machine("sys/kernel/version: db".into()))];
        assert_eq!(rendered(&names, &machine), ["sys/kernel/version: db"]);
        let elsewhere = Names::replaced("another", "n1", &files).unwrap();
        assert_ne!(elsewhere.replace("db"), db);
    }

    #[test]
    fn without_being_asked_no_name_is_replaced() {
        let document = json!({"pod": "db-0", "annotations": {"x/container.db": "1"}});
        let files = [
            file(FileContent::Text("db-0".into())),
            file(FileContent::Json(document.clone())),
        ];
        let texts = rendered(&Names::kept(), &files);
        assert_eq!(texts[0], "db-0");
        assert!(texts[1].contains("\"db-0\"") && texts[1].contains("container.db"));
        let none = Names::replaced("machine", "", &[]).unwrap();
        assert_eq!(none.replace("a b"), "a b");
    }
}
