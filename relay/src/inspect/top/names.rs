//! Names cut in the middle to a width, so that no two of them look alike.

use super::fit::{beginning, beginning_and_end, printable};
use std::collections::{BTreeMap, BTreeSet};

/// The names, each in at most `width` characters. Names that differ stay different, where `width` leaves room for it (as
/// from eight characters).
///
/// A container is `namespace/pod/container`. Where that is too long and the pod has no other container among the names, the
/// container goes first.
pub(super) fn shortened<'a>(
    names: impl IntoIterator<Item = &'a str>,
    width: usize,
) -> BTreeMap<&'a str, String> {
    let names: BTreeSet<_> = names.into_iter().collect();
    let mut containers = BTreeMap::<_, usize>::new();
    for (pod, _container) in names.iter().filter_map(|name| name.rsplit_once('/')) {
        *containers.entry(pod).or_default() += 1;
    }
    let essential = |name: &'a str| match name.rsplit_once('/') {
        Some((pod, _)) if pod.contains('/') && name.len() > width && containers[pod] == 1 => pod,
        _ => name,
    };
    distinct(names.iter().map(|name| (*name, essential(name))), width)
}

/// The sources of a wait, each in at most `width` characters. Where the whole is too long it is the pod, or the last part of
/// a host's cgroup.
pub(super) fn shortened_sources<'a>(
    names: impl IntoIterator<Item = &'a str>,
    width: usize,
) -> BTreeMap<&'a str, String> {
    let names: BTreeSet<_> = names.into_iter().collect();
    let essential = |name: &'a str| {
        let parts: Vec<_> = name.split('/').collect();
        match *parts {
            _ if name.len() <= width => name,
            [_namespace, pod, _container] => pod,
            [.., last] => last,
            [] => name,
        }
    };
    distinct(names.iter().map(|name| (*name, essential(name))), width)
}

/// For each name what is essential of it, cut to the width; those that are cut alike are numbered.
fn distinct<'a>(
    names: impl Iterator<Item = (&'a str, &'a str)>,
    width: usize,
) -> BTreeMap<&'a str, String> {
    let mut alike: BTreeMap<String, Vec<(&str, &str)>> = BTreeMap::new();
    for (name, essential) in names {
        let cell = cut(essential, width);
        alike.entry(cell).or_default().push((name, essential));
    }
    let mut taken: BTreeSet<_> = alike.keys().cloned().collect();
    let mut short = BTreeMap::new();
    for (cell, names) in alike {
        let [(name, _)] = *names else {
            for (name, essential) in names {
                let numbered = (1..).map(|number| {
                    let number = format!("~{number}");
                    cut(essential, width.saturating_sub(number.len())) + &number
                });
                // Where the width has no room for numbers, the last resort is the same cell twice.
                let free = numbered
                    .take_while(|cell| cell.chars().count() <= width)
                    .find(|cell| !taken.contains(cell));
                let cell = free.unwrap_or_else(|| cell.clone());
                taken.insert(cell.clone());
                short.insert(name, cell);
            }
            continue;
        };
        short.insert(name, cell);
    }
    short
}

/// A name in at most `width` characters. The pod, or the last part of another path, gets three times as much of it as each
/// other part, and keeps its beginning and its end, because pods of a deployment differ at the end.
fn cut(name: &str, width: usize) -> String {
    let name = printable(name);
    let parts: Vec<_> = name.split('/').collect();
    let telling = parts.len().min(2) - 1;
    let telling = if parts.len() > 3 {
        parts.len() - 1
    } else {
        telling
    };
    let mut widths: Vec<_> = parts.iter().map(|part| part.len()).collect();
    let mut over = name.len().saturating_sub(width);
    if over > 0 && width < 3 * parts.len() {
        return beginning_and_end(&name, width);
    }
    while over > 0 {
        let weighed = widths.iter_mut().enumerate().max_by_key(|(index, width)| {
            let weight = if *index == telling { 1 } else { 3 };
            **width * weight
        });
        let Some((_, widest)) = weighed else { break };
        *widest -= 1;
        over -= 1;
    }
    let parts = parts.iter().zip(widths).enumerate();
    let cut: Vec<_> = parts
        .map(|(index, (part, width))| match index == telling {
            true => beginning_and_end(part, width),
            false => beginning(part, width),
        })
        .collect();
    cut.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pods_keep_most_and_their_end() {
        let name = "production-payments/checkout-service-7d9f8b6c5d-x2k4q/checkout-service";
        assert_eq!(cut(name, 100), name);
        let narrow = [40, 20, 5].map(|width| cut(name, width));
        assert_eq!(
            narrow,
            [
                "product…/checkout-se…b6c5d-x2k4q/checko…",
                "pro…/check…x2k4q/ch…",
                "pr…ce"
            ]
        );
        assert_eq!(
            cut("system.slice/chronyd.service", 20),
            "syst…/chrony…service"
        );
        assert_eq!(cut("a/b/c/d/e", 3), "a…e");
        assert_eq!(cut("späße\n", 6), "sp??e?");
    }

    #[test]
    fn a_container_is_named_where_its_pod_has_others() {
        let names = [
            "ns/database-0/main",
            "ns/database-0/logs",
            "ns/database-1/main",
        ];
        let short: Vec<_> = shortened(names, 14).into_values().collect();
        assert_eq!(short, ["ns/dat…se-0/l…", "ns/dat…se-0/m…", "ns/database-1"]);
    }

    #[test]
    fn names_that_are_cut_alike_are_numbered() {
        let names = [
            "ns/database-first-primary-0/c",
            "ns/database-other-primary-0/c",
        ];
        let short: Vec<_> = shortened_sources(names, 8).into_values().collect();
        assert_eq!(short, ["da…y-0~1", "da…y-0~2"]);
        let names = ["system.slice/chronyd.service", "(outside containers)"];
        let short: Vec<_> = shortened_sources(names, 12).into_values().collect();
        assert_eq!(short, ["(outs…iners)", "chron…ervice"]);
    }

    proptest! {
        #[test]
        fn no_cell_is_too_wide_and_no_two_are_equal(
            names in prop::collection::btree_set("[a-c]{1,3}/[ab/é]{0,30}-[a-c]{1,5}/[ab]{1,20}", 1..60),
            width in 8usize..60,
        ) {
            let names = || names.iter().map(String::as_str);
            for short in [shortened(names(), width), shortened_sources(names(), width)] {
                prop_assert_eq!(short.len(), names().count());
                let cells: BTreeSet<_> = short.values().collect();
                prop_assert_eq!(cells.len(), short.len(), "{:?}", short);
                prop_assert!(cells.iter().all(|cell| cell.chars().count() <= width));
            }
        }
    }
}
