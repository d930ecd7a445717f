//! Pod annotations that concern placement.
//!
//! Both styles of key are read: `cri-resource-manager.intel.com/KEY` and, container before pod,
//! `KEY.cri-resource-manager.intel.com/container.NAME`, `…/pod`, or without a suffix.

use crate::request::Request;
use alloc::format;

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
    let keys = [
        format!("{key}.{DOMAIN}/container.{}", request.name),
        format!("{key}.{DOMAIN}/pod"),
        format!("{key}.{DOMAIN}"),
        format!("{DOMAIN}/{key}"),
    ];
    let mut found = keys.iter().filter_map(|key| request.annotations.get(key));
    found.next().map(|value| value.as_str())
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
/// load-balanced, and nobody should land there by a typing error.
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
