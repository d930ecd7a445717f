use super::{option_file, *};
use crate::config::options;
use crate::{config::Machine, golden::assert_golden};
use clap_complete::Shell;
use proptest::prelude::*;
use std::path::Path;

fn words(line: &str) -> Vec<OsString> {
    std::iter::once("cri-resmgr")
        .chain(line.split_whitespace())
        .map(OsString::from)
        .collect()
}

fn typed(line: &str) -> Raw {
    parse(words(line)).unwrap().raw
}

/// The text given last for an option.
fn last(raw: &Raw, option: &str) -> String {
    raw.given(option).last().unwrap().0.clone()
}

fn refused(line: &str) -> String {
    parse(words(line)).unwrap_err().to_string()
}

/// What an option file with this text is worth.
fn from_file(text: &str) -> Result<Raw, UsageError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("options");
    std::fs::write(&path, text).unwrap();
    parse(["cri-resmgr".into(), "-config".into(), path.into_os_string()])
        .map(|invocation| invocation.raw)
}

#[test]
fn one_dash_or_two_a_space_or_an_equals_sign_are_all_the_same() {
    for line in [
        "-policy static",
        "-policy=static",
        "--policy static",
        "--policy=static",
    ] {
        assert_eq!(last(&typed(line), "policy"), "static", "{line}");
    }
}

#[test]
fn values_may_begin_with_a_dash_or_be_empty() {
    assert_eq!(last(&typed("-image-socket -"), "image-socket"), "-");
    assert_eq!(last(&typed("--image-socket=-"), "image-socket"), "-");
    let raw = typed("--image-socket= --policy none");
    assert_eq!(last(&raw, "image-socket"), "");
    assert_eq!(last(&raw, "policy"), "none");
}

#[test]
fn switches_are_true_alone_and_take_values_only_after_an_equals_sign() {
    assert_eq!(last(&typed("-pin-memory"), "pin-memory"), "true");
    assert_eq!(last(&typed("-pin-memory=false"), "pin-memory"), "false");
    assert_eq!(last(&typed("-pin-memory state"), "pin-memory"), "true");
}

#[test]
fn the_last_value_counts_and_lists_add_up_in_order() {
    let raw = typed("-policy static -dump off:.* -policy none -dump full:Version");
    assert_eq!(last(&raw, "policy"), "none");
    let dump: Vec<&str> = raw
        .given("dump")
        .iter()
        .map(|(text, _)| text.as_str())
        .collect();
    assert_eq!(dump, ["off:.*", "full:Version"]);
}

#[test]
fn every_value_knows_where_it_was_typed() {
    let raw = typed("-policy static -pin-memory -dump on");
    assert_eq!(raw.origin("dump"), Origin::CommandLine);
    assert_eq!(raw.origin("rebalance"), Origin::Default);
    let raw = from_file("\npolicy = static\n# x\ndump = a\ndump = b\n").unwrap();
    assert!(raw.origin("policy").to_string().ends_with("options:2"));
    let lines: Vec<String> = raw
        .given("dump")
        .iter()
        .map(|(_, origin)| origin.to_string())
        .collect();
    assert!(lines[0].ends_with(":4") && lines[1].ends_with(":5"));
}

#[test]
fn option_files_follow_the_rules() {
    let raw = from_file(
        "# comment\n\npolicy=static\n  reserved-resources = cpu=1000m\n"
            .replace("  reserved", "reserved")
            .as_str(),
    )
    .unwrap();
    assert_eq!(last(&raw, "reserved-resources"), "cpu=1000m");
    let raw =
        from_file("logger\n\tdebug = policy # not a comment\ndump = full:.*\n  file=/x\n").unwrap();
    assert_eq!(last(&raw, "logger-debug"), "policy # not a comment");
    assert_eq!(last(&raw, "dump-file"), "/x");
    assert_eq!(
        last(&from_file("pin-memory").unwrap(), "pin-memory"),
        "true"
    );
}

#[test]
fn mistakes_in_option_files_name_the_line() {
    for (text, part) in [
        (
            "polcy = x",
            ":1: unknown option \"polcy\"; did you mean \"policy\"?",
        ),
        ("\n  debug = x", ":2: \"debug\" is indented"),
        ("config = /x", ":1: option files cannot be nested"),
        ("--policy = x", "without dashes"),
        ("help = true", ":1: unknown option \"help\""),
        ("policy", ":1: option \"policy\" needs a value"),
    ] {
        let error = from_file(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text:?}: {error}");
    }
    assert!(refused("-config /nowhere/at/all").contains("cannot read option file"));
}

#[test]
fn later_words_beat_the_option_file_and_earlier_ones_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("options");
    std::fs::write(&path, "policy = static").unwrap();
    let path = path.display();
    let before = typed(&format!("-policy none -config {path}"));
    assert_eq!(last(&before, "policy"), "static");
    let after = typed(&format!("-config {path} -policy none"));
    assert_eq!(last(&after, "policy"), "none");
}

#[test]
fn subcommands_take_their_own_words_and_options_of_the_relay() {
    for (line, command) in [
        ("", Command::Run),
        ("restore", Command::Restore),
        ("state --json", Command::State { json: true }),
        (
            "top --once -json",
            Command::Top {
                once: true,
                json: true,
            },
        ),
        (
            "explain default/pod/c -relay-dir /x",
            Command::Explain {
                container: "default/pod/c".into(),
                json: false,
            },
        ),
        (
            "explain --json default/pod/c",
            Command::Explain {
                container: "default/pod/c".into(),
                json: true,
            },
        ),
        (
            "check-config map.yaml",
            Command::CheckConfig {
                file: "map.yaml".into(),
            },
        ),
        (
            "gather --anonymous --output x.tar.gz",
            Command::Gather(GatherArguments {
                output: Some("x.tar.gz".into()),
                anonymous: true,
            }),
        ),
        ("-print-config", Command::PrintConfig),
        (
            "completion bash",
            Command::Completion { shell: Shell::Bash },
        ),
        ("man", Command::Man),
    ] {
        assert_eq!(parse(words(line)).unwrap().command, command, "{line}");
    }
    let raw = typed("state --relay-dir /x");
    assert_eq!(last(&raw, "relay-dir"), "/x");
    assert_eq!(last(&typed("-state-dir /y"), "relay-dir"), "/y");
}

#[test]
fn mistakes_are_one_line_with_a_hint() {
    for (line, part) in [
        (
            "-polcy x",
            "unknown option \"polcy\"; did you mean \"policy\"?",
        ),
        ("-frobnicate", "see cri-resmgr --help"),
        ("serve", "unknown command \"serve\""),
        ("stat", "did you mean \"state\"?"),
        ("explain", "CONTAINER"),
        ("-policy", "needs a value"),
        ("state extra", "extra"),
        ("completion tcsh", "bash"),
        (
            "--version=maybe",
            "--version: \"maybe\": expected true or false",
        ),
    ] {
        let error = refused(line);
        assert!(error.contains(part), "{line}: {error}");
        assert!(!error.contains('\n'), "{line}: {error}");
    }
}

#[test]
fn a_command_that_lacks_its_word_says_what_the_word_is() {
    assert_eq!(
        refused("explain"),
        "explain needs <CONTAINER>: Container id, a unique beginning of it, or namespace/pod/container"
    );
}

#[test]
fn options_of_the_predecessor_are_taken_from_its_files_and_have_no_effect() {
    let text = "policy = static\nreserved-resources = cpu=1\nno-rdt\nresctrl-path = /run/resctrl\ncpu-allocator-debug\n\
                trace = production\ntrace-jaeger-agent = jaeger.example.com:6831\ntrace-prometheus-metrics = :9100\n";
    let raw = from_file(text).unwrap();
    let topology = crate::config::resolve::tests::machine(4);
    let machine = Machine {
        topology: &topology,
        cgroup_cpus: &|_| Err(std::io::ErrorKind::NotFound.into()),
    };
    let config = crate::config::resolve(&raw, machine).unwrap();
    let noted = |part: &str, line: &str| {
        let mut notes = config.notes.iter();
        notes.any(|note| note.starts_with(part) && note.ends_with(line))
    };
    assert_eq!(config.notes.len(), 3, "{:?}", config.notes);
    for (option, line) in [
        ("resctrl-path", 4),
        ("cpu-allocator-debug", 5),
        ("trace", 8),
    ] {
        let part = format!("{option} has no effect here [");
        assert!(noted(&part, &format!(":{line}]")), "{:?}", config.notes);
    }
    typed("-trace testing -cpu-allocator-debug -resctrl-path=/x --policy null");
    assert!(refused("-trac=testing").contains("did you mean"));
}

#[test]
fn help_is_as_recorded() {
    let Command::Print(text) = parse(words("-h")).unwrap().command else {
        panic!("no help");
    };
    assert_golden(&text, "src/cli/help.golden.txt");
    let Command::Print(text) = parse(words("state --help")).unwrap().command else {
        panic!("no help of a subcommand");
    };
    assert!(text.contains("--json"), "{text}");
}

#[test]
fn the_list_of_policies_is_as_recorded() {
    let Command::Print(text) = parse(words("--list-policies")).unwrap().command else {
        panic!("no list");
    };
    assert_golden(&text, "src/config/policies.golden.txt");
}

#[test]
fn the_page_on_configuration_is_up_to_date() {
    assert_golden(&help::page(), "../docs/configuration.md");
}

#[test]
fn completions_and_the_manual_page_know_every_option_and_its_words() {
    let scripts = [Shell::Bash, Shell::Zsh, Shell::Fish].map(help::completion);
    let manual = help::manual().unwrap().replace('\\', "");
    for option in options::names(&command()) {
        for script in &scripts {
            assert!(script.contains(option), "{option}: {script}");
        }
        assert!(
            manual.contains(&format!("--{option}")),
            "{option}: {manual}"
        );
    }
    for script in &scripts {
        for word in ["static-pools", "shadow", "never", "check-config"] {
            assert!(script.contains(word), "{word}: {script}");
        }
    }
    for label in scripts[0].split("cmd=\"").skip(1) {
        let label = format!("{})", label.split('"').next().unwrap());
        assert!(scripts[0].contains(&label), "{label} in {}", scripts[0]);
    }
    assert!(manual.contains(".TH cri-resmgr 8"), "{manual}");
    assert!(
        manual.contains("cri-resmgr explain [OPTIONS] <CONTAINER>"),
        "{manual}"
    );
}

#[test]
fn every_option_resolves_from_its_default() {
    let topology = crate::config::resolve::tests::machine(4);
    let machine = Machine {
        topology: &topology,
        cgroup_cpus: &|_| Err(std::io::ErrorKind::NotFound.into()),
    };
    crate::config::resolve(&Raw::default(), machine).unwrap();
}

proptest! {
    #[test]
    fn no_command_line_panics(line in proptest::collection::vec("-{0,2}[a-z-]{0,8}=?\\PC{0,6}", 0..6)) {
        let argv = std::iter::once("cri-resmgr".to_owned()).chain(line).map(OsString::from);
        let _outcome = parse(argv);
    }

    #[test]
    fn no_option_file_panics(text in "(([ \t]?[a-z#=-]{0,12}|policy|logger|dump|pin-memory)( ?= ?\\PC{0,8})?\n?){0,8}") {
        let _outcome = option_file::parse(&command(), &text, Path::new("options"));
    }
}
