//! Texts: version, the list of loggers, and the page `docs/configuration.md`.

use crate::config::options;
use clap::{Arg, ArgAction};

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

/// The page `docs/configuration.md`.
#[must_use]
pub fn page() -> String {
    let mut page = include_str!("configuration_head.md").to_owned();
    let mut heading = None;
    for option in super::command().get_arguments() {
        if matches!(option.get_action(), ArgAction::Help) {
            continue;
        }
        if option.get_help_heading() != heading {
            heading = option.get_help_heading();
            page += &format!(
                "\n### {}\n\n| option | default | meaning |\n|---|---|---|\n",
                heading.unwrap_or_default()
            );
        }
        page += &row(option);
    }
    page + include_str!("configuration_tail.md")
}

fn row(option: &Arg) -> String {
    let name = options::name(option);
    let default: String = match option.is_hide_default_value_set() {
        true => String::new(),
        false => {
            let defaults = option.get_default_values().iter();
            defaults
                .map(|text| format!("`{}`", text.display()))
                .collect()
        }
    };
    let value = match options::is_switch(option) {
        false => {
            let names = option.get_value_names().unwrap_or_default();
            format!(" {}", names.join(" "))
        }
        // An action: there is nothing to switch off.
        true if default.is_empty() => String::new(),
        true => "[=BOOL]".to_owned(),
    };
    let repeat = match option.get_action() {
        ArgAction::Append => " May be repeated.",
        _ => "",
    };
    let help = option.get_help().map(ToString::to_string);
    format!(
        "| `--{name}{}` | {default} | {}.{repeat} |\n",
        value.replace('|', "\\|"),
        help.unwrap_or_default().replace('|', "\\|"),
    )
}
