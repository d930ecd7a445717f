//! Where the dump goes: the file and the log, in large pieces.

use super::super::{record::Record, sink::DumpError, text};
use crate::{
    config::DumpConfig,
    log::{Bulk, Level},
};
use std::{
    fs::{File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Octets written at once.
const BATCH_BYTES: usize = 512 << 10;

/// The log, the file, and what waits to be written to them.
#[derive(Debug)]
pub(super) struct Output {
    path: Option<PathBuf>,
    file: Option<File>,
    batch: Vec<u8>,
    log: Bulk,
    file_failed: bool,
    /// What each line of a block begins with.
    head: Vec<u8>,
}

impl Output {
    pub(super) fn open(config: &DumpConfig) -> Result<Self, DumpError> {
        let file = match &config.file {
            None => None,
            Some(path) => Some(open(path, true).map_err(|source| DumpError::Open {
                path: path.clone(),
                source,
            })?),
        };
        Ok(Self {
            path: config.file.clone(),
            file,
            batch: Vec::new(),
            log: Bulk::new("message"),
            file_failed: false,
            head: Vec::new(),
        })
    }

    /// A batch begins: the log's settings are looked up anew.
    pub(super) fn begin(&mut self) {
        self.log.look_again();
    }

    pub(super) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// What goes into the file, when there is one.
    pub(super) fn file(&mut self) -> Option<&mut Vec<u8>> {
        self.file.is_some().then_some(&mut self.batch)
    }

    /// A message with a body goes to the log and, with what `stamp` writes, to the file.
    pub(super) fn block(&mut self, block: &text::Block<'_>, stamp: impl FnOnce(&mut Vec<u8>)) {
        if self.log.shows(Level::Info) {
            if let Some((head, out)) = self.log.info_lines() {
                block.put(out, head, false);
            } else {
                let mut message = Vec::new();
                block.put(&mut message, b"", false);
                let message = String::from_utf8_lossy(&message);
                self.log.add(Level::Info, message.trim_end());
            }
        }
        if self.file.is_some() {
            self.head.clear();
            self.head.push(b'[');
            stamp(&mut self.head);
            self.head.extend_from_slice(b"] ");
            block.put(&mut self.batch, &self.head, true);
        }
    }

    /// An event goes to the log.
    pub(super) fn log(&mut self, record: &Record, level: Level) {
        if self.log.shows(level) {
            self.log.add(level, text::lines(record, None).trim_end());
        }
    }

    /// Writes when enough has come together.
    pub(super) fn settle(&mut self) {
        if self.batch.len().max(self.log.len()) >= BATCH_BYTES {
            self.write_out();
        }
    }

    /// Writes all that waits.
    pub(super) fn write_out(&mut self) {
        self.log.write_out(2 * BATCH_BYTES);
        if let Some(file) = &mut self.file
            && !self.batch.is_empty()
        {
            match file.write_all(&self.batch) {
                Ok(()) => self.file_failed = false,
                Err(error) if !self.file_failed => {
                    self.file_failed = true;
                    tracing::error!(
                        target: "message",
                        "cannot write to dump file {}: {error}; what does not fit is lost",
                        self.path.as_deref().unwrap_or(Path::new("")).display()
                    );
                }
                Err(_) => {}
            }
        }
        self.batch.clear();
        self.batch.shrink_to(2 * BATCH_BYTES);
    }

    /// Opens the file by its name again.
    pub(super) fn reopen(&mut self) {
        self.write_out();
        let Some(path) = &self.path else { return };
        match open(path, false) {
            Ok(file) => self.file = Some(file),
            Err(error) => tracing::error!(
                target: "message",
                "cannot reopen dump file {}: {error}; going on with the old one",
                path.display()
            ),
        }
    }
}

/// Opens the dump file for appending, mode 0600 even when it was there before.
fn open(path: &Path, truncate: bool) -> io::Result<File> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.is_file() {
        file.set_permissions(Permissions::from_mode(0o600))?;
        if truncate {
            file.set_len(0)?;
        }
    }
    Ok(file)
}
