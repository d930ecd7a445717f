//! Names of log sources, and switching them on and off.

use crate::{suggest, values};
use std::{collections::BTreeMap, fmt};

/// Every source, sorted, with the modules (of this crate or of libraries) whose messages are its own; the longest
/// match counts. Those without modules are named by the message.
const SOURCES: &[(&str, &[&str])] = &[
    ("cache", &["cri_resmgr::ledger"]),
    ("cgroup", &["cri_resmgr::enforce"]),
    (
        "config",
        &[
            "cri_resmgr::daemon::configure",
            "cri_resmgr::daemon::last_good",
        ],
    ),
    ("config-server", &["cri_resmgr::control"]),
    ("cri/client", &["cri_resmgr::cri::client"]),
    ("cri/relay", &["cri_resmgr::cri"]),
    ("cri/server", &["cri_resmgr::cri::server"]),
    ("http2", &["h2", "hyper", "tonic"]),
    (LIBRARIES, &[]),
    ("message", &["cri_resmgr::dump"]),
    ("metrics", &[]),
    ("policy", &["cri_resmgr::intercept", "cri_resmgr::manager"]),
    ("resource-manager", &["cri_resmgr"]),
    (STATIC, &[]),
    (STATIC_PLUS, &[]),
    (STATIC_POOLS, &[]),
    ("sysfs", &["cri_resmgr::discover"]),
    ("telemetry", &["cri_resmgr::telemetry"]),
];

/// What libraries say; in a line the place of the source has the library's own name.
const LIBRARIES: &str = "libraries";
const STATIC: &str = "static";
const STATIC_PLUS: &str = "static-plus";
const STATIC_POOLS: &str = "static-pools";

/// Sources of earlier versions and of the predecessor: still accepted, without effect.
const RETIRED: &[&str] = &["cpuallocator"];

/// The names of all sources, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().map(|(name, _)| *name)
}

fn is_source(name: &str) -> bool {
    SOURCES
        .binary_search_by_key(&name, |(name, _)| name)
        .is_ok()
}

/// The source of an event's target: the target itself when it is a source's name, else by the modules.
#[must_use]
pub fn of_target(target: &str) -> &str {
    if is_source(target) {
        return target;
    }
    let within = |module: &str| {
        let rest = target.strip_prefix(module);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    SOURCES
        .iter()
        .flat_map(|(source, modules)| modules.iter().map(move |module| (module, source)))
        .filter(|(module, _)| within(module))
        .max_by_key(|(module, _)| module.len())
        .map_or(target, |(_, source)| source)
}

/// Whether a source is part of libraries, and is debugged only when named.
#[must_use]
pub fn is_library(source: &str) -> bool {
    source == "http2" || source == LIBRARIES || !is_source(source)
}

/// Logs for debugging, under the policy's own source, why it placed a container as it did.
pub fn placement(policy: &str, container: &dyn fmt::Display, why: &str) {
    match policy {
        STATIC => tracing::debug!(target: STATIC, "{container}: {why}"),
        STATIC_PLUS => tracing::debug!(target: STATIC_PLUS, "{container}: {why}"),
        STATIC_POOLS => tracing::debug!(target: STATIC_POOLS, "{container}: {why}"),
        _ => tracing::debug!(target: "policy", "{container}: {why}"),
    }
}

/// Which sources are on: `name`, `name:BOOL`, `on:name`, `off:name`, `*` or `all`, `none`; lists add up,
/// the last word on a source counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switches {
    /// Whether sources without a name in a list are on.
    unnamed: bool,
    named: BTreeMap<String, bool>,
    untouched: bool,
}

impl Switches {
    /// All on, until a list names some: then only those.
    #[must_use]
    pub fn all() -> Self {
        Self {
            unnamed: true,
            named: BTreeMap::new(),
            untouched: true,
        }
    }

    /// All off.
    #[must_use]
    pub fn none() -> Self {
        Self {
            unnamed: false,
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
            let name = if name == "stp" { STATIC_POOLS } else { name };
            match name {
                "*" | "all" => self.set_all(on),
                "none" => self.set_all(!on),
                _ if is_source(name) || RETIRED.contains(&name) => {
                    if self.untouched && on {
                        self.unnamed = false;
                    }
                    self.named.insert(name.to_owned(), on);
                }
                _ => {
                    let otherwise = " (see --list-loggers)";
                    let hint = suggest::hint(name, names(), otherwise);
                    return Err(format!("no log source is named {name:?}{hint}"));
                }
            }
            self.untouched = false;
        }
        Ok(())
    }

    fn set_all(&mut self, on: bool) {
        self.unnamed = on;
        self.named.clear();
    }

    /// Sources that a list named although nothing is logged under them any more.
    pub fn without_effect(&self) -> impl Iterator<Item = &str> {
        let named = self.named.keys().map(String::as_str);
        named.filter(|name| RETIRED.contains(name))
    }

    /// Whether this source is on by its name. Libraries without a source of their own are [`LIBRARIES`].
    #[must_use]
    pub fn names(&self, source: &str) -> bool {
        let source = if is_source(source) { source } else { LIBRARIES };
        self.named.get(source).copied().unwrap_or_default()
    }

    /// Whether this source is on. The sources of single policies follow `policy` unless named, libraries without a
    /// source of their own [`LIBRARIES`].
    #[must_use]
    pub fn on(&self, source: &str) -> bool {
        let source = if is_source(source) { source } else { LIBRARIES };
        self.named.get(source).copied().unwrap_or_else(|| {
            let of_policy = [STATIC, STATIC_PLUS, STATIC_POOLS].contains(&source);
            let parent = of_policy.then(|| self.named.get("policy")).flatten();
            parent.copied().unwrap_or(self.unnamed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Level, LogSettings};
    use std::{collections::BTreeSet, path::Path};

    fn switches(mut start: Switches, lists: &[&str]) -> Switches {
        for list in lists {
            start.add(list).unwrap();
        }
        start
    }

    /// Every source file of this crate without its tests: its module's path and its text.
    fn modules(dir: &Path, path: &str, found: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let file = entry.unwrap().path();
            let name = file.file_stem().unwrap().to_str().unwrap();
            let path = match name {
                "lib" => path.to_owned(),
                _ => format!("{path}::{name}"),
            };
            if file.is_dir() {
                modules(&file, &path, found);
            } else if file.extension().is_some_and(|end| end == "rs") && name != "tests" {
                let text = std::fs::read_to_string(&file).unwrap();
                let product = text.split("#[cfg(test)]\nmod tests").next().unwrap();
                found.push((path, product.to_owned()));
            }
        }
    }

    #[test]
    fn something_is_logged_to_every_source_that_is_listed_and_to_no_other() {
        assert!(names().is_sorted());
        let mut found = Vec::new();
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        modules(&src, "cri_resmgr", &mut found);
        let event = regex::Regex::new(
            r#"tracing::(debug|info|warn|error)!\(\s*(target: ("[^"]+"|[A-Z_]+))?"#,
        );
        let event = event.unwrap();
        let constants = [STATIC, STATIC_PLUS, STATIC_POOLS]
            .map(|name| (name.to_uppercase().replace('-', "_"), name));
        let mut used = BTreeSet::new();
        for (module, text) in &found {
            for event in event.captures_iter(text) {
                let target = event.get(3).map_or(module.as_str(), |named| named.as_str());
                let constant = constants.iter().find(|(name, _)| name == target);
                let target = constant.map_or(target.trim_matches('"'), |(_, name)| name);
                used.insert(of_target(target).to_owned());
            }
        }
        // Of other crates only that they are used is known.
        used.extend(["http2", LIBRARIES].map(str::to_owned));
        assert_eq!(used, names().map(str::to_owned).collect());
        for module in SOURCES.iter().flat_map(|(_, modules)| *modules) {
            let known = found.iter().any(|(path, _)| path == module);
            assert!(known || !module.starts_with("cri_resmgr"), "{module}");
        }
    }

    #[test]
    fn retired_sources_are_accepted_and_named() {
        let debug = switches(Switches::none(), &["policy,cpuallocator"]);
        assert!(debug.on("policy"));
        assert_eq!(debug.without_effect().collect::<Vec<_>>(), ["cpuallocator"]);
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
    fn libraries_are_debugged_only_when_named() {
        let settings = |list| LogSettings {
            debug: switches(Switches::none(), &[list]),
            ..LogSettings::default()
        };
        let shows = |list, target| settings(list).shows(Level::Debug, of_target(target));
        for ours in [
            "cri_resmgr::manager",
            "cri_resmgr::enforce::files",
            "static",
        ] {
            assert!(shows("*", ours), "{ours}");
        }
        for library in ["h2::proto", "aya::maps", "rustls"] {
            assert!(!shows("*", library), "{library}");
            assert!(shows("*,http2,libraries", library), "{library}");
        }
        assert!(!shows("libraries", "h2::proto") && !shows("libraries", "cri_resmgr::cri"));
        assert!(LogSettings::default().shows(Level::Info, "aya::maps"));
    }

    #[test]
    fn unknown_sources_are_refused_with_the_nearest() {
        let error = Switches::none().add("polcy").unwrap_err();
        assert!(error.contains("did you mean \"policy\""), "{error}");
        assert!(Switches::none().add("policy:maybe").is_err());
    }
}
