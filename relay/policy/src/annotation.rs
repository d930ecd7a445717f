//! Pod annotations that concern placement.
//!
//! Both styles of key are read: `cri-resource-manager.intel.com/KEY` and, container before pod,
//! `KEY.cri-resource-manager.intel.com/container.NAME`, `…/pod`, or without a suffix.

use crate::request::Request;

const DOMAIN: &str = "cri-resource-manager.intel.com";

/// Whether a pod annotation with this key may concern placement: no others need be kept.
#[must_use]
pub fn concerns_placement(key: &str) -> bool {
    let name = key.split('/').next().unwrap_or_default();
    name == DOMAIN
        || name
            .strip_suffix(DOMAIN)
            .is_some_and(|rest| rest.ends_with('.'))
}

/// The effective value of an annotation for this container.
#[must_use]
pub fn effective<'a>(request: &'a Request, key: &str) -> Option<&'a str> {
    let all = request.annotations.iter();
    let ranked = all.filter_map(|(full, value)| Some((rank(full, key, &request.name)?, value)));
    let first = ranked.min_by_key(|(rank, _value)| *rank);
    first.map(|(_rank, value)| value.as_str())
}

/// Which of the forms of `key` for a container the full key of an annotation is; the smallest counts.
fn rank(full: &str, key: &str, container: &str) -> Option<u8> {
    let (name, suffix) = match full.split_once('/') {
        Some((name, suffix)) => (name, Some(suffix)),
        None => (full, None),
    };
    let rest = name.strip_suffix(DOMAIN)?;
    if rest.is_empty() {
        return (suffix == Some(key)).then_some(3);
    }
    if rest.strip_suffix('.') != Some(key) {
        return None;
    }
    match suffix {
        None => Some(2),
        Some("pod") => Some(1),
        Some(suffix) => (suffix.strip_prefix("container.") == Some(container)).then_some(0),
    }
}

/// A boolean annotation; `None` when absent, `Some(None)` when it is not a boolean.
fn boolean(request: &Request, key: &str) -> Option<Option<bool>> {
    effective(request, key).map(|value| match value.trim() {
        "true" | "True" | "TRUE" | "t" | "T" | "1" => Some(true),
        "false" | "False" | "FALSE" | "f" | "F" | "0" => Some(false),
        _ => None,
    })
}

/// `prefer-isolated-cpus`. A value that is not a boolean is an opt-out: kernel-isolated CPUs are not
/// load-balanced, and no container should land there by a typing error.
pub(crate) fn prefer_isolated(request: &Request) -> Option<bool> {
    boolean(request, "prefer-isolated-cpus").map(|value| value.unwrap_or(false))
}

/// Whether a pod lets what runs be moved: `None` when it says nothing. A value that is not a boolean
/// opts out.
#[must_use]
pub fn wants_rebalance(request: &Request) -> Option<bool> {
    boolean(request, "rebalance").map(|value| value.unwrap_or(false))
}

/// Whether a pod lets its exclusive CPUs be exchanged for others while it runs. Only a plain yes counts,
/// and `rebalance: "false"` beats it.
#[must_use]
pub fn wants_exclusive_moved(request: &Request) -> bool {
    boolean(request, "rebalance-exclusive") == Some(Some(true))
        && wants_rebalance(request) != Some(false)
}

/// Whether a pod asks for `/.cri-resmgr/resources.sh` in a container. Only a plain yes counts.
#[must_use]
pub fn wants_resources_file(request: &Request) -> bool {
    boolean(request, "resources-file") == Some(Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containers_own_key_comes_before_the_pods_and_the_old_style_last() {
        let at = |full: &str| rank(full, "rebalance", "db");
        let domain = |rest: &str| alloc::format!("rebalance.{DOMAIN}{rest}");
        assert_eq!(at(&domain("/container.db")), Some(0));
        assert_eq!(at(&domain("/pod")), Some(1));
        assert_eq!(at(&domain("")), Some(2));
        assert_eq!(at(&alloc::format!("{DOMAIN}/rebalance")), Some(3));
        for unrelated in [
            domain("/container.web"),
            domain("/container.db2"),
            domain("/"),
            alloc::format!("x{}", domain("/pod")),
            alloc::format!("rebalance-exclusive.{DOMAIN}/pod"),
            alloc::format!("{DOMAIN}/rebalance-exclusive"),
            DOMAIN.into(),
            "rebalance".into(),
        ] {
            assert_eq!(at(&unrelated), None, "{unrelated}");
        }
    }
}
