//! The policy that the configuration names, built for this machine.

use super::error::ExitError;
use crate::config::{self, Config, PolicyName};
use resmgr_policy::{Policy, PolicySettings, PoolsConfig, by_name};
use resmgr_topology::Topology;

/// The configured policy for this machine.
///
/// # Errors
/// Everything wrong with its configuration.
pub(super) fn build(config: &Config, topology: &Topology) -> Result<Box<dyn Policy>, ExitError> {
    let options = &config.policy;
    let settings = PolicySettings {
        slices: options.slices.clone(),
        pools: match options.name {
            PolicyName::StaticPools => config::pools::load(&options.pools, topology)
                .map_err(|problems| ExitError::Usage(problems.to_string()))?,
            _ => PoolsConfig::default(),
        },
        rebalance: options.rebalance,
    };
    let policy = by_name(options.name.as_str(), topology, &settings).map_err(|problems| {
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        ExitError::Usage(lines.join("\ncri-resmgr: "))
    })?;
    #[cfg(all(feature = "faults", debug_assertions))]
    let policy = super::faults::wrap(policy);
    Ok(policy)
}
