//! `cmk isolate …` command lines: containers made for CMK ask for CPUs this way.
//!
//! `cmk isolate [OPTION…] --pool=POOL COMMAND [-- ARGUMENT…]`: options may also stand behind the command, until
//! `--`, which is CMK's own. None of it is executed: what remains of the line is. Inside
//! `sh -c "cmk isolate … command"` the shell, what it runs before, and the quoting of the command stay as they are.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

/// The extended resource that counts exclusive CPU lists.
pub const EXCLUSIVE_CORES: &str = "cmk.intel.com/exclusive-cores";
/// The same for the pool [`NON_ISOLCPUS_POOL`].
pub const EXCLUSIVE_NON_ISOLCPUS_CORES: &str = "cmk.intel.com/exclusive-non-isolcpus-cores";
/// The exclusive pool of CPUs that the kernel does not isolate.
pub const NON_ISOLCPUS_POOL: &str = "exclusive-non-isolcpus";

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
        found.command = selected(&line, &rest);
        return Ok(Some(found));
    }
    for (index, text) in line.iter().enumerate() {
        let before = line.get(..index).unwrap_or_default();
        if !is_shell(before) {
            let texts: Vec<&str> = text.split_whitespace().collect();
            if let Some((mut found, rest)) = parse(&texts)? {
                found.command = selected(&texts, &rest);
                return Ok(Some(found));
            }
        } else if let Some((mut found, script)) = parse_script(text)? {
            found.command = line.iter().map(ToString::to_string).collect();
            if let Some(slot) = found.command.get_mut(index) {
                *slot = script;
            }
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Looks for the first `cmk isolate` among a script's commands: its options, and the script without it.
fn parse_script(script: &str) -> Result<Option<(Isolate, String)>, String> {
    let mut from = 0;
    while from < script.len() {
        let (mut words, end) = shell_words(script, from);
        let is_ahead = |word: &ShellWord| {
            let name = word.text.split_once('=').map_or("", |(name, _value)| name);
            let letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
            word.text == "exec" || (!name.is_empty() && name.chars().all(letter))
        };
        let ahead = words.iter().take_while(|word| is_ahead(word)).count();
        words.drain(..ahead);
        let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
        if let Some((found, rest)) = parse(&texts)? {
            return Ok(Some((found, without(script, &words, &rest))));
        }
        from = end;
    }
    Ok(None)
}

fn selected(words: &[&str], indexes: &[usize]) -> Vec<String> {
    let selected = indexes.iter().filter_map(|index| words.get(*index));
    selected.map(ToString::to_string).collect()
}

/// A word of a text: what it says, and where it stands.
struct ShellWord {
    text: String,
    start: usize,
    end: usize,
}

/// The words of the simple command that begins at `from`, as a POSIX shell splits and unquotes them (Shell Command
/// Language, 2.2 and 2.3), and where the next one may begin; variables are left as they are.
fn shell_words(script: &str, from: usize) -> (Vec<ShellWord>, usize) {
    let mut words: Vec<ShellWord> = Vec::new();
    let mut word: Option<ShellWord> = None;
    let mut quote = None;
    let rest = script.get(from..).unwrap_or_default();
    let mut letters = rest
        .char_indices()
        .map(|(at, letter)| (from + at, letter))
        .peekable();
    let mut end = script.len();
    while let Some((at, letter)) = letters.next() {
        let next = letters.peek().map(|(_, next)| *next);
        let mut said = Some(letter);
        match (quote, letter) {
            (None | Some('"'), '\\') if next == Some('\n') => {
                // The line goes on.
                letters.next();
                continue;
            }
            (None, '\\') => said = letters.next().map(|(_, escaped)| escaped),
            (Some('"'), '\\') if next.is_some_and(|next| "$`\"\\".contains(next)) => {
                said = letters.next().map(|(_, escaped)| escaped);
            }
            (None, '"' | '\'') => {
                quote = Some(letter);
                said = None;
            }
            (Some(open), _) if open == letter => {
                quote = None;
                said = None;
            }
            (None, ' ' | '\t') => {
                words.extend(word.take());
                continue;
            }
            (None, '#') if word.is_none() => {
                while letters.next_if(|(_, letter)| *letter != '\n').is_some() {}
                continue;
            }
            (None, '\n') if words.is_empty() && word.is_none() => continue,
            // What follows may be a document for the command, and no script.
            (None, '<') => break,
            (None, '\n' | ';' | '&' | '|' | '>' | '(' | ')') => {
                end = at + 1;
                break;
            }
            _ => {}
        }
        let word = word.get_or_insert_with(|| ShellWord {
            text: String::new(),
            start: at,
            end: at,
        });
        word.text.extend(said);
        word.end = letters.peek().map_or(script.len(), |(next, _)| *next);
    }
    words.extend(word);
    (words, end)
}

/// The script without those of these words that are not kept.
fn without(script: &str, words: &[ShellWord], kept: &[usize]) -> String {
    let mut from = words.first().map_or(0, |word| word.start);
    let mut text = script.get(..from).unwrap_or_default().to_string();
    for (index, word) in words.iter().enumerate() {
        let next = words.get(index + 1).map_or(word.end, |next| next.start);
        if kept.contains(&index) {
            text.push_str(script.get(from..next).unwrap_or_default());
        }
        from = next;
    }
    text.push_str(script.get(from..).unwrap_or_default());
    text.trim().to_string()
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

fn base(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

fn is_shell(before: &[&str]) -> bool {
    // Also behind a wrapper: `tini -- sh -c`.
    let shell = before.iter().any(|word| base(word).ends_with("sh"));
    let script = before
        .last()
        .is_some_and(|word| word.starts_with('-') && word.ends_with('c'));
    shell && script
}

/// Options, and the indexes of the words of the real command.
fn parse(words: &[&str]) -> Result<Option<(Isolate, Vec<usize>)>, String> {
    match words {
        [cmk, "isolate", ..] if base(cmk) == "cmk" => {}
        _ => return Ok(None),
    }
    let mut found = Isolate::default();
    let mut command = Vec::new();
    let mut index = 2;
    while let Some(word) = words.get(index) {
        index += 1;
        if *word == "--" {
            command.extend(index..words.len());
            break;
        }
        let option = word.strip_prefix('-').unwrap_or(word);
        let option = option.strip_prefix('-').unwrap_or(option);
        let (name, mut value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(unquoted(value))),
            None => (option, None),
        };
        let takes_value = matches!(name, "pool" | "socket-id" | "conf-dir" | "namespace");
        // Behind the command only what is surely CMK's is.
        let is_option = match command.is_empty() {
            true => word.starts_with('-') && *word != "-",
            false => word.starts_with("--") && (takes_value || name == "no-affinity"),
        };
        if !is_option {
            command.push(index - 1);
            continue;
        }
        if value.is_none() && takes_value {
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
            (_, Some(_)) => {}
            (_, None) => {
                return Err(format!(
                    "cmk isolate: unknown option {word}: write {word}=VALUE, or -- before the command"
                ));
            }
        }
    }
    Ok(Some((found, command)))
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
    fn options_may_stand_behind_the_command_until_its_arguments() {
        for (line, command) in [
            (
                &[
                    "cmk",
                    "isolate",
                    "--pool=p",
                    "echo",
                    "x",
                    "--no-affinity",
                    "--namespace=n",
                ][..],
                &["echo", "x"][..],
            ),
            (
                &[
                    "cmk",
                    "isolate",
                    "run",
                    "--pool",
                    "p",
                    "--no-affinity",
                    "--",
                    "-a",
                    "--pool=q",
                    "--",
                ],
                &["run", "-a", "--pool=q", "--"],
            ),
            (
                &[
                    "cmk",
                    "isolate",
                    "--no-affinity",
                    "--pool=p",
                    "ls",
                    "-l",
                    "--all",
                    "-pool",
                ],
                &["ls", "-l", "--all", "-pool"],
            ),
        ] {
            let found = parse_isolate(&words(line), &[]).unwrap().unwrap();
            assert_eq!(found.pool.as_deref(), Some("p"), "{line:?}");
            assert!(found.no_affinity, "{line:?}");
            assert_eq!(found.command, words(command), "{line:?}");
        }
    }

    #[test]
    fn a_script_is_read_as_the_shell_reads_it() {
        for (script, rest) in [
            (
                "cmk isolate \\\n  --pool=p \\\n  sleep \\\n  9",
                "sleep \\\n  9",
            ),
            ("\n cmk isolate --po\\\nol='p' sleep 9\n", "sleep 9"),
            ("'cmk' isolate --pool \"p\" sleep 9 # nap", "sleep 9 # nap"),
            (
                "cmk isolate sh -c 'a; b' --pool=p && ls --pool=q -- x",
                "sh -c 'a; b'  && ls --pool=q -- x",
            ),
            (
                "cmk isolate --pool=p run -- --pool=q >log",
                "run --pool=q >log",
            ),
            (
                "cmk isolate --pool=p echo a\\ b \"\\$c\"",
                "echo a\\ b \"\\$c\"",
            ),
            ("exec /opt/bin/cmk isolate --pool=p sleep 9", "exec sleep 9"),
            (
                "HOME=/x A='b c' cmk isolate --pool=p run -a",
                "HOME=/x A='b c' run -a",
            ),
            (
                "# it's CMK's way\nset -e; cd /srv && exec cmk isolate --pool=p ./run | tee log\n",
                "# it's CMK's way\nset -e; cd /srv && exec ./run | tee log",
            ),
            ("(cmk isolate run --pool=p) >log 2>&1", "(run ) >log 2>&1"),
        ] {
            let found = parse_isolate(&words(&["sh", "-c"]), &words(&[script]));
            let found = found.unwrap().unwrap();
            assert_eq!(found.pool.as_deref(), Some("p"), "{script}");
            assert_eq!(found.command, words(&["sh", "-c", rest]), "{script}");
        }
    }

    #[test]
    fn a_script_that_only_speaks_of_it_is_left_alone() {
        for script in [
            "echo cmk isolate --pool=p",
            "echo 'x; cmk isolate --pool=p'",
            "cat <<END\ncmk isolate --pool=p\nEND\n",
            "# cmk isolate --pool=p\nrun",
            "cmk discover; cmk isolation --pool=p x",
            "",
        ] {
            let found = parse_isolate(&words(&["sh", "-c"]), &words(&[script]));
            assert_eq!(found, Ok(None), "{script}");
        }
        let wrapped = words(&["/sbin/tini", "--", "bash", "-ec"]);
        let found = parse_isolate(&wrapped, &words(&["cmk isolate --pool=p run"]));
        let command = words(&["/sbin/tini", "--", "bash", "-ec", "run"]);
        assert_eq!(found.unwrap().unwrap().command, command);
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
