//! Links of documents to files of the repository, and to headings in them.
//!
//! A heading's anchor is what GitHub makes of its text; mdBook makes the same.

use anyhow::{Context as _, Result};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

/// Where the parts are of which docs/configuration.md is made: their links count there.
const PARTS: &str = "relay/src/";

/// A document: where its links lead, and which anchors it has.
#[derive(Debug, Default)]
struct Document {
    /// The target of each link, with the number of its line.
    links: Vec<(usize, String)>,
    anchors: BTreeSet<String>,
}

impl Document {
    fn read(text: &str) -> Self {
        let mut document = Self::default();
        let mut heading: Option<String> = None;
        let events = Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter();
        for (event, place) in events {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    let line = text[..place.start].matches('\n').count() + 1;
                    document.links.push((line, dest_url.into_string()));
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::Text(words) | Event::Code(words) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&words);
                    }
                }
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = anchor(&heading.take().unwrap_or_default());
                    document.add(&anchor);
                }
                _ => {}
            }
        }
        document
    }

    /// Headings of the same text are numbered from the second on.
    fn add(&mut self, anchor: &str) {
        let mut unique = anchor.to_owned();
        for number in 1.. {
            if self.anchors.insert(unique) {
                return;
            }
            unique = format!("{anchor}-{number}");
        }
    }
}

/// Lower case, dashes for spaces, and nothing else but letters, digits and underscores.
fn anchor(heading: &str) -> String {
    let kept = heading
        .trim()
        .chars()
        .filter_map(|character| match character {
            ' ' => Some('-'),
            '-' | '_' => Some(character),
            _ => character.is_alphanumeric().then_some(character),
        });
    kept.flat_map(char::to_lowercase).collect()
}

/// Links of all documents that lead nowhere.
///
/// # Errors
/// When a document cannot be read.
pub(super) fn findings(root: &Path, listed: &[&str]) -> Result<Vec<String>> {
    let mut documents = BTreeMap::new();
    for path in listed {
        if path.ends_with(".md") && !path.starts_with(PARTS) {
            let text = fs::read_to_string(root.join(path))
                .with_context(|| format!("cannot read {path}"))?;
            documents.insert(PathBuf::from(path), Document::read(&text));
        }
    }
    let exists = |path: &Path| root.join(path).exists();
    Ok(dead_links(&documents, exists))
}

fn dead_links(
    documents: &BTreeMap<PathBuf, Document>,
    exists: impl Fn(&Path) -> bool,
) -> Vec<String> {
    let mut found = Vec::new();
    for (path, document) in documents {
        for (line, link) in &document.links {
            if let Some(why) = dead(path, link, documents, &exists) {
                found.push(format!("{}:{line}: link to {link}: {why}", path.display()));
            }
        }
    }
    found
}

fn dead(
    from: &Path,
    link: &str,
    documents: &BTreeMap<PathBuf, Document>,
    exists: impl Fn(&Path) -> bool,
) -> Option<&'static str> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() {
        from.to_owned()
    } else {
        let folder = from.parent().unwrap_or(Path::new(""));
        let Some(target) = inside(&folder.join(path)) else {
            return Some("it leaves the repository");
        };
        target
    };
    if !exists(&target) {
        return Some("there is no such file");
    }
    let document = documents.get(&target);
    let leads =
        fragment.is_empty() || document.is_some_and(|document| document.anchors.contains(fragment));
    (!leads).then_some("there is no such heading")
}

/// The path without `..`; `None` when it is not below the root.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut inside = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => inside.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !inside.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_lead_nowhere_are_found_with_their_line() {
        let readme = "# All\n\n[a](docs/a.md) [b](docs/b.md)\n| [c](docs/a.md#the-config-of-one_pod) |\n| --- |\n\
                      ![d](docs/d.svg) [e](docs/a.md#none) [f](https://x/none) `[g](none)`\n";
        let a = "# The `--config` of one_pod\n## Twice\n## Twice\n[x](../README.md#all) [y](#twice-1) [z](../../x) [w](#Twice)\n";
        let documents = BTreeMap::from([
            (PathBuf::from("README.md"), Document::read(readme)),
            (PathBuf::from("docs/a.md"), Document::read(a)),
        ]);
        let exists = |path: &Path| documents.contains_key(path);
        assert_eq!(
            dead_links(&documents, exists),
            [
                "README.md:3: link to docs/b.md: there is no such file",
                "README.md:4: link to docs/a.md#the-config-of-one_pod: there is no such heading",
                "README.md:6: link to docs/d.svg: there is no such file",
                "README.md:6: link to docs/a.md#none: there is no such heading",
                "docs/a.md:4: link to ../../x: it leaves the repository",
                "docs/a.md:4: link to #Twice: there is no such heading",
            ]
        );
        assert_eq!(anchor("The `--config`, of a_b: é"), "the---config-of-a_b-é");
    }
}
