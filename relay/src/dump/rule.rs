//! Which messages are dumped how: the specification of `--dump`.
//!
//! ```text
//! SPEC   := ITEM { "," ITEM }                                 spaces around everything are ignored
//! ITEM   := "on" | "enable" | "off" | "disable"               master switch
//!         | "reset"                                           forget all rules so far, built-in ones too
//!         | [ TARGET ":" ] PATTERN                            without TARGET: that of the item before
//! TARGET := "off" | "suppress" | "name" | "short" | "full" | "long" | "verbose" | "count"
//! ```
//!
//! A PATTERN of letters only is the bare name of a method; `*` is every method; anything else is a regular
//! expression searched for in the bare name. A name beats `*`, `*` beats every regular expression, the
//! last matching regular expression counts. In an expression `\,` and `\:` stand for `,` and `:`:
//! `full:Cre{1\,2}ate`, `off:(?\:List|Status)`.

use regex::Regex;
use std::{collections::BTreeMap, fmt};

/// How a message is dumped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Target {
    /// Not at all.
    #[default]
    Off,
    /// One line with the method's name when the call is over.
    Name,
    /// Request and reply with their bodies.
    Full,
    /// Only counted.
    Count,
}

impl Target {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "off" | "suppress" => Self::Off,
            "name" | "short" => Self::Name,
            "full" | "long" | "verbose" => Self::Full,
            "count" => Self::Count,
            _ => return None,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Name => "name",
            Self::Full => "full",
            Self::Count => "count",
        })
    }
}

/// Why a specification is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} in {item:?} at column {column}")]
pub struct SpecError {
    /// Where the item begins, from 1, in characters.
    pub column: usize,
    /// The item as typed.
    pub item: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// The rules in force when nothing is specified: everything in full but the noisy read-only methods.
///
/// The `Stream` methods of CRI are lists in parts: a kubelet that has them calls them in place of the `List`
/// methods, as often.
pub const BUILT_IN: &str =
    "full:.*,off:Version,.*List.*,.*Stream.*,.*Status.*,.*Info.*,.*Log.*,.*Reopen.*";

/// A set of rules.
#[derive(Clone, Debug)]
pub struct DumpRules {
    enabled: bool,
    names: BTreeMap<String, Target>,
    star: Option<Target>,
    expressions: Vec<(Regex, Target)>,
}

impl Default for DumpRules {
    /// The built-in rules.
    fn default() -> Self {
        let mut rules = Self::empty();
        let built_in = rules.add(BUILT_IN);
        debug_assert!(built_in.is_ok(), "the built-in rules are legal");
        rules
    }
}

impl DumpRules {
    /// No rule: nothing is dumped.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            enabled: true,
            names: BTreeMap::new(),
            star: None,
            expressions: Vec::new(),
        }
    }

    /// Adds a specification.
    ///
    /// # Errors
    /// [`SpecError`] with the position of the item; items before it have been added then.
    pub fn add(&mut self, spec: &str) -> Result<(), SpecError> {
        let mut target = Target::Full;
        let mut column = 1;
        for item in split(spec, ',') {
            let indent = item.chars().take_while(|letter| letter.is_whitespace());
            let at = column + indent.count();
            column += item.chars().count() + 1;
            self.add_item(item.trim(), &mut target)
                .map_err(|reason| SpecError {
                    column: at,
                    item: item.trim().to_owned(),
                    reason,
                })?;
        }
        Ok(())
    }

    fn add_item(&mut self, item: &str, sticky: &mut Target) -> Result<(), String> {
        match item {
            "" => return Ok(()),
            "on" | "enable" => {
                self.enabled = true;
                return Ok(());
            }
            "off" | "disable" => {
                self.enabled = false;
                return Ok(());
            }
            "reset" => {
                self.names.clear();
                self.star = None;
                self.expressions.clear();
                return Ok(());
            }
            _ => {}
        }
        let parts: Vec<&str> = split(item, ':').map(str::trim).collect();
        let pattern = match parts.as_slice() {
            [pattern] if Target::of(pattern).is_some() => {
                return Err(format!("no pattern: write {pattern}:PATTERN"));
            }
            [pattern] => pattern,
            [target, pattern] => {
                *sticky = Target::of(target)
                    .ok_or_else(|| format!("unknown target {target:?} (off, name, full, count)"))?;
                pattern
            }
            _ => {
                return Err(
                    "more than one colon (write \\: for a colon inside an expression)".to_owned(),
                );
            }
        };
        if pattern.is_empty() {
            return Ok(());
        }
        let pattern = pattern.replace("\\,", ",").replace("\\:", ":");
        if pattern == "*" {
            self.star = Some(*sticky);
        } else if pattern.contains(|letter| r".*?+()[]{}|^$\".contains(letter)) {
            let expression = regex::RegexBuilder::new(&pattern)
                .size_limit(1 << 20)
                .build()
                .map_err(|error| {
                    let text = error.to_string();
                    let last = text.lines().last().unwrap_or_default();
                    format!(
                        "bad regular expression ({})",
                        last.trim_start_matches("error: ")
                    )
                })?;
            self.expressions.push((expression, *sticky));
        } else {
            self.names.insert(pattern, *sticky);
        }
        Ok(())
    }

    /// How a method, given by its bare name, is dumped.
    #[must_use]
    pub fn target(&self, method: &str) -> Target {
        if !self.enabled {
            return Target::Off;
        }
        if let Some(target) = self.names.get(method) {
            return *target;
        }
        self.star.unwrap_or_else(|| {
            self.expressions
                .iter()
                .rev()
                .find(|(expression, _)| expression.is_match(method))
                .map_or(Target::Off, |(_, target)| *target)
        })
    }
}

/// Splits at a separator unless a backslash stands before it; `\\` is a backslash of its own.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |letter| {
        let cut = letter == separator && !escaped;
        escaped = letter == '\\' && !escaped;
        cut
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(specs: &[&str]) -> DumpRules {
        let mut rules = DumpRules::default();
        for spec in specs {
            rules.add(spec).unwrap();
        }
        rules
    }

    #[test]
    fn version_is_shown_only_after_a_reset() {
        assert_eq!(rules(&["reset,full:.*"]).target("Version"), Target::Full);
        assert_eq!(rules(&["full:.*"]).target("Version"), Target::Off);
        assert_eq!(rules(&["full:.*"]).target("ListPods"), Target::Full);
    }

    #[test]
    fn built_in_rules_hide_the_noisy_methods() {
        let rules = rules(&[]);
        for method in [
            "Version",
            "ListContainers",
            "ContainerStatus",
            "ImageFsInfo",
            "StreamPodSandboxes",
            "StreamContainers",
            "StreamContainerStats",
            "StreamPodSandboxStats",
            "StreamPodSandboxMetrics",
            "StreamImages",
        ] {
            assert_eq!(rules.target(method), Target::Off, "{method}");
        }
        assert_eq!(rules.target("CreateContainer"), Target::Full);
    }

    #[test]
    fn a_name_beats_an_expression_in_either_order() {
        for spec in ["off:.*,full:CreateContainer", "full:CreateContainer,off:.*"] {
            let rules = rules(&[spec]);
            assert_eq!(rules.target("CreateContainer"), Target::Full, "{spec}");
            assert_eq!(rules.target("StopContainer"), Target::Off, "{spec}");
        }
    }

    #[test]
    fn the_last_matching_expression_counts() {
        let first = rules(&["name:.*,full:Create.*"]);
        assert_eq!(first.target("CreateContainer"), Target::Full);
        let second = rules(&["full:Create.*,name:.*"]);
        assert_eq!(second.target("CreateContainer"), Target::Name);
    }

    #[test]
    fn a_star_beats_expressions_and_yields_to_names() {
        let rules = rules(&["count:*,full:.*,name:Version"]);
        assert_eq!(rules.target("ListPods"), Target::Count);
        assert_eq!(rules.target("Version"), Target::Name);
    }

    #[test]
    fn targets_stick_within_a_specification_only() {
        let rules = rules(&["off:StopContainer, CreateContainer", "ListImages"]);
        assert_eq!(rules.target("StopContainer"), Target::Off);
        assert_eq!(rules.target("CreateContainer"), Target::Off);
        assert_eq!(rules.target("ListImages"), Target::Full);
    }

    #[test]
    fn spaces_do_not_matter() {
        assert_eq!(
            rules(&[" reset , full : .* "]).target("Version"),
            Target::Full
        );
    }

    #[test]
    fn the_master_switch_works() {
        assert_eq!(rules(&["reset,full:.*,off"]).target("Version"), Target::Off);
        assert_eq!(
            rules(&["off", "reset,full:.*", "on"]).target("Version"),
            Target::Full
        );
    }

    #[test]
    fn commas_and_colons_in_expressions_are_escaped() {
        let rules = rules(&[r"reset,name:^(?\:Run|Stop),count:s{1\,2}ion$"]);
        assert_eq!(rules.target("RunPodSandbox"), Target::Name);
        assert_eq!(rules.target("Version"), Target::Count);
        assert_eq!(rules.target("CreateContainer"), Target::Off);
    }

    #[test]
    fn mistakes_are_refused_with_their_position() {
        for (spec, column, part) in [
            ("full:.*, ful:.*", 10, "unknown target \"ful\""),
            ("a:b:c", 1, "more than one colon"),
            ("off:[", 1, "bad regular expression"),
            ("off:A,full", 7, "no pattern"),
        ] {
            let error = DumpRules::empty().add(spec).unwrap_err();
            assert_eq!(error.column, column, "{spec}");
            assert!(error.reason.contains(part), "{spec}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_specification_panics(spec in "\\PC{0,60}", method in "\\PC{0,20}") {
            let mut rules = DumpRules::default();
            let _outcome = rules.add(&spec);
            let _target = rules.target(&method);
        }

        #[test]
        fn no_likely_specification_panics(
            spec in "((off|full|name|count|reset|on| )?[:,\\\\]?[A-Za-z.*?{}()|^$\\\\]{0,6}[,:]?){0,6}",
        ) {
            let _outcome = DumpRules::default().add(&spec);
        }
    }
}
