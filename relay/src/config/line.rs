//! On which line of a YAML text a key stands: serde_yaml's values do not know.

use saphyr::{LoadableYamlNode as _, MarkedYaml};

/// The line (from 1) on which the last known part of a path such as `pools.a.cpuLists[0].Socket` stands; `None` where
/// the text has not even its first part.
pub(super) fn line_of(text: &str, path: &str) -> Option<u32> {
    let documents = MarkedYaml::load_from_str(text).ok()?;
    let mut node = documents.first()?;
    let (mut rest, mut line) = (path, None);
    while let Some((next, found, left)) = step(node, rest) {
        (node, line, rest) = (next, Some(found), left);
    }
    line.and_then(|line| u32::try_from(line).ok())
}

/// The node that the first part of a path leads to, the line on which that part stands, and the rest of the path.
fn step<'a, 'text, 'path>(
    node: &'a MarkedYaml<'text>,
    path: &'path str,
) -> Option<(&'a MarkedYaml<'text>, usize, &'path str)> {
    if let Some(items) = node.data.as_sequence() {
        let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
        let item = items.get(index.parse::<usize>().ok()?)?;
        return Some((item, item.span.start.line(), rest));
    }
    let path = path.strip_prefix('.').unwrap_or(path);
    let entries = node.data.as_mapping()?.iter();
    // A key may have dots itself: the longest that fits is meant.
    let fits = entries.filter_map(|(key, value)| {
        let name = key.data.as_str()?;
        let begins = path.get(..name.len())?.eq_ignore_ascii_case(name);
        let rest = path.get(name.len()..).filter(|_| begins)?;
        let ends = rest.is_empty() || rest.starts_with(['.', '[']);
        ends.then_some((name.len(), (value, key.span.start.line(), rest)))
    });
    let longest = fits.max_by_key(|(length, _step)| *length);
    longest.map(|(_length, step)| step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_that_is_there_counts() {
        let text = "# pools\npools:\n  a:\n    cpuLists:\n    - Socket: 0\n      Cpuset: 1\n    - { Socket: 0,\n        Cpuset: 2 }\n  a.b: {}\n";
        for (path, line) in [
            ("pools", Some(2)),
            ("pools.a", Some(3)),
            ("pools.a.cpuLists[0].Cpuset", Some(6)),
            ("pools.a.cpuLists[1].cpuset", Some(8)),
            ("pools.a.cpuLists[7].Cpuset", Some(4)),
            ("pools.a.exclusive", Some(3)),
            ("pools.a.b", Some(9)),
            ("elsewhere", None),
            ("", None),
        ] {
            assert_eq!(line_of(text, path), line, "{path}");
        }
        assert_eq!(line_of("pools: [", "pools"), None);
    }
}
