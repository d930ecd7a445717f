//! Texts made from the definitions: version, the list of loggers, the page `docs/configuration.md`, shell
//! completions and the manual page.

use super::command::command;
use crate::config::options;
use clap::{Arg, ArgAction};
use clap_complete::Shell;

/// What this program was built of: version, commit (of what `cargo xtask dist` built), digest of the BPF object,
/// features.
#[must_use]
pub fn build() -> [(&'static str, String); 4] {
    let features = [
        ("ebpf", cfg!(feature = "ebpf")),
        ("hwloc", cfg!(feature = "hwloc")),
        ("faults", cfg!(feature = "faults")),
        ("bench", cfg!(feature = "bench")),
    ];
    let features = features.into_iter().filter(|(_name, on)| *on);
    let features: Vec<_> = features.map(|(name, _on)| name).collect();
    let commit = option_env!("CRI_RESMGR_COMMIT").unwrap_or("not recorded");
    let bpf_object = option_env!("CRI_RESMGR_BPF_SHA256")
        .map_or("none".to_owned(), |digest| format!("sha256:{digest}"));
    [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("commit", commit.to_owned()),
        ("bpf_object", bpf_object),
        ("features", features.join(" ")),
    ]
}

/// What `--version` prints.
#[must_use]
pub fn version() -> String {
    let [version, commit, bpf_object, features] = build().map(|(_name, value)| value);
    format!(
        "cri-resmgr {version}\ncommit: {commit}\nBPF object: {bpf_object}\nfeatures: {features}\n"
    )
}

/// What `--list-loggers` prints.
#[must_use]
pub fn loggers() -> String {
    let mut text =
        "Available loggers:\n  fmt: lines for people, on standard error\n  json: one JSON \
                    object a line, on standard error\nSources:\n"
            .to_owned();
    for source in crate::log::source::names() {
        text += &format!("  {source}\n");
    }
    text
}

/// The page `docs/configuration.md`.
#[must_use]
pub fn page() -> String {
    let mut page = include_str!("configuration_head.md").to_owned();
    let mut heading = None;
    let command = command();
    for option in options::of(&command) {
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

/// The completions of a shell, as a script for it.
#[must_use]
pub fn completion(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "cri-resmgr", &mut script);
    // For a name with a dash, clap_complete 4.6 gives bash two spellings of each command's label.
    String::from_utf8_lossy(&script).replace("cri__subcmd__resmgr", "cri__resmgr")
}

/// The manual page in roff, of section 8: commands for the administrator.
///
/// # Errors
/// When it cannot be rendered.
pub fn manual() -> std::io::Result<String> {
    let mut command = command().version(env!("CARGO_PKG_VERSION"));
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .section("8")
        .render(&mut page)?;
    let mut page = String::from_utf8_lossy(&page).into_owned();
    // clap refers to a page for each command; this is one page for all.
    for command in command.get_subcommands_mut() {
        let reference = format!("cri-resmgr-{}(8)", command.get_name()).replace('-', "\\-");
        let usage = command.render_usage().to_string().replace('-', "\\-");
        page = page.replace(&reference, usage.trim_start_matches("Usage: "));
    }
    Ok(page)
}
