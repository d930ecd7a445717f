//! A table of the check that a document shows, between two lines of its own.

use anyhow::{Context, Result};
use std::{fs, path::Path};

/// A table, and where it is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct DocTable {
    /// From the root.
    pub(super) document: &'static str,
    /// What its lines in the document call it.
    pub(super) name: &'static str,
    /// Makes its text.
    pub(super) table: fn() -> String,
}

impl DocTable {
    fn begin(&self) -> String {
        format!(
            "<!-- {}: written by `cargo xtask tidy --write` -->\n",
            self.name
        )
    }

    fn end(&self) -> String {
        format!("<!-- end of {} -->\n", self.name)
    }

    /// What is wrong when the document does not show the table as it is.
    ///
    /// # Errors
    /// When the document cannot be read.
    pub(super) fn finding(&self, root: &Path) -> Result<Option<String>> {
        let text = fs::read_to_string(root.join(self.document))?;
        let shown = text.contains(&format!("{}{}{}", self.begin(), (self.table)(), self.end()));
        Ok((!shown).then(|| {
            format!(
                "{}: its table of {} is not that of xtask/src/tidy/{}.rs; `cargo xtask tidy --write` writes it",
                self.document, self.name, self.name
            )
        }))
    }

    /// Writes the table into the document.
    ///
    /// # Errors
    /// When the document cannot be read or written, or does not say where the table goes.
    pub(super) fn write(&self, root: &Path) -> Result<()> {
        let path = root.join(self.document);
        let (begin, end) = (self.begin(), self.end());
        let text = fs::read_to_string(&path)?;
        let (before, rest) = text.split_once(&begin).context("no place for the table")?;
        let (_old, after) = rest.split_once(&end).context("no end of the table")?;
        fs::write(
            path,
            format!("{before}{begin}{}{end}{after}", (self.table)()),
        )?;
        Ok(())
    }
}
