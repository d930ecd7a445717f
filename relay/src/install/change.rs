//! A change of a file, and how it is shown.

use similar::TextDiff;
use std::path::PathBuf;

/// A file that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    /// Which.
    pub path: PathBuf,
    /// Its content now; `None` when there is no such file.
    pub before: Option<Vec<u8>>,
    /// Its content then.
    pub after: Vec<u8>,
    /// Its mode, if it is new.
    pub mode: u32,
    /// Whether the kubelet reads it.
    pub of_kubelet: bool,
}

impl FileChange {
    /// The change as a unified diff; the sizes of what is no text.
    #[must_use]
    pub fn diff(&self) -> String {
        let path = self.path.display();
        let before = self.before.as_deref().unwrap_or_default();
        let old = match self.before {
            Some(_) => path.to_string(),
            None => "/dev/null".to_owned(),
        };
        match (str::from_utf8(before), str::from_utf8(&self.after)) {
            (Ok(before), Ok(after)) => TextDiff::from_lines(before, after)
                .unified_diff()
                .header(&old, &path.to_string())
                .to_string(),
            _ => format!(
                "--- {old}\n+++ {path}\nbinary, {} bytes → {} bytes\n",
                before.len(),
                self.after.len()
            ),
        }
    }
}
