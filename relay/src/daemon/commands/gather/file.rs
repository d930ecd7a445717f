//! A file of the archive before names are replaced, and the limit of what it is made of.

use crate::dump::hide_secrets;
use regex::Regex;
use serde_json::Value;
use std::{sync::LazyLock, time::Duration};

/// How long an answer or a read may take.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// What a file holds; secrets are hidden.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum FileContent {
    /// A JSON document.
    Json(Value),
    /// JSON documents, each a line.
    JsonLines(String),
    /// Lines for people, or of another program's format.
    Text(String),
    /// What the kernel says of the machine: no name of a pod is in it.
    Machine(String),
}

impl FileContent {
    fn without_secrets(self) -> Self {
        match self {
            Self::Json(mut document) => {
                hide_secrets(&mut document);
                Self::Json(document)
            }
            Self::JsonLines(lines) => Self::JsonLines(each_document(&lines, hide_secrets)),
            Self::Text(text) => Self::Text(without_url_accounts(&text)),
            Self::Machine(text) => Self::Machine(text),
        }
    }
}

/// Changes each line that is a JSON document; a line that is none (torn) is left out.
pub(super) fn each_document(lines: &str, mut change: impl FnMut(&mut Value)) -> String {
    let mut changed = String::with_capacity(lines.len());
    for line in lines.lines() {
        if let Ok(mut document) = serde_json::from_str(line) {
            change(&mut document);
            changed += &format!("{document}\n");
        }
    }
    changed
}

/// Hides `user:password` of URLs: registries and proxies in messages of the runtime.
fn without_url_accounts(text: &str) -> String {
    static ACCOUNT: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"://[^/\s@]+@").expect("a constant"));
    ACCOUNT.replace_all(text, "://(hidden)@").into_owned()
}

/// A file of the archive, or why it is missing.
#[derive(Debug)]
pub(super) struct ArchiveFile {
    /// Its path in the archive.
    pub(super) name: String,
    /// What it says.
    pub(super) purpose: String,
    /// How it was got.
    pub(super) origin: String,
    /// What it holds, or why it was not got.
    pub(super) content: Result<FileContent, String>,
}

impl ArchiveFile {
    /// A file whose secrets are hidden from here on.
    pub(super) fn new(
        name: &str,
        purpose: &str,
        origin: &str,
        content: Result<FileContent, String>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            purpose: purpose.to_owned(),
            origin: origin.to_owned(),
            content: content.map(FileContent::without_secrets),
        }
    }
}

/// What is asked for, or why it cannot be had within [`LIMIT`].
pub(super) async fn within<T, E: Into<anyhow::Error>>(
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match tokio::time::timeout(LIMIT, answer).await {
        Ok(answer) => answer.map_err(|error| format!("{:#}", error.into())),
        Err(_elapsed) => Err(format!("no answer within {} s", LIMIT.as_secs())),
    }
}

/// What is read from files, which may hang, or why it cannot be had within [`LIMIT`].
pub(super) async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<T, String> {
    within(async { tokio::task::spawn_blocking(read).await? }).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn content(content: FileContent) -> FileContent {
        ArchiveFile::new("", "", "", Ok(content)).content.unwrap()
    }

    #[test]
    fn no_content_keeps_a_secret() {
        let secret = json!({"request": {"env": [["TOKEN", "s3cret"]], "cpus": "0-3"}});
        for kept in [
            content(FileContent::Json(secret.clone())),
            content(FileContent::JsonLines(format!(
                "{secret}\n{{\"torn\": \"s3cr"
            ))),
            content(FileContent::Text(
                "pull https://u:s3cret@registry/image 0-3".into(),
            )),
        ] {
            let text = format!("{kept:?}");
            assert!(text.contains("0-3") && !text.contains("s3cr"), "{text}");
        }
    }
}
