//! The layer that writes the lines.

use super::{
    settings::{Format, Level, LogSettings},
    source,
};
use std::{
    fmt,
    io::Write as _,
    sync::{Arc, RwLock},
};
use tracing::{Event, Metadata, Subscriber, field, subscriber::Interest};
use tracing_subscriber::{
    Registry,
    layer::{Context, Layer, SubscriberExt as _},
};

/// Changes what is logged while the daemon runs.
#[derive(Clone, Debug)]
pub struct Control(Arc<RwLock<LogSettings>>);

impl Control {
    /// Puts new settings in force.
    pub fn set(&self, settings: LogSettings) {
        match self.0.write() {
            Ok(mut current) => *current = settings,
            Err(poisoned) => *poisoned.into_inner() = settings,
        }
        tracing::callsite::rebuild_interest_cache();
    }

    /// The settings in force.
    #[must_use]
    pub fn get(&self) -> LogSettings {
        match self.0.read() {
            Ok(current) => current.clone(),
            Err(poisoned) => poisoned.into_inner().clone(),
        }
    }

    fn shows(&self, metadata: &Metadata<'_>) -> bool {
        let source = source::of_target(metadata.target());
        match self.0.read() {
            Ok(settings) => settings.shows(level(metadata), source),
            Err(poisoned) => poisoned.into_inner().shows(level(metadata), source),
        }
    }
}

/// Makes standard error the place where the process logs.
///
/// # Errors
/// When the process logs elsewhere already.
pub fn install(
    settings: LogSettings,
) -> Result<Control, tracing::subscriber::SetGlobalDefaultError> {
    let control = Control(Arc::new(RwLock::new(settings)));
    let lines = Lines {
        control: control.clone(),
    };
    tracing::subscriber::set_global_default(Registry::default().with(lines))?;
    Ok(control)
}

/// The settings in force, when this layer is where the process logs.
pub(super) fn in_force() -> Option<LogSettings> {
    tracing::dispatcher::get_default(|dispatch| {
        let lines = dispatch.downcast_ref::<Lines>();
        lines.map(|lines| lines.control.get())
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
        let settings = self.control.get();
        let text = render(&settings, event);
        // Without standard error a failure cannot be reported.
        std::io::stderr().lock().write_all(text.as_bytes()).ok();
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

fn render(settings: &LogSettings, event: &Event<'_>) -> String {
    let mut fields = Fields::default();
    event.record(&mut fields);
    let source = source::of_target(event.metadata().target());
    form(settings, level(event.metadata()), source, &fields)
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
    let mut message = fields.message.clone();
    for (name, value) in &fields.values {
        message += &format!(" {name}={value}");
    }
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
