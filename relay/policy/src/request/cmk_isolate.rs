//! `cmk isolate …` command lines: containers made for CMK ask for CPUs this way.
//!
//! The prefix is not executed: what remains of the line is. Inside `sh -c "cmk isolate … command"` the
//! shell and the quoting of the command stay as they are.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

/// The extended resource that counts exclusive CPU lists.
pub const EXCLUSIVE_CORES: &str = "cmk.intel.com/exclusive-cores";

/// A recognised command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Isolate {
    /// `--pool`.
    pub pool: Option<String>,
    /// `--socket-id`; `None`: any.
    pub socket: Option<u32>,
    /// `--no-affinity`.
    pub no_affinity: bool,
    /// What to run in place of command and arguments.
    pub command: Vec<String>,
}

/// Looks for `cmk isolate` in a container's command and arguments. `None` when there is none.
///
/// # Errors
/// What is wrong with its options.
pub fn parse_isolate(command: &[String], args: &[String]) -> Result<Option<Isolate>, String> {
    let line: Vec<&str> = command.iter().chain(args).map(String::as_str).collect();
    if let Some((mut found, rest)) = parse(&line)? {
        let rest = line.get(rest..).unwrap_or_default();
        found.command = rest.iter().map(|word| (*word).to_string()).collect();
        return Ok(Some(found));
    }
    for (index, text) in line.iter().enumerate() {
        let words: Vec<&str> = text.split_whitespace().collect();
        let Some((mut found, rest)) = parse(&words)? else {
            continue;
        };
        let before = line.get(..index).unwrap_or_default();
        let rest = words.get(rest..).unwrap_or_default();
        if is_shell(before) {
            found.command = line.iter().map(|word| (*word).to_string()).collect();
            if let Some(slot) = found.command.get_mut(index) {
                *slot = tail(text, rest.len()).to_string();
            }
        } else {
            found.command = rest.iter().map(|word| (*word).to_string()).collect();
        }
        return Ok(Some(found));
    }
    Ok(None)
}

/// A `cmk isolate` found in a command line, with its options and without the command it would run; empty
/// when there is none, or one that is not understood.
pub(crate) fn isolate_words(command: &[String], args: &[String]) -> Vec<String> {
    let Ok(Some(found)) = parse_isolate(command, args) else {
        return Vec::new();
    };
    let mut words = alloc::vec!["cmk".to_string(), "isolate".to_string()];
    words.extend(found.pool.map(|pool| format!("--pool={pool}")));
    words.extend(found.socket.map(|id| format!("--socket-id={id}")));
    words.extend(found.no_affinity.then(|| "--no-affinity".to_string()));
    words
}

/// The last `count` words of a text, verbatim.
fn tail(text: &str, count: usize) -> &str {
    let mut rest = text.trim();
    let mut skip = rest.split_whitespace().count().saturating_sub(count);
    while skip > 0 {
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        rest = rest.get(end..).unwrap_or_default().trim_start();
        skip -= 1;
    }
    rest
}

fn base(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

fn is_shell(before: &[&str]) -> bool {
    let shell = before
        .first()
        .is_some_and(|word| base(word).ends_with("sh"));
    let script = before
        .last()
        .is_some_and(|word| word.starts_with('-') && word.ends_with('c'));
    shell && script
}

/// Options, and the index of the first word of the real command.
fn parse(words: &[&str]) -> Result<Option<(Isolate, usize)>, String> {
    match words {
        [cmk, "isolate", ..] if base(cmk) == "cmk" => {}
        _ => return Ok(None),
    }
    let mut found = Isolate::default();
    let mut index = 2;
    while let Some(word) = words.get(index) {
        if !word.starts_with('-') || *word == "-" {
            break;
        }
        index += 1;
        if *word == "--" {
            break;
        }
        let option = word.strip_prefix('-').unwrap_or(word);
        let option = option.strip_prefix('-').unwrap_or(option);
        let (name, mut value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(unquoted(value))),
            None => (option, None),
        };
        if value.is_none() && matches!(name, "pool" | "socket-id" | "conf-dir") {
            value = words.get(index).map(|word| unquoted(word));
            index += 1;
            if value.is_none() {
                return Err(format!("cmk isolate: option --{name} needs a value"));
            }
        }
        match (name, value) {
            ("pool", Some(pool)) => found.pool = Some(pool.to_string()),
            ("socket-id", Some(text)) => {
                let Some(id) = go_integer(text) else {
                    return Err(format!(
                        "cmk isolate: --socket-id {text:?} is not an integer"
                    ));
                };
                found.socket = u32::try_from(id).ok();
            }
            ("no-affinity", value) => {
                found.no_affinity =
                    !matches!(value, Some("false" | "0" | "f" | "F" | "FALSE" | "False"));
            }
            ("conf-dir", _) | (_, Some(_)) => {}
            (_, None) => {
                return Err(format!(
                    "cmk isolate: unknown option {word}: write {word}=VALUE, or -- before the command"
                ));
            }
        }
    }
    Ok(Some((found, index.min(words.len()))))
}

fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        let inner = value
            .strip_prefix(quote)
            .and_then(|rest| rest.strip_suffix(quote));
        if let Some(inner) = inner {
            return inner;
        }
    }
    value
}

/// An integer as Go writes them: `1`, `-1`, `0x1`, `0b1`, `0o1`, `01`.
pub(crate) fn go_integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, lower.get(2..)?),
        Some("0b") => (2, lower.get(2..)?),
        Some("0o") => (8, lower.get(2..)?),
        Some(two) if two.starts_with('0') => (8, lower.get(1..)?),
        _ => (10, lower.as_str()),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let value = i64::from_str_radix(digits, radix).ok()?;
    Some(if negative { -value } else { value })
}

/// For the explanation, which is kept: the program alone, its arguments may be secret.
pub(crate) fn program(command: &[String]) -> &str {
    command.first().map_or("nothing", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &[&str]) -> Vec<String> {
        text.iter().map(|word| (*word).to_string()).collect()
    }

    #[test]
    fn every_form_of_the_command_line_is_recognised() {
        let all = Isolate {
            pool: Some("p".into()),
            socket: Some(1),
            no_affinity: true,
            command: words(&["sleep", "9"]),
        };
        for line in [
            &[
                "cmk",
                "isolate",
                "--pool=p",
                "--socket-id=1",
                "--no-affinity",
                "sleep",
                "9",
            ][..],
            &[
                "/opt/bin/cmk",
                "isolate",
                "-pool",
                "p",
                "--socket-id",
                "0x1",
                "-no-affinity",
                "--",
                "sleep",
                "9",
            ],
            &["cmk isolate --conf-dir=/etc/cmk --x=y --pool=p --socket-id=1 --no-affinity sleep 9"],
        ] {
            assert_eq!(
                parse_isolate(&words(line), &[]),
                Ok(Some(all.clone())),
                "{line:?}"
            );
            assert_eq!(
                parse_isolate(&[], &words(line)),
                Ok(Some(all.clone())),
                "{line:?}"
            );
        }
        assert_eq!(
            parse_isolate(&words(&["sleep", "cmk", "isolate"]), &[]),
            Ok(None)
        );
        assert_eq!(parse_isolate(&[], &[]), Ok(None));
    }

    #[test]
    fn a_shell_and_its_quoting_stay() {
        let found = parse_isolate(
            &words(&["/bin/bash", "-ec"]),
            &words(&["cmk isolate --pool=\"p\"  echo 'a  b' && sleep 9", "arg"]),
        );
        let found = found.unwrap().unwrap();
        assert_eq!(found.pool.as_deref(), Some("p"));
        assert_eq!(
            found.command,
            words(&["/bin/bash", "-ec", "echo 'a  b' && sleep 9", "arg"])
        );
    }

    #[test]
    fn options_that_cannot_be_understood_are_refused() {
        for (line, problem) in [
            (
                &["cmk", "isolate", "--socket-id=one", "x"][..],
                "\"one\" is not an integer",
            ),
            (
                &["cmk", "isolate", "--unknown", "value", "x"],
                "unknown option --unknown",
            ),
            (&["cmk", "isolate", "--pool"], "--pool needs a value"),
        ] {
            let error = parse_isolate(&words(line), &[]).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }
}
