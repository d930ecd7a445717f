//! Single values as operators type them: switches, durations, addresses, paths, words of a list.

use crate::suggest;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// A switch: Go's words, and the friendlier ones.
///
/// # Errors
/// What would be right.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "on" | "yes" | "enabled" => Ok(true),
        "0" | "f" | "false" | "off" | "no" | "disabled" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// A duration in Go's format: numbers with units, `1m30s`, `1.5h`, `500ms`; `0` needs no unit.
///
/// # Errors
/// What would be right.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || "expected a duration with units such as 500ms, 60s or 1m30s".to_owned();
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest
            .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .ok_or_else(bad)?;
        let (number, tail) = rest.split_at(end);
        let end = tail
            .find(|letter: char| letter.is_ascii_digit() || letter == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        let number: f64 = number.parse().map_err(|_not_a_number| bad())?;
        let part = Duration::try_from_secs_f64(number * unit)
            .map_err(|_out_of_range| "too long".to_owned())?;
        total = total
            .checked_add(part)
            .ok_or_else(|| "too long".to_owned())?;
        rest = tail;
    }
    Ok(total)
}

/// A duration that is more than 0.
///
/// # Errors
/// What would be right.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be more than 0".to_owned()),
        positive => Ok(positive),
    }
}

/// A path, which must be absolute; `unix://` in front is taken off.
///
/// # Errors
/// What would be right.
pub fn absolute_path(text: &str) -> Result<PathBuf, String> {
    let text = text.trim();
    let path = text.strip_prefix("unix://").unwrap_or(text);
    if path.starts_with('/') && !path.contains('\0') {
        Ok(PathBuf::from(path))
    } else {
        Err("expected an absolute path".to_owned())
    }
}

/// A Unix socket's path; `-`, `disabled` and the empty text turn it off. The kernel's limit is 107 bytes
/// (`sun_path` in `unix(7)`).
///
/// # Errors
/// What would be right.
pub fn socket(text: &str) -> Result<Option<PathBuf>, String> {
    if matches!(text.trim(), "" | "-" | "disabled") {
        return Ok(None);
    }
    let path =
        absolute_path(text).map_err(|expected| format!("{expected}, or `-` to turn it off"))?;
    if path.as_os_str().len() > 107 {
        return Err("longer than the 107 bytes a socket's path may have".to_owned());
    }
    Ok(Some(path))
}

/// `HOST:PORT`, or `:PORT` for every address.
///
/// # Errors
/// What would be right.
pub fn address(text: &str) -> Result<Option<SocketAddr>, String> {
    let text = text.trim();
    if matches!(text, "" | "-" | "disabled") {
        return Ok(None);
    }
    let bad = || "expected an address such as 127.0.0.1:8891, [::1]:8891 or :8891".to_owned();
    if let Some(port) = text.strip_prefix(':') {
        let port = port.parse().map_err(|_not_a_port| bad())?;
        return Ok(Some(SocketAddr::new(
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port,
        )));
    }
    let text = text
        .strip_prefix("localhost:")
        .map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    text.parse().map(Some).map_err(|_not_an_address| bad())
}

/// Names of hosts without ports, separated by commas; `*` is every name.
///
/// # Errors
/// What would be right.
pub fn host_names(list: &str) -> Result<Vec<String>, String> {
    let names = list.split(',').map(str::trim);
    let names = names.filter(|name| !name.is_empty()).map(|name| {
        let legal = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
        if name == "*" || name.chars().all(legal) {
            Ok(name.to_owned())
        } else {
            Err(format!(
                "{name:?}: expected a host's name without scheme and port, such as status.example.com, or *"
            ))
        }
    });
    names.collect()
}

/// One of these words.
///
/// # Errors
/// The words, and the nearest when there is one.
pub fn choice<T: Clone>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, choice)| choice.clone()).ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint = suggest::hint(text, words.iter().copied(), "");
        format!("expected one of {}{hint}", words.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hosts_are_listed_without_ports() {
        let names = host_names("a.example, b_1 ,*,").unwrap();
        assert_eq!(names, ["a.example", "b_1", "*"]);
        for wrong in ["http://a", "a:8891", "*.example", "a b"] {
            let why = host_names(wrong).unwrap_err();
            assert!(
                why.starts_with(&format!("{wrong:?}: expected a host's name")),
                "{why}"
            );
        }
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("60s", 60_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("500ms", 500),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "60", "s", "-1s", "1d", "1..5s", "1e99h"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
        assert!(positive_duration("0s").is_err());
    }

    #[test]
    fn sockets_are_absolute_with_or_without_a_scheme_or_off() {
        assert_eq!(socket("unix:///run/x.sock"), Ok(Some("/run/x.sock".into())));
        assert_eq!(socket("/run/x.sock"), Ok(Some("/run/x.sock".into())));
        assert_eq!(socket("-"), Ok(None));
        assert_eq!(socket("disabled"), Ok(None));
        assert!(socket("run/x.sock").is_err());
        assert!(socket("tcp://127.0.0.1:1").is_err());
        assert!(socket(&format!("/{}", "x".repeat(107))).is_err());
    }

    #[test]
    fn an_address_without_host_means_all() {
        assert_eq!(address(":8891"), Ok(Some(([0, 0, 0, 0], 8891).into())));
        assert_eq!(address("localhost:1"), Ok(Some(([127, 0, 0, 1], 1).into())));
        assert_eq!(address(""), Ok(None));
        assert!(address("8891").is_err());
    }
}
