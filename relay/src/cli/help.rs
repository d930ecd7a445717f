//! Texts: help, version, the list of loggers, and the page `docs/configuration.md`.

use super::options::{self, Group, Kind, OPTIONS};

pub(super) const EXAMPLES: &str = "\
Switches take an optional value: --pin-memory, --pin-memory=false. One dash or two, a space or `=`
before the value: all the same.

Examples:
  Watch what the kubelet asks of containerd, changing nothing:
    cri-resmgr --dump 'reset,full:.*' --dump-file /tmp/cri.dump
  Give guaranteed containers CPUs of their own, one CPU kept for the system:
    cri-resmgr --policy static --reserved-resources cpu=1000m
  Ask a running relay where containers sit, and why:
    cri-resmgr state
    cri-resmgr explain default/my-pod/my-container

Exit codes: 0 ended as asked, 1 failed while starting or running, 2 wrong usage or configuration.";

/// What `--help` prints.
#[must_use]
pub fn text() -> String {
    options::command().render_help().to_string()
}

/// What `--version` prints.
#[must_use]
pub fn version() -> String {
    format!("cri-resmgr {}\n", env!("CARGO_PKG_VERSION"))
}

/// What `--list-loggers` prints.
#[must_use]
pub fn loggers() -> String {
    let mut text =
        "Available loggers:\n  fmt: lines for people, on standard error\n  json: one JSON \
                    object a line, on standard error\nSources:\n"
            .to_owned();
    for source in crate::log::source::SOURCES {
        text += &format!("  {source}\n");
    }
    text
}

/// The page `docs/configuration.md`, made from the table of options.
#[must_use]
pub fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for group in Group::ALL {
        page += &format!(
            "\n### {}\n\n| option | default | meaning |\n|---|---|---|\n",
            group.heading()
        );
        for option in OPTIONS.iter().filter(|option| option.group == group) {
            let value = match option.kind {
                Kind::Switch => "[=BOOL]".to_owned(),
                Kind::Ask => String::new(),
                Kind::One | Kind::Many => format!(" {}", option.value),
            };
            let default = match (option.kind, option.default) {
                (Kind::Ask, _) | (_, "") => String::new(),
                (_, default) => format!("`{default}`"),
            };
            let repeat = if option.kind == Kind::Many {
                " May be repeated."
            } else {
                ""
            };
            page += &format!(
                "| `--{}{}` | {default} | {}.{repeat} |\n",
                option.name,
                value.replace('|', "\\|"),
                option.help.replace('|', "\\|"),
            );
        }
    }
    page + include_str!("configuration_tail.md")
}

const INTRODUCTION: &str = include_str!("configuration_head.md");
