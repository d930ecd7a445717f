//! Lists of NUMA nodes in the kernel's format, as `cpuset.mems` has them.

use crate::{
    cpuset::{CpuSet, CpuSetError},
    ids::{CpuId, NodeId},
};
use alloc::{
    collections::BTreeSet,
    string::{String, ToString},
};

/// Why a text is not a list of NUMA nodes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{list:?} is not a list of NUMA nodes (expected something like 0-1,3)")]
pub struct NodeListError {
    /// As typed.
    pub list: String,
    /// The element at fault.
    #[source]
    pub source: CpuSetError,
}

/// Prints nodes as the kernel does: `0-1,3`. Nodes are numbered as CPUs are, from 0 and far below the
/// largest CPU number (`MAX_NUMNODES` is at most 1024), and share their format.
#[must_use]
pub fn format_nodes<'a>(nodes: impl IntoIterator<Item = &'a NodeId>) -> String {
    let same: CpuSet = nodes.into_iter().map(|node| CpuId(node.0)).collect();
    same.to_string()
}

/// Reads what [`format_nodes`] prints and the kernel accepts.
///
/// # Errors
/// [`NodeListError`] with the list and the element at fault.
pub fn parse_nodes(list: &str) -> Result<BTreeSet<NodeId>, NodeListError> {
    let same: CpuSet = list.parse().map_err(|source| NodeListError {
        list: list.to_string(),
        source,
    })?;
    Ok(same.iter().map(|number| NodeId(number.0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_lists_read_as_they_print() {
        let nodes = parse_nodes("3,0-1").unwrap();
        assert_eq!(nodes.len(), 3);
        assert_eq!(format_nodes(&nodes), "0-1,3");
        assert_eq!(format_nodes(&BTreeSet::new()), "");
        assert!(parse_nodes("x").unwrap_err().to_string().contains("\"x\""));
    }
}
