//! Lines for people: the head of each event and the lines of its body.

use super::record::{Body, Record, RecordEvent};

/// Where the lines go. Their forms differ a little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    Log,
    File,
}

/// Writes an event as lines, each begun by `prefix` and ended by a newline. `text` is its body in YAML or, of a
/// rewritten request, the changes.
pub(super) fn put(
    out: &mut Vec<u8>,
    record: &Record<'_>,
    text: &[u8],
    prefix: &[u8],
    destination: Destination,
) {
    let (word, arrow) = match &record.event {
        RecordEvent::Request(_) => ("REQUEST", "=>"),
        RecordEvent::Rewritten { .. } => ("REWRITTEN", "~>"),
        RecordEvent::Reply(_) => ("REPLY", "<="),
        RecordEvent::Own(_) => ("EVENT", "::"),
        RecordEvent::Measured(_) => ("MEASURED", "::"),
        RecordEvent::Failed(_) | RecordEvent::Named { failed: true } => ("FAILED", "<="),
        RecordEvent::Named { failed: false } => ("REQUEST", ""),
        RecordEvent::Count { .. } => ("REQUEST:", ""),
        RecordEvent::Ended => return,
    };
    let (kind, method) = (record.kind.as_str(), record.method);
    let (pad, in_file) = match destination {
        Destination::Log => ("    ", false),
        Destination::File => ("   ", true),
    };
    out.extend_from_slice(prefix);
    if let RecordEvent::Count { calls, all, rate } = record.event {
        return put_text(
            out,
            &format!("({kind}) {word} {method} #{calls}, {all} total, {rate:.2}/s calls\n"),
        );
    }
    put_text(out, &format!("({kind}) {word} {method} #{}", record.seq));
    match (&record.event, record.event.body()) {
        (RecordEvent::Failed(error), _) => {
            out.push(b'\n');
            let pad = pad.get(2..).unwrap_or_default();
            let begin = format!("{pad}{method} {arrow} ");
            for line in error.lines() {
                for part in [prefix, begin.as_bytes(), line.as_bytes(), b"\n"] {
                    out.extend_from_slice(part);
                }
            }
        }
        (_, None) => out.push(b'\n'),
        (_, Some(Body::Unknown)) => put_text(
            out,
            &format!(" {arrow} ({} bytes, not decoded)\n", record.bytes),
        ),
        (_, Some(Body::TooLong { limit })) => put_text(
            out,
            &format!(
                " {arrow} ({} bytes, left out: more than {limit} bytes)\n",
                record.bytes
            ),
        ),
        (event, Some(Body::Message(_) | Body::Value(_))) => {
            let text = text.strip_suffix(b"\n").unwrap_or(text);
            let size = if in_file && matches!(event, RecordEvent::Reply(_)) {
                format!(" ({} bytes as yaml)\n", text.len())
            } else {
                "\n".to_owned()
            };
            if memchr::memchr(b'\n', text).is_none() {
                put_text(out, &format!(" {arrow} "));
                out.extend_from_slice(text);
                return put_text(out, &size);
            }
            put_text(out, &size);
            put_lines(
                out,
                text,
                &[
                    prefix,
                    pad.as_bytes(),
                    method.as_bytes(),
                    b" ",
                    arrow.as_bytes(),
                    b" ",
                ]
                .concat(),
            );
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// Writes each line of the text behind `begin`.
fn put_lines(out: &mut Vec<u8>, text: &[u8], begin: &[u8]) {
    let ends = memchr::memchr_iter(b'\n', text).map(|end| end + 1);
    let mut from = 0;
    for end in ends.chain([text.len()]) {
        out.extend_from_slice(begin);
        out.extend_from_slice(text.get(from..end).unwrap_or_default());
        from = end;
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::observe::Kind;
    use serde_json::Value;

    fn lines(event: RecordEvent<'_>, text: &str, prefix: &str, destination: Destination) -> String {
        let record = Record {
            kind: Kind::Intercepted,
            service: "runtime.v1.RuntimeService",
            method: "CreateContainer",
            seq: 7,
            event,
            bytes: 9,
            code: None,
            latency: None,
            runtime: None,
        };
        let mut out = Vec::new();
        put(
            &mut out,
            &record,
            text.as_bytes(),
            prefix.as_bytes(),
            destination,
        );
        String::from_utf8(out).unwrap()
    }

    const BODY: Body<'_> = Body::Value(&Value::Null);

    #[test]
    fn log_lines_have_the_documented_form() {
        for (event, text, expected) in [
            (
                RecordEvent::Request(BODY),
                "a: 1\nb: 2\n",
                "(intercepted) REQUEST CreateContainer #7\n    CreateContainer => a: 1\n    CreateContainer => b: 2\n",
            ),
            (
                RecordEvent::Request(BODY),
                "{}\n",
                "(intercepted) REQUEST CreateContainer #7 => {}\n",
            ),
            (
                RecordEvent::Rewritten {
                    body: BODY,
                    changes: None,
                },
                "a: 1 -> 2",
                "(intercepted) REWRITTEN CreateContainer #7 ~> a: 1 -> 2\n",
            ),
            (
                RecordEvent::Reply(BODY),
                "a: 1\nb: 2\n",
                "(intercepted) REPLY CreateContainer #7\n    CreateContainer <= a: 1\n    CreateContainer <= b: 2\n",
            ),
            (
                RecordEvent::Reply(Body::Unknown),
                "",
                "(intercepted) REPLY CreateContainer #7 <= (9 bytes, not decoded)\n",
            ),
            (
                RecordEvent::Request(Body::TooLong { limit: 4 }),
                "",
                "(intercepted) REQUEST CreateContainer #7 => (9 bytes, left out: more than 4 bytes)\n",
            ),
            (
                RecordEvent::Failed("no".to_owned()),
                "",
                "(intercepted) FAILED CreateContainer #7\n  CreateContainer <= no\n",
            ),
            (
                RecordEvent::Named { failed: false },
                "",
                "(intercepted) REQUEST CreateContainer #7\n",
            ),
            (
                RecordEvent::Named { failed: true },
                "",
                "(intercepted) FAILED CreateContainer #7\n",
            ),
            (
                RecordEvent::Count {
                    calls: 3,
                    all: 5,
                    rate: 1.5,
                },
                "",
                "(intercepted) REQUEST: CreateContainer #3, 5 total, 1.50/s calls\n",
            ),
            (
                RecordEvent::Own(BODY),
                "a: 1\nb: 2\n",
                "(intercepted) EVENT CreateContainer #7\n    CreateContainer :: a: 1\n    CreateContainer :: b: 2\n",
            ),
            (
                RecordEvent::Measured(BODY),
                "- a: 1\n  b: 2\n",
                "(intercepted) MEASURED CreateContainer #7\n    CreateContainer :: - a: 1\n    CreateContainer ::   b: 2\n",
            ),
            (RecordEvent::Ended, "", ""),
        ] {
            assert_eq!(lines(event, text, "", Destination::Log), expected);
        }
    }

    #[test]
    fn file_lines_carry_the_stamp_on_each_line() {
        let reply = RecordEvent::Reply(BODY);
        assert_eq!(
            lines(reply, "a: 1\nb: 2\n", "[+0.1] ", Destination::File),
            "[+0.1] (intercepted) REPLY CreateContainer #7 (9 bytes as yaml)\n\
             [+0.1]    CreateContainer <= a: 1\n[+0.1]    CreateContainer <= b: 2\n"
        );
        let failed = RecordEvent::Failed("no\nway".to_owned());
        assert_eq!(
            lines(failed, "", "[+0.1] ", Destination::File),
            "[+0.1] (intercepted) FAILED CreateContainer #7\n[+0.1]  CreateContainer <= no\n\
             [+0.1]  CreateContainer <= way\n"
        );
    }
}
