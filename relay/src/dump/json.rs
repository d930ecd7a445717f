//! One JSON object a line, for machines.

use super::record::{Body, Record, RecordEvent};
use serde::Serialize;

/// An event's fields, in the order of their names.
#[derive(Default, Serialize)]
struct JsonLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    all_calls: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a Body<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    calls: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    calls_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    event: &'static str,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out_above_bytes: Option<usize>,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime_s: Option<f64>,
    seq: u64,
    service: &'a str,
    time: f64,
}

/// The line that owns up to dropped events.
#[derive(Serialize)]
struct Dropped {
    count: u64,
    event: &'static str,
    time: f64,
}

/// Writes an event as one line. `time` is seconds since the epoch.
///
/// # Errors
/// When the body is no message of its method; part of the line is written then.
pub(super) fn put(out: &mut Vec<u8>, record: &Record<'_>, time: f64) -> serde_json::Result<()> {
    let mut line = JsonLine {
        code: record.code,
        kind: record.kind.as_str(),
        latency_s: record.latency.map(|latency| latency.as_secs_f64()),
        method: record.method,
        runtime_s: record.runtime.map(|runtime| runtime.as_secs_f64()),
        seq: record.seq,
        service: record.service,
        time,
        ..JsonLine::default()
    };
    line.event = match &record.event {
        RecordEvent::Request(_) => "request",
        RecordEvent::Rewritten { .. } => "rewritten",
        RecordEvent::Reply(_) => "reply",
        RecordEvent::Failed(error) => {
            line.error = Some(error);
            "failed"
        }
        RecordEvent::Named { failed: true } => "failed",
        RecordEvent::Named { failed: false } | RecordEvent::Ended => "ended",
        RecordEvent::Count { calls, all, rate } => {
            line.calls = Some(*calls);
            line.all_calls = Some(*all);
            line.calls_per_s = Some(*rate);
            "count"
        }
        RecordEvent::Own(_) => "event",
        RecordEvent::Measured(_) => "measured",
    };
    if let Some(body) = record.event.body() {
        line.bytes = (!matches!(body, Body::Value(_))).then_some(record.bytes);
        match body {
            Body::Message(_) | Body::Value(_) => line.body = Some(body),
            Body::TooLong { limit } => line.left_out_above_bytes = Some(*limit),
            Body::Unknown => {}
        }
    }
    put_line(out, &line)
}

/// Writes the line that owns up to dropped events.
///
/// # Errors
/// None that is known of.
pub(super) fn put_dropped(out: &mut Vec<u8>, count: u64, time: f64) -> serde_json::Result<()> {
    let event = "dropped";
    put_line(out, &Dropped { count, event, time })
}

fn put_line(out: &mut Vec<u8>, line: &impl Serialize) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::observe::Kind;
    use serde_json::{Value, json};

    #[test]
    fn an_event_is_one_object() {
        let record = Record {
            kind: Kind::Own,
            service: "runtime.v1.RuntimeService",
            method: "StopContainer",
            seq: 9,
            event: RecordEvent::Failed("no\nway".to_owned()),
            bytes: 0,
            code: Some(5),
            latency: None,
            runtime: None,
        };
        let mut line = Vec::new();
        put(&mut line, &record, 1.5).unwrap();
        assert_eq!(line.iter().filter(|octet| **octet == b'\n').count(), 1);
        assert_eq!(
            serde_json::from_slice::<Value>(&line).unwrap(),
            json!({
                "time": 1.5, "seq": 9, "kind": "own", "service": "runtime.v1.RuntimeService",
                "method": "StopContainer", "event": "failed", "error": "no\nway", "code": 5
            })
        );
    }
}
