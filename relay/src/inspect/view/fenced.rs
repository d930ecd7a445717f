//! What services of the host are kept off.

use serde::{Deserialize, Serialize};
use std::fmt;

/// CPUs that services of the host are kept off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FencedView {
    /// The CPUs, in the kernel's list format.
    pub cpus: String,
    /// How many cgroups of the host are confined to the rest.
    pub cgroups: usize,
    /// Whether that is only what would be.
    pub shadow: bool,
}

impl fmt::Display for FencedView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let would = if self.shadow { " would be" } else { "" };
        let (cpus, cgroups) = (&self.cpus, self.cgroups);
        let plural = if cgroups == 1 { "" } else { "s" };
        write!(
            f,
            "host services{would} fenced off CPUs {cpus} ({cgroups} cgroup{plural})"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::view::StateView;

    #[test]
    fn the_fence_is_a_line_of_the_state_where_there_is_any() {
        let mut state = StateView::default();
        assert!(!state.to_string().contains("fenced"), "{state}");
        let fenced = FencedView {
            cpus: "2-3".into(),
            cgroups: 3,
            shadow: false,
        };
        state.fenced = Some(fenced.clone());
        let line = "\nhost services fenced off CPUs 2-3 (3 cgroups)\n";
        assert!(state.to_string().contains(line), "{state}");
        let shadow = FencedView {
            cgroups: 1,
            shadow: true,
            ..fenced
        };
        assert_eq!(
            shadow.to_string(),
            "host services would be fenced off CPUs 2-3 (1 cgroup)"
        );
    }
}
