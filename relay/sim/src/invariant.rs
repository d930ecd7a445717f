//! What no policy may ever do, checked after every decision.

use resmgr_policy::State;
use resmgr_topology::Topology;

/// Each way in which the placements break a promise, in words; empty when all is well.
#[must_use]
pub fn violations(topology: &Topology, state: &State) -> Vec<String> {
    let mut found = Vec::new();
    for (id, container) in &state.containers {
        let placement = &container.placement;
        if !placement.exclusive.is_subset(&placement.cpus) {
            found.push(format!(
                "{id} may not run on its own CPUs {}",
                placement.exclusive
            ));
        }
        let offline = placement.cpus.difference(&topology.online);
        if !offline.is_empty() {
            found.push(format!(
                "{id} is placed on CPUs {offline}, which are offline"
            ));
        }
        if placement.exclusive.is_empty() {
            continue;
        }
        for (other, intruder) in &state.containers {
            // A container that is not pinned at all may run anywhere.
            let everywhere = intruder.placement.cpus.is_empty();
            let shared = placement.exclusive.intersection(&intruder.placement.cpus);
            if other != id && (everywhere || !shared.is_empty()) {
                found.push(format!(
                    "{other} may run on CPUs {shared}, exclusive to {id}"
                ));
            }
        }
    }
    found
}
