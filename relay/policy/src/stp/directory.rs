//! The configuration directory of CMK, as entries that the caller has read.

use super::pools::{CpuListConfig, PoolsConfig};
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use resmgr_topology::CpuSet;

/// Makes pools of a directory tree in CMK's layout: `pools/POOL/exclusive` (a file: `1` exclusive, `0` shared)
/// and `pools/POOL/SOCKET/CPULIST/` (directories). `entries` are paths relative to the directory with the
/// content of files, `None` for directories. Files below a CPU list (CMK's `tasks`) are ignored.
///
/// # Errors
/// A line for each entry that does not belong there.
pub fn pools_from_directory<'a>(
    entries: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
) -> Result<PoolsConfig, Vec<String>> {
    let mut config = PoolsConfig::default();
    let mut problems = Vec::new();
    let mut lists: Vec<(String, u32, String)> = Vec::new();
    for (path, content) in entries {
        let path = path.trim_matches('/');
        let parts: Vec<&str> = path.split('/').collect();
        match (parts.as_slice(), content) {
            (["pools"], None) => {}
            (["pools", pool], None) => {
                config.pools.entry((*pool).to_string()).or_default();
            }
            (["pools", pool, "exclusive"], Some(content)) => {
                let pool = config.pools.entry((*pool).to_string()).or_default();
                match content.trim() {
                    "0" => pool.exclusive = false,
                    "1" => pool.exclusive = true,
                    value => problems.push(format!(
                        "{path}: {value:?} is neither 0 (shared) nor 1 (exclusive)"
                    )),
                }
            }
            (["pools", pool, socket], None) => {
                config.pools.entry((*pool).to_string()).or_default();
                if socket.parse::<u32>().is_err() {
                    problems.push(format!("{path}: {socket:?} is not a socket number"));
                }
            }
            (["pools", pool, socket, list], None) => {
                match (socket.parse(), list.parse::<CpuSet>()) {
                    (Ok(socket), Ok(_)) => {
                        lists.push(((*pool).to_string(), socket, (*list).to_string()));
                    }
                    (Ok(_), Err(error)) => problems.push(format!("{path}: {error}")),
                    (Err(_), _) => {
                        problems.push(format!("{path}: {socket:?} is not a socket number"));
                    }
                }
            }
            (["pools", _, _, _, _, ..], Some(_)) => {}
            _ if parts.first() != Some(&"pools") => {}
            _ => problems.push(format!(
                "{path}: not expected in a CMK configuration (pools/POOL/exclusive and pools/POOL/SOCKET/CPULIST/)"
            )),
        }
    }
    // Directories list in no order: lowest CPU first.
    lists.sort_by_key(|(_, socket, list)| {
        (
            *socket,
            list.parse::<CpuSet>().ok().and_then(|cpus| cpus.first()),
        )
    });
    for (pool, socket, cpuset) in lists {
        let pool = config.pools.entry(pool).or_default();
        pool.cpu_lists.push(CpuListConfig { socket, cpuset });
    }
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(problems)
    }
}
