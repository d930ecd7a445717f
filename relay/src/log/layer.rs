//! The layer that writes the lines.
//!
//! No thread that logs waits for standard error: lines go through [`StderrQueue`]. Each place in the code has a
//! budget ([`LogBudgets`]), but for debug messages, which are on only when asked for.

use super::{
    budget::{HeldBack, LogBudgets},
    settings::{Format, Level, LogSettings},
    source,
};
use resmgr_io::stderr::{StderrQueue, dropped_note};
use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt,
    io::{self, Write as _},
    panic::PanicHookInfo,
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};
use tracing::{Event, Metadata, Subscriber, field, subscriber::Interest};
use tracing_subscriber::{
    Registry,
    layer::{Context, Layer, SubscriberExt as _},
};

/// Most octets of a message that stands for all that were held back.
const EXAMPLE_BYTES: usize = 256;

/// Changes what is logged while the daemon runs.
#[derive(Clone, Debug)]
pub struct Control {
    rules: Arc<LogRules>,
    queue: StderrQueue,
}

/// What decides whether an event is shown.
#[derive(Debug, Default)]
struct LogRules {
    settings: RwLock<LogSettings>,
    budgets: LogBudgets,
}

impl LogRules {
    fn settings(&self) -> LogSettings {
        let settings = self.settings.read();
        settings.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is to be said beside the events: how many lines were dropped, and what was held back.
    fn report(&self, dropped: u64) -> String {
        let settings = self.settings();
        let mut text = String::new();
        if let Some(note) = dropped_note(dropped) {
            text += &message(&settings, Level::Warn, "resource-manager", &note);
        }
        for held in self.budgets.to_tell(Instant::now()) {
            let note = format!("{} more messages like: {}", held.count, held.first);
            text += &message(&settings, held.level, &held.source, &note);
        }
        text
    }
}

impl Control {
    /// Puts new settings in force.
    pub fn set(&self, settings: LogSettings) {
        let current = self.rules.settings.write();
        *current.unwrap_or_else(PoisonError::into_inner) = settings;
        tracing::callsite::rebuild_interest_cache();
    }

    /// The settings in force.
    #[must_use]
    pub fn get(&self) -> LogSettings {
        self.rules.settings()
    }

    /// Lines that were dropped because standard error did not take them.
    #[must_use]
    pub fn dropped_lines(&self) -> u64 {
        self.queue.dropped()
    }

    /// Messages that were held back because their place logs too much.
    #[must_use]
    pub fn held_back_messages(&self) -> u64 {
        self.rules.budgets.held_back()
    }

    /// Waits until everything logged so far is written, for a second at most.
    pub fn flush(&self) {
        self.queue.flush_at_end();
    }

    fn shows(&self, metadata: &Metadata<'_>) -> bool {
        let source = source::of_target(metadata.target());
        let settings = self.rules.settings.read();
        let settings = settings.unwrap_or_else(PoisonError::into_inner);
        settings.shows(level(metadata), source)
    }

    /// Logs a panic as other messages are: the standard library would wait for standard error.
    fn panicked(&self, panic: &PanicHookInfo<'_>) {
        let backtrace = Backtrace::capture();
        let mut text = panic.to_string();
        if backtrace.status() == BacktraceStatus::Captured {
            text += &format!("\n{backtrace}");
        }
        let text = message(&self.get(), Level::Error, "resource-manager", &text);
        self.queue.push(text.as_bytes());
    }
}

/// Makes standard error the place where the process logs.
///
/// # Errors
/// When the process logs elsewhere already, or no thread can be had to write.
pub fn install(settings: LogSettings) -> io::Result<Control> {
    let rules = Arc::new(LogRules {
        settings: RwLock::new(settings),
        budgets: LogBudgets::default(),
    });
    let reported = Arc::clone(&rules);
    let queue = StderrQueue::start(move |dropped| reported.report(dropped))?;
    let control = Control { rules, queue };
    let lines = Lines {
        control: control.clone(),
    };
    tracing::subscriber::set_global_default(Registry::default().with(lines))
        .map_err(io::Error::other)?;
    let log = control.clone();
    std::panic::set_hook(Box::new(move |panic| log.panicked(panic)));
    Ok(control)
}

/// Says why the process ends without success: to the log if there is one, for a second at most.
pub fn last_words(text: &str) {
    let line = format!("{text}\n");
    match in_force() {
        Some((_settings, queue)) => {
            queue.push(line.as_bytes());
            queue.flush_at_end();
        }
        // Without standard error a failure cannot be reported.
        None => drop(std::io::stderr().write_all(line.as_bytes())),
    }
}

/// The settings in force and where the lines go, when this layer is where the process logs.
pub(super) fn in_force() -> Option<(LogSettings, StderrQueue)> {
    tracing::dispatcher::get_default(|dispatch| {
        let control = &dispatch.downcast_ref::<Lines>()?.control;
        Some((control.get(), control.queue.clone()))
    })
}

struct Lines {
    control: Control,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // Rebuilt when the settings change.
        if self.control.shows(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _context: Context<'_, S>) -> bool {
        self.control.shows(metadata)
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let Control { rules, queue } = &self.control;
        let (metadata, level) = (event.metadata(), level(event.metadata()));
        let source = source::of_target(metadata.target());
        if level != Level::Debug {
            let example = || HeldBack::first(level, source, Fields::of(event).example());
            let place = metadata.callsite();
            if let Some(due) = rules.budgets.hold_back(place, Instant::now(), example) {
                return queue.report_at(due);
            }
        }
        let text = form(&rules.settings(), level, source, &Fields::of(event));
        queue.push(text.as_bytes());
    }
}

fn level(metadata: &Metadata<'_>) -> Level {
    match *metadata.level() {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::INFO => Level::Info,
        _ => Level::Debug,
    }
}

/// Fields of an event: the message, and what is shown as `name=value`.
#[derive(Default)]
struct Fields {
    message: String,
    values: Vec<(&'static str, String)>,
}

impl field::Visit for Fields {
    fn record_debug(&mut self, field: &field::Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.values.push((field.name(), text));
        }
    }

    fn record_str(&mut self, field: &field::Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.values.push((field.name(), value.to_owned()));
        }
    }
}

impl Fields {
    fn of(event: &Event<'_>) -> Self {
        let mut fields = Self::default();
        event.record(&mut fields);
        fields
    }

    /// The message and the values in one line.
    fn line(&self) -> String {
        let mut line = self.message.clone();
        for (name, value) in &self.values {
            line += &format!(" {name}={value}");
        }
        line
    }

    /// The beginning of the line.
    fn example(&self) -> String {
        let mut line = self.line().replace('\n', " ");
        line.truncate(line.floor_char_boundary(EXAMPLE_BYTES));
        line
    }
}

/// One message without fields.
pub(super) fn message(settings: &LogSettings, level: Level, source: &str, message: &str) -> String {
    let fields = Fields {
        message: message.to_owned(),
        values: Vec::new(),
    };
    form(settings, level, source, &fields)
}

fn form(settings: &LogSettings, level: Level, source: &str, fields: &Fields) -> String {
    match settings.format {
        Format::Text => text(level, source, settings.prefix, fields),
        Format::Json => json(level, source, fields),
    }
}

/// What every line begins with.
pub(super) fn head(level: Level, source: &str, prefix: bool) -> String {
    let letter = match level {
        Level::Debug => 'D',
        Level::Info => 'I',
        Level::Warn => 'W',
        Level::Error => 'E',
    };
    let width = source::names().map(str::len).max().unwrap_or_default();
    if prefix {
        format!("{letter}: [{source:^width$}] ")
    } else {
        format!("{letter}: ")
    }
}

/// `I: [     policy     ] message name=value`, the prefix repeated on every line of the message.
fn text(level: Level, source: &str, prefix: bool, fields: &Fields) -> String {
    let head = head(level, source, prefix);
    let message = fields.line();
    let mut out = String::with_capacity(message.len() + head.len() + 1);
    for line in message.trim_end_matches('\n').split('\n') {
        out.push_str(&head);
        out.push_str(line);
        out.push('\n');
    }
    out
}

fn json(level: Level, source: &str, fields: &Fields) -> String {
    let mut object = serde_json::Map::new();
    let since_epoch = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    object.insert("time".into(), since_epoch.as_secs_f64().into());
    object.insert(
        "level".into(),
        format!("{level:?}").to_ascii_lowercase().into(),
    );
    object.insert("source".into(), source.into());
    object.insert("message".into(), fields.message.as_str().into());
    for (name, value) in &fields.values {
        object.entry(*name).or_insert_with(|| value.as_str().into());
    }
    format!("{}\n", serde_json::Value::Object(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_carry_severity_and_the_centred_source() {
        let fields = Fields {
            message: "two\nlines".into(),
            values: vec![("cpu", "3".into())],
        };
        assert_eq!(
            text(Level::Info, "policy", true, &fields),
            "I: [     policy     ] two\nI: [     policy     ] lines cpu=3\n"
        );
        assert_eq!(
            text(Level::Warn, "policy", false, &fields),
            "W: two\nW: lines cpu=3\n"
        );
    }

    #[test]
    fn json_lines_are_objects_with_every_field() {
        let fields = Fields {
            message: "say \"hi\"".into(),
            values: vec![("cpu", "3".into())],
        };
        let line = json(Level::Error, "cache", &fields);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "error");
        assert_eq!(value["source"], "cache");
        assert_eq!(value["message"], "say \"hi\"");
        assert_eq!(value["cpu"], "3");
    }
}
