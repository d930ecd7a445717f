//! gRPC's status and deadline as header fields (gRPC over HTTP/2, "Responses" and "Requests").

use crate::cri::{
    hpack::{Header, find},
    intercept::Status,
};
use bytes::Bytes;
use std::{fmt::Write, time::Duration};

pub(super) const CANCELLED: u32 = 1;
pub(super) const DEADLINE_EXCEEDED: u32 = 4;
pub(super) const RESOURCE_EXHAUSTED: u32 = 8;
pub(super) const UNIMPLEMENTED: u32 = 12;
pub(super) const UNAVAILABLE: u32 = 14;

/// The fields that end a call with `status`; with the response's own when those were not sent yet.
pub(super) fn trailers(status: &Status, with_response: bool) -> Vec<Header> {
    let mut list = Vec::with_capacity(4);
    if with_response {
        list.push(Header::new(":status", "200"));
        list.push(Header::new("content-type", "application/grpc"));
    }
    list.push(Header::new("grpc-status", status.code.to_string()));
    list.push(Header::new("grpc-message", percent_encode(&status.message)));
    list
}

/// The status in trailers: `None` is OK.
pub(super) fn of(trailers: &[Header]) -> Option<Status> {
    let text = |name| find(trailers, name).map(String::from_utf8_lossy);
    let code = match text("grpc-status") {
        Some(code) => code.parse().unwrap_or(2),
        None => 2,
    };
    (code != 0).then(|| Status {
        code,
        message: text("grpc-message")
            .map(|m| percent_decode(&m))
            .unwrap_or_default(),
    })
}

/// The duration in a `grpc-timeout` field; none is left of a negative one, which Go's gRPC reads too.
pub(super) fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.len() > 8 {
        return None;
    }
    if let Some(digits) = digits.strip_prefix(b"-") {
        let negative = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        return (negative && b"HMSmun".contains(unit)).then_some(Duration::ZERO);
    }
    let n: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(n * 3600),
        b'M' => Duration::from_secs(n * 60),
        b'S' => Duration::from_secs(n),
        b'm' => Duration::from_millis(n),
        b'u' => Duration::from_micros(n),
        b'n' => Duration::from_nanos(n),
        _ => return None,
    })
}

fn percent_encode(text: &str) -> Bytes {
    let mut out = String::with_capacity(text.len());
    for octet in text.bytes() {
        if (0x20..0x7f).contains(&octet) && octet != b'%' {
            out.push(char::from(octet));
        } else if write!(out, "%{octet:02X}").is_err() {
            break;
        }
    }
    out.into()
}

fn percent_decode(text: &str) -> String {
    let octets = text.as_bytes();
    let mut out = Vec::with_capacity(octets.len());
    let mut at = 0;
    while at < octets.len() {
        let coded = (octets[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(coded.unwrap_or(octets[at]));
        at += if coded.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_survives_its_trip_through_headers() {
        let status = Status {
            code: 14,
            message: "100% of \"ü\"\n are gone".into(),
        };
        assert_eq!(of(&trailers(&status, true)), Some(status));
        assert_eq!(of(&[Header::new("grpc-status", "0")]), None);
        assert_eq!(of(&[]).unwrap().code, 2);
        assert_eq!(percent_decode("a%zz%4"), "a%zz%4");
    }

    #[test]
    fn timeouts_read_in_every_unit() {
        assert_eq!(timeout(b"5S"), Some(Duration::from_secs(5)));
        assert_eq!(timeout(b"20m"), Some(Duration::from_millis(20)));
        assert_eq!(
            timeout(b"99999999H"),
            Some(Duration::from_secs(99_999_999 * 3600))
        );
        assert_eq!(timeout(b"0n"), Some(Duration::ZERO));
        assert_eq!(timeout(b"-1S"), Some(Duration::ZERO));
        assert_eq!(timeout(b"-S"), None);
        assert_eq!(timeout(b"-1x"), None);
        assert_eq!(timeout(b"S"), None);
        assert_eq!(timeout(b""), None);
        assert_eq!(timeout(b"999999999S"), None);
    }
}
