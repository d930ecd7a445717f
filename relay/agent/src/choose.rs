//! Which ConfigMap is in force for this node. Pure.
//!
//! `NAME.node.<node>` > `NAME.group.<group>` > `NAME.default` > `NAME`, the first that exists,
//! as a whole. Nothing is chosen while a map that could win has not been looked for yet, so that
//! a start or a changed label never passes through a configuration that is not meant.

use std::collections::BTreeMap;

/// What a look-up of an object of the cluster has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Lookup<T> {
    /// Not looked for yet.
    #[default]
    Unknown,
    /// Looked for; it does not exist.
    Absent,
    /// It exists.
    Present(T),
}

impl<T> From<Option<T>> for Lookup<T> {
    fn from(found: Option<T>) -> Self {
        found.map_or(Self::Absent, Self::Present)
    }
}

/// The configuration in a ConfigMap, and where it came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeConfig {
    /// namespace/name of the ConfigMap.
    pub(crate) origin: String,
    /// resourceVersion of the ConfigMap.
    pub(crate) resource_version: String,
    /// Its data, verbatim.
    pub(crate) data: BTreeMap<String, String>,
}

/// The ConfigMaps that could be in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct Maps {
    /// `NAME.node.<node>`
    pub(crate) node: Lookup<NodeConfig>,
    /// `NAME.group.<group>`; absent when the node has no group label.
    pub(crate) group: Lookup<NodeConfig>,
    /// `NAME.default`
    pub(crate) default: Lookup<NodeConfig>,
    /// `NAME`, whose keys may carry the node's name.
    pub(crate) single: Lookup<NodeConfig>,
}

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum MapChoice {
    /// Not everything that matters is known yet.
    #[default]
    Wait,
    /// There is no ConfigMap for this node: nothing is pushed, what is in force stays.
    Nothing,
    /// The winning ConfigMap has no keys: nothing is pushed, what is in force stays.
    Empty {
        /// namespace/name of the ConfigMap.
        origin: String,
    },
    /// Push this.
    Push(NodeConfig),
}

/// Chooses the configuration in force.
pub(crate) fn choose(maps: &Maps) -> MapChoice {
    for map in [&maps.node, &maps.group, &maps.default, &maps.single] {
        match map {
            Lookup::Unknown => return MapChoice::Wait,
            Lookup::Absent => {}
            Lookup::Present(config) if config.data.is_empty() => {
                return MapChoice::Empty {
                    origin: config.origin.clone(),
                };
            }
            Lookup::Present(config) => return MapChoice::Push(config.clone()),
        }
    }
    MapChoice::Nothing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(name: &str) -> Lookup<NodeConfig> {
        Lookup::Present(NodeConfig {
            origin: name.to_owned(),
            resource_version: "1".to_owned(),
            data: BTreeMap::from([("policy".to_owned(), format!("Active: {name}"))]),
        })
    }

    fn origin(maps: &Maps) -> String {
        match choose(maps) {
            MapChoice::Push(config) => config.origin,
            choice => format!("{choice:?}"),
        }
    }

    #[test]
    fn the_most_specific_map_wins_as_a_whole() {
        let mut maps = Maps {
            node: map("node"),
            group: map("group"),
            default: map("default"),
            single: map("single"),
        };
        assert_eq!(origin(&maps), "node");
        maps.node = Lookup::Absent;
        assert_eq!(origin(&maps), "group");
        maps.group = Lookup::Absent;
        assert_eq!(origin(&maps), "default");
        maps.default = Lookup::Absent;
        assert_eq!(origin(&maps), "single");
        maps.single = Lookup::Absent;
        assert_eq!(choose(&maps), MapChoice::Nothing);
    }

    #[test]
    fn nothing_is_chosen_below_a_map_that_was_not_looked_for_yet() {
        let maps = Maps {
            node: Lookup::Absent,
            group: Lookup::Unknown,
            default: map("default"),
            single: map("single"),
        };
        assert_eq!(choose(&maps), MapChoice::Wait);
        let maps = Maps {
            node: map("node"),
            ..maps
        };
        assert_eq!(
            origin(&maps),
            "node",
            "what could lose need not be known first"
        );
    }

    #[test]
    fn a_map_without_keys_is_never_pushed() {
        let empty = NodeConfig {
            origin: "ns/default".to_owned(),
            ..NodeConfig::default()
        };
        let maps = Maps {
            node: Lookup::Absent,
            group: Lookup::Absent,
            default: Lookup::Present(empty),
            single: map("single"),
        };
        assert_eq!(
            choose(&maps),
            MapChoice::Empty {
                origin: "ns/default".to_owned()
            }
        );
    }
}
