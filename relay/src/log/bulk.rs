//! Many messages of one source, written at once: for a source that logs more than a line at a time.

use super::{
    layer::{self, in_force},
    settings::{Format, Level, LogSettings},
};
use resmgr_io::stderr::StderrQueue;

/// Messages of one source on their way to standard error.
#[derive(Debug)]
pub struct Bulk {
    source: &'static str,
    settings: Option<LogSettings>,
    queue: Option<StderrQueue>,
    info_head: Vec<u8>,
    out: Vec<u8>,
}

impl Bulk {
    /// Nothing yet, from `source`.
    #[must_use]
    pub fn new(source: &'static str) -> Self {
        let mut bulk = Self {
            source,
            settings: None,
            queue: None,
            info_head: Vec::new(),
            out: Vec::new(),
        };
        bulk.look_again();
        bulk
    }

    /// Takes the settings that are in force now for the messages that follow.
    pub fn look_again(&mut self) {
        (self.settings, self.queue) = in_force().unzip();
        let prefix = self.settings.as_ref().is_some_and(|s| s.prefix);
        self.info_head = layer::head(Level::Info, self.source, prefix).into_bytes();
    }

    /// Whether messages of this level are shown.
    #[must_use]
    pub fn shows(&self, level: Level) -> bool {
        self.settings
            .as_ref()
            .is_some_and(|settings| settings.shows(level, self.source))
    }

    /// For a caller that writes lines of level info itself: what each line begins with, and where lines go.
    /// `None` when lines are not the form of the log; [`Bulk::add`] takes the message then.
    pub fn info_lines(&mut self) -> Option<(&[u8], &mut Vec<u8>)> {
        let text = self.settings.as_ref()?.format == Format::Text;
        text.then_some((&self.info_head[..], &mut self.out))
    }

    /// Adds one message, of one or more lines.
    pub fn add(&mut self, level: Level, message: &str) {
        if let Some(settings) = &self.settings {
            let text = layer::message(settings, level, self.source, message);
            self.out.extend_from_slice(text.as_bytes());
        }
    }

    /// Octets that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Hands on what was added, and waits for room while the log flows.
    pub fn write_out(&mut self, keep: usize) {
        if !self.out.is_empty() {
            if let Some(queue) = &self.queue {
                queue.push_patiently(&self.out);
            }
            self.out.clear();
            self.out.shrink_to(keep);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_messages_look_as_they_do_one_by_one() {
        let mut bulk = Bulk::new("message");
        assert!(
            !bulk.shows(Level::Error),
            "no log is installed in this test"
        );
        bulk.settings = Some(LogSettings::default());
        bulk.info_head = layer::head(Level::Info, "message", true).into_bytes();
        assert!(bulk.shows(Level::Info));
        let (head, out) = bulk.info_lines().unwrap();
        out.extend_from_slice(head);
        out.extend_from_slice(b"one\n");
        bulk.add(Level::Warn, "two\nthree");
        assert_eq!(
            String::from_utf8_lossy(&bulk.out),
            "I: [    message     ] one\nW: [    message     ] two\nW: [    message     ] three\n"
        );
        bulk.settings = Some(LogSettings {
            format: Format::Json,
            ..LogSettings::default()
        });
        assert!(bulk.info_lines().is_none());
    }
}
