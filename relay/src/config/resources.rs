//! Resource lists: `--available-resources` and `--reserved-resources`.
//!
//! ```text
//! LIST   := [ ELEMENT { "," ELEMENT } ]
//! ELEMENT:= DOMAIN "=" VALUE
//! DOMAIN := "cpu" | "memory" | "hugepages" | "cache" | "memory-bandwidth"      any capitals
//! VALUE of cpu :=
//!     "cpuset:" CPULIST | "#" CPULIST | a CPULIST with "-" or ","    these CPUs:   0-3,8
//!     "quantity:" QUANTITY | QUANTITY                                so many:      2, 1500m
//!     "cgroup:" DIR | "/" DIR                                        as that cgroup's cpuset
//! ```
//!
//! Only a comma with `DOMAIN=` behind it separates elements, so a CPU list may hold commas.

use crate::suggest;
use resmgr_policy::Quantity;
use resmgr_topology::{CpuSet, MilliCpu};
use std::path::PathBuf;

/// An amount of CPU as typed.
#[expect(clippy::large_enum_variant, reason = "two values exist at a time")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CpuAmount {
    /// These.
    Set(CpuSet),
    /// So many.
    Quantity(MilliCpu),
    /// Those of a cgroup: a path under the cgroup mount (or absolute in it).
    Cgroup(PathBuf),
}

/// Resource domains; only `cpu` has an effect.
pub const DOMAINS: [&str; 5] = ["cpu", "memory", "hugepages", "cache", "memory-bandwidth"];

/// A parsed list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// The CPU part; the last one given counts.
    pub cpu: Option<CpuAmount>,
    /// Domains given that have no effect.
    pub without_effect: Vec<&'static str>,
}

impl Resources {
    /// Adds a list.
    ///
    /// # Errors
    /// What is wrong with which element, and what would be right.
    pub fn add(&mut self, list: &str) -> Result<(), String> {
        for element in elements(list) {
            let element = element.trim();
            let Some((typed, value)) = element.split_once('=') else {
                return Err(format!(
                    "{element:?}: expected DOMAIN=VALUE such as cpu=1000m (domains: {})",
                    DOMAINS.join(", ")
                ));
            };
            let typed = typed.trim().to_ascii_lowercase();
            let Some(domain) = DOMAINS.into_iter().find(|domain| *domain == typed) else {
                let hint = suggest::hint(&typed, DOMAINS, "");
                return Err(format!("{typed:?} is not a resource domain{hint}"));
            };
            if domain == "cpu" {
                self.cpu = Some(cpu(value)?);
                continue;
            }
            if domain == "memory" {
                quantity(value).map_err(|error| format!("memory: {error}"))?;
            }
            if !self.without_effect.contains(&domain) {
                self.without_effect.push(domain);
            }
        }
        Ok(())
    }
}

/// Splits at commas that have `DOMAIN=` (or any `word=`) behind them.
fn elements(list: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(list).filter(|list| !list.trim().is_empty());
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let cut = text.match_indices(',').find(|(at, _)| {
            text.get(at + 1..)
                .unwrap_or_default()
                .split_once('=')
                .is_some_and(|(word, _)| {
                    let word = word.trim();
                    !word.is_empty()
                        && word.starts_with(|letter: char| letter.is_ascii_alphabetic())
                        && word
                            .chars()
                            .all(|letter| letter.is_ascii_alphabetic() || letter == '-')
                })
        });
        match cut {
            Some((at, _)) => {
                let (element, tail) = text.split_at(at);
                rest = tail.get(1..);
                Some(element)
            }
            None => Some(text),
        }
    })
}

/// An amount of CPU.
///
/// # Errors
/// What is wrong, and what would be right.
pub fn cpu(value: &str) -> Result<CpuAmount, String> {
    let value = value.trim();
    if value.is_empty() {
        return Err(
            "cpu: empty; expected an amount (2, 1500m), a CPU list (cpuset:0-3,8) or a cgroup (/DIR)"
                .to_owned(),
        );
    }
    let list = |text: &str| {
        let set: CpuSet = text.parse().map_err(|error| format!("cpu: {error}"))?;
        if set.is_empty() {
            return Err("cpu: empty CPU list".to_owned());
        }
        Ok(CpuAmount::Set(set))
    };
    let amount = |text: &str| {
        let amount = quantity(text).map_err(|error| format!("cpu: {error}"))?;
        match u32::try_from(amount.millis()) {
            Ok(0) => Err("cpu: must be more than 0".to_owned()),
            Ok(milli) => Ok(CpuAmount::Quantity(MilliCpu(milli))),
            Err(_too_large) => Err("cpu: more CPUs than any machine has".to_owned()),
        }
    };
    let cgroup = |dir: &str| {
        let path = PathBuf::from(dir);
        let climbs = path
            .components()
            .any(|part| part == std::path::Component::ParentDir);
        if dir.is_empty() || climbs {
            return Err(format!("cpu: {dir:?} is not the path of a cgroup"));
        }
        Ok(CpuAmount::Cgroup(path))
    };
    if let Some(text) = value.strip_prefix("cpuset:") {
        return list(text);
    }
    if let Some(text) = value.strip_prefix("quantity:") {
        return amount(text);
    }
    if let Some(text) = value.strip_prefix("cgroup:") {
        return cgroup(text.trim());
    }
    if let Some(text) = value.strip_prefix('#') {
        return list(text);
    }
    if value.starts_with('/') {
        return cgroup(value);
    }
    let list_like = value
        .chars()
        .all(|letter| letter.is_ascii_digit() || letter == ' ' || letter == '-' || letter == ',');
    if list_like
        && value.starts_with(|letter: char| letter.is_ascii_digit())
        && value.contains(['-', ','])
    {
        return list(value);
    }
    if value.contains(',') {
        return list(value);
    }
    amount(value)
}

/// A Kubernetes quantity that is not negative.
fn quantity(text: &str) -> Result<Quantity, String> {
    let quantity: Quantity = text.trim().parse().map_err(|_not_a_quantity| {
        "expected a Kubernetes quantity such as 2, 1500m or 1.5".to_owned()
    })?;
    if quantity < Quantity::default() {
        return Err("must not be negative".to_owned());
    }
    Ok(quantity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(list: &str) -> Result<Option<CpuAmount>, String> {
        let mut resources = Resources::default();
        resources.add(list)?;
        Ok(resources.cpu)
    }

    fn set(list: &str) -> Result<Option<CpuAmount>, String> {
        Ok(Some(CpuAmount::Set(list.parse().unwrap())))
    }

    #[test]
    fn cpu_lists_may_hold_commas() {
        assert_eq!(parsed("cpu=cpuset:1-3,5"), set("1-3,5"));
        assert_eq!(parsed("cpu=1-3,5"), set("1-3,5"));
        assert_eq!(parsed("cpu=#0-3"), set("0-3"));
        assert_eq!(parsed("cpu=#3"), set("3"));
        assert_eq!(parsed("cpu=1,2,memory=1Gi"), set("1-2"));
        assert_eq!(parsed("memory=1Gi, CPU = 1-3,5"), set("1-3,5"));
    }

    #[test]
    fn amounts_and_cgroups_are_told_from_lists() {
        assert_eq!(
            parsed("cpu=1000m"),
            Ok(Some(CpuAmount::Quantity(MilliCpu(1000))))
        );
        assert_eq!(
            parsed("cpu=3"),
            Ok(Some(CpuAmount::Quantity(MilliCpu(3000))))
        );
        assert_eq!(
            parsed("cpu=0.0001"),
            Ok(Some(CpuAmount::Quantity(MilliCpu(1))))
        );
        assert_eq!(
            parsed("cpu=/sys-tem.slice,x"),
            Ok(Some(CpuAmount::Cgroup("/sys-tem.slice,x".into())))
        );
        assert_eq!(
            parsed("cpu=cgroup:kube-pods"),
            Ok(Some(CpuAmount::Cgroup("kube-pods".into())))
        );
        assert_eq!(parsed(""), Ok(None));
    }

    #[test]
    fn mistakes_are_refused_with_what_would_be_right() {
        for (list, part) in [
            ("cpu=", "empty"),
            ("cpu", "expected DOMAIN=VALUE"),
            ("cpus=1", "did you mean \"cpu\""),
            ("cpu=-", "expected a Kubernetes quantity"),
            ("cpu=3-1", "runs backwards"),
            ("cpu=cpuset:", "empty CPU list"),
            ("cpu=0", "more than 0"),
            ("cpu=quantity:-1", "must not be negative"),
            ("cpu=1E", "more CPUs than any machine has"),
            ("cpu=1,x", "not a CPU number"),
            ("cpu=1,", "not a CPU number"),
            ("cpu=/../x", "not the path of a cgroup"),
            ("memory=lots", "memory: expected"),
            ("cpu=1-3,foo=1", "not a resource domain"),
        ] {
            let error = parsed(list).unwrap_err();
            assert!(error.contains(part), "{list}: {error}");
        }
    }
}
