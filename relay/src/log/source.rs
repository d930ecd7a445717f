//! Names of log sources, and switching them on and off.

use crate::{suggest, values};
use std::collections::BTreeMap;

/// Module paths (or targets) and the source that stands for them; the longest match counts.
const TABLE: &[(&str, &str)] = &[
    ("cri_resmgr::cli", "config"),
    ("cri_resmgr::config", "config"),
    ("cri_resmgr::control", "config-server"),
    ("cri_resmgr::cri", "cri/relay"),
    ("cri_resmgr::cri::server", "cri/server"),
    ("cri_resmgr::cri::upstream", "cri/client"),
    ("cri_resmgr::cri::own", "cri/client"),
    ("cri_resmgr::daemon", "resource-manager"),
    ("cri_resmgr::discover", "sysfs"),
    ("cri_resmgr::dump", "message"),
    ("cri_resmgr::enforce", "cgroup"),
    ("cri_resmgr::inspect", "resource-manager"),
    ("cri_resmgr::ledger", "cache"),
    ("cri_resmgr::intercept", "policy"),
    ("cri_resmgr::manager", "policy"),
    ("cri_resmgr::metrics", "metrics"),
    ("cri_resmgr::telemetry", "telemetry"),
    ("cri_resmgr", "resource-manager"),
    ("h2", "http2"),
    ("hyper", "http2"),
    ("tonic", "http2"),
];

/// Every source, sorted.
pub const SOURCES: &[&str] = &[
    "cache",
    "cgroup",
    "config",
    "config-server",
    "cpuallocator",
    "cri/client",
    "cri/relay",
    "cri/server",
    "http2",
    "message",
    "metrics",
    "policy",
    "resource-manager",
    "static",
    "static-plus",
    "static-pools",
    "sysfs",
    "telemetry",
];

/// The source of an event's target: the target itself when it is a source's name, else by the table.
#[must_use]
pub fn of_target(target: &str) -> &str {
    if SOURCES.binary_search(&target).is_ok() {
        return target;
    }
    TABLE
        .iter()
        .filter(|(path, _)| {
            target
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        })
        .max_by_key(|(path, _)| path.len())
        .map_or(target, |(_, source)| source)
}

/// Which sources are on: `name`, `name:BOOL`, `on:name`, `off:name`, `*` or `all`, `none`; lists add up,
/// the last word on a source counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switches {
    others: bool,
    named: BTreeMap<String, bool>,
    untouched: bool,
}

impl Switches {
    /// All on, until a list names some: then only those.
    #[must_use]
    pub fn all() -> Self {
        Self {
            others: true,
            named: BTreeMap::new(),
            untouched: true,
        }
    }

    /// All off.
    #[must_use]
    pub fn none() -> Self {
        Self {
            others: false,
            ..Self::all()
        }
    }

    /// Adds a list.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn add(&mut self, list: &str) -> Result<(), String> {
        let mut sticky = true;
        for item in list.split(',').map(str::trim) {
            let (name, on) = match item.split_once(':') {
                None if item.is_empty() => continue,
                None => (item, sticky),
                Some(("on", name)) => {
                    sticky = true;
                    (name, true)
                }
                Some(("off", name)) => {
                    sticky = false;
                    (name, false)
                }
                Some((name, on)) => (
                    name.trim(),
                    values::boolean(on).map_err(|expected| format!("{item:?}: {expected}"))?,
                ),
            };
            // The name users know the policy by is not the source's.
            let name = if name == "stp" { "static-pools" } else { name };
            match name {
                "*" | "all" => self.set_all(on),
                "none" => self.set_all(!on),
                _ if SOURCES.contains(&name) => {
                    if self.untouched && on {
                        self.others = false;
                    }
                    self.named.insert(name.to_owned(), on);
                }
                _ => {
                    let otherwise = " (see --list-loggers)";
                    let hint = suggest::hint(name, SOURCES.iter().copied(), otherwise);
                    return Err(format!("no log source is named {name:?}{hint}"));
                }
            }
            self.untouched = false;
        }
        Ok(())
    }

    fn set_all(&mut self, on: bool) {
        self.others = on;
        self.named.clear();
    }

    /// Whether this source is on. The sources of single policies follow `policy` unless named.
    #[must_use]
    pub fn on(&self, source: &str) -> bool {
        self.named.get(source).copied().unwrap_or_else(|| {
            let parent = if source.starts_with("static") {
                self.named.get("policy").copied()
            } else {
                None
            };
            parent.unwrap_or(self.others)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switches(mut start: Switches, lists: &[&str]) -> Switches {
        for list in lists {
            start.add(list).unwrap();
        }
        start
    }

    #[test]
    fn sources_are_sorted_and_the_table_names_only_them() {
        assert!(SOURCES.is_sorted());
        for (_, source) in TABLE {
            assert!(SOURCES.contains(source), "{source}");
        }
    }

    #[test]
    fn module_paths_become_sources() {
        assert_eq!(of_target("cri_resmgr::cri::forward"), "cri/relay");
        assert_eq!(of_target("cri_resmgr::cri::server::x"), "cri/server");
        assert_eq!(of_target("cri_resmgr"), "resource-manager");
        assert_eq!(of_target("message"), "message");
        assert_eq!(of_target("h2::proto"), "http2");
        assert_eq!(of_target("elsewhere"), "elsewhere");
    }

    #[test]
    fn lists_accumulate_and_the_last_word_counts() {
        let debug = switches(Switches::none(), &["policy", "message,policy:off"]);
        assert!(debug.on("message") && !debug.on("policy") && !debug.on("cache"));
        let debug = switches(Switches::none(), &["*", "cache:false"]);
        assert!(debug.on("message") && !debug.on("cache"));
        assert!(!switches(Switches::none(), &["all", "none"]).on("policy"));
    }

    #[test]
    fn naming_info_sources_shows_only_those_and_excluding_one_keeps_the_rest() {
        let info = switches(Switches::all(), &["policy"]);
        assert!(info.on("policy") && !info.on("cache"));
        let info = switches(Switches::all(), &["message:off"]);
        assert!(!info.on("message") && info.on("cache"));
    }

    #[test]
    fn debugging_policy_covers_the_active_one_and_stp_is_known() {
        assert!(switches(Switches::none(), &["policy"]).on("static-plus"));
        assert!(switches(Switches::none(), &["stp"]).on("static-pools"));
        assert!(switches(Switches::none(), &["on:policy,off:cache"]).on("policy"));
    }

    #[test]
    fn unknown_sources_are_refused_with_the_nearest() {
        let error = Switches::none().add("polcy").unwrap_err();
        assert!(error.contains("did you mean \"policy\""), "{error}");
        assert!(Switches::none().add("policy:maybe").is_err());
    }
}
