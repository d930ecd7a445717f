//! Where the dump goes: the file and the log, in large pieces.

use super::super::{
    error::DumpError,
    lines::{self, Destination},
    record::Record,
};
use crate::{
    config::DumpConfig,
    log::{Bulk, Level},
};
use resmgr_io::file::open_output;
use std::{
    fs::File,
    io::Write as _,
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
    /// What each line of an event begins with.
    head: Vec<u8>,
}

impl Output {
    pub(super) fn open(config: &DumpConfig) -> Result<Self, DumpError> {
        let file = match &config.file {
            None => None,
            Some(path) => Some(open_output(path, true).map_err(|source| DumpError::Open {
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

    /// What goes into the file, when there is one.
    pub(super) fn file(&mut self) -> Option<&mut Vec<u8>> {
        self.file.is_some().then_some(&mut self.batch)
    }

    /// Whether the log shows events of this level.
    pub(super) fn shows(&self, level: Level) -> bool {
        self.log.shows(level)
    }

    /// An event goes to the log.
    pub(super) fn log(&mut self, level: Level, record: &Record<'_>, text: &[u8]) {
        if level == Level::Info
            && let Some((prefix, out)) = self.log.info_lines()
        {
            return lines::put(out, record, text, prefix, Destination::Log);
        }
        let mut message = Vec::new();
        lines::put(&mut message, record, text, b"", Destination::Log);
        let message = String::from_utf8_lossy(&message);
        self.log.add(level, message.trim_end());
    }

    /// An event goes to the file with what `stamp` writes in front of each line.
    pub(super) fn stamped(
        &mut self,
        record: &Record<'_>,
        text: &[u8],
        stamp: impl FnOnce(&mut Vec<u8>),
    ) {
        self.head.clear();
        self.head.push(b'[');
        stamp(&mut self.head);
        self.head.extend_from_slice(b"] ");
        lines::put(&mut self.batch, record, text, &self.head, Destination::File);
    }

    /// Writes when enough has come together.
    pub(super) fn write_if_much(&mut self) {
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
        match open_output(path, false) {
            Ok(file) => self.file = Some(file),
            Err(error) => tracing::error!(
                target: "message",
                "cannot reopen dump file {}: {error}; going on with the old one",
                path.display()
            ),
        }
    }
}
