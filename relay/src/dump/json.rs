//! One JSON object a line, for machines.

use super::record::{Body, Kinded as _, Record, What};
use serde_json::{Map, Value};

/// An event as one line. `time` is seconds since the epoch.
pub(super) fn line(record: &Record, time: f64) -> String {
    let mut object = Map::new();
    object.insert("time".into(), time.into());
    object.insert("seq".into(), record.seq.into());
    object.insert("kind".into(), record.kind.word().into());
    object.insert("service".into(), record.service.as_str().into());
    object.insert("method".into(), record.method.as_str().into());
    let event = match &record.what {
        What::Request(_) => "request",
        What::Rewritten(_) => "rewritten",
        What::Reply(_) => "reply",
        What::Failed(_) | What::Named { failed: true } => "failed",
        What::Named { failed: false } | What::Ended => "ended",
        What::Count { .. } => "count",
        What::Told(_) => "event",
    };
    object.insert("event".into(), event.into());
    match &record.what {
        What::Told(_) => {
            if let Some(value) = &record.value {
                object.insert("body".into(), value.clone());
            }
        }
        What::Request(body) | What::Rewritten(body) | What::Reply(body) => {
            object.insert("bytes".into(), record.bytes.into());
            match (body, &record.value) {
                (Body::Decoded(_), Some(value)) => {
                    object.insert("body".into(), value.clone());
                }
                (Body::TooLong { limit, .. }, _) => {
                    object.insert("left_out_above_bytes".into(), (*limit).into());
                }
                _ => {}
            }
        }
        What::Failed(error) => {
            object.insert("error".into(), error.as_str().into());
        }
        What::Count { calls, all, rate } => {
            object.insert("calls".into(), (*calls).into());
            object.insert("all_calls".into(), (*all).into());
            object.insert("calls_per_s".into(), (*rate).into());
        }
        What::Named { .. } | What::Ended => {}
    }
    if let Some(code) = record.code {
        object.insert("code".into(), code.into());
    }
    if let Some(latency) = record.latency {
        object.insert("latency_s".into(), latency.as_secs_f64().into());
    }
    if let Some(runtime) = record.runtime {
        object.insert("runtime_s".into(), runtime.as_secs_f64().into());
    }
    format!("{}\n", Value::Object(object))
}

/// The line that owns up to dropped events.
pub(super) fn dropped(count: u64, time: f64) -> String {
    let mut object = Map::new();
    object.insert("time".into(), time.into());
    object.insert("event".into(), "dropped".into());
    object.insert("count".into(), count.into());
    format!("{}\n", Value::Object(object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::observe::Kind;
    use serde_json::json;

    #[test]
    fn an_event_is_one_object() {
        let mut record = Record::test(
            Kind::Own,
            "StopContainer",
            9,
            What::Failed("no\nway".to_owned()),
        );
        record.code = Some(5);
        let line = line(&record, 1.5);
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(
            serde_json::from_str::<Value>(&line).unwrap(),
            json!({
                "time": 1.5, "seq": 9, "kind": "own", "service": "runtime.v1.RuntimeService",
                "method": "StopContainer", "event": "failed", "error": "no\nway", "code": 5
            })
        );
    }
}
