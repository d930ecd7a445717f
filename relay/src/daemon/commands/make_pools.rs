//! `cri-resmgr make-pools`: a pools file for this machine.

use super::output::print;
use crate::{
    cli::MakePoolsArguments,
    config::Raw,
    daemon::{error::ExitError, options::resolve_options},
};
use anyhow::Context;
use resmgr_io::file::open_output;
use resmgr_policy::{PoolSizes, PoolsConfig, Reserved, make_pools as pools_for};
use resmgr_topology::{CpuSet, Topology};
use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::Path,
};

/// The machine's name, empty when it cannot be read: proc_sys_kernel(5).
pub(crate) fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// Writes pools of whole cores for the machine that the options name.
///
/// # Errors
/// What the machine does not have, or why the file is not written.
pub fn make_pools(raw: &Raw, arguments: &MakePoolsArguments) -> Result<(), ExitError> {
    let (config, topology) = resolve_options(raw)?;
    let reserved = match config.policy.slices.reserved {
        Some(Reserved::Set(cpus)) => cpus,
        Some(Reserved::Quantity(_)) | None => CpuSet::EMPTY,
    };
    let sizes = PoolSizes {
        exclusive: arguments.exclusive,
        shared: arguments.shared,
        infra: arguments.infra,
        per_socket: arguments.per_socket,
    };
    let pools = pools_for(&topology, sizes, &reserved).map_err(ExitError::Usage)?;
    let text = yaml(&pools, sizes, &topology, &host_name());
    let Some(path) = &arguments.output else {
        return print(&text);
    };
    if path.symlink_metadata().is_ok() && !arguments.force {
        let message = format!("{} exists: --force replaces it", path.display());
        return Err(ExitError::Usage(message));
    }
    write(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

/// Writes the whole file or none of it, with the directories that it needs.
fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    open_output(Path::new(&unfinished), true)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&unfinished, path))
        .inspect_err(|_| drop(fs::remove_file(&unfinished)))
}

/// The pools file, with the machine and the sizes it was made for as a comment.
fn yaml(pools: &PoolsConfig, sizes: PoolSizes, topology: &Topology, host: &str) -> String {
    let infra = sizes
        .infra
        .map_or_else(|| "the rest".to_owned(), |cores| cores.to_string());
    let of = if sizes.per_socket {
        ", of each socket"
    } else {
        ""
    };
    let mut text = format!(
        "# Pools of the static-pools (stp) policy, made by cri-resmgr make-pools.\n\
         # Machine: {host} ({origin}), sockets: {sockets}, cores: {cores}, CPUs online: {online}.\n\
         # Cores: {exclusive} exclusive, {shared} shared, {infra} for infra{of}.\n\
         pools:\n",
        origin = topology.origin.replace('\n', " "),
        sockets = topology.packages.len(),
        cores = topology.cores.len(),
        online = topology.online,
        exclusive = sizes.exclusive,
        shared = sizes.shared,
    );
    for (name, pool) in &pools.pools {
        let mut line = |line: String| writeln!(text, "{line}").expect("a String takes all");
        line(format!("  {name}:"));
        if pool.exclusive {
            line("    exclusive: true".to_owned());
        }
        line("    cpuLists:".to_owned());
        for list in &pool.cpu_lists {
            line(format!(
                "    - {{ Socket: {}, Cpuset: \"{}\" }}",
                list.socket, list.cpuset
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::pools::from_yaml;
    #[test]
    fn the_file_names_its_machine_and_is_read_back_as_the_same_pools() {
        let machine = Topology::synthetic("pack:2 numa:1 core:4 pu:2").unwrap();
        let sizes = PoolSizes {
            exclusive: 1,
            shared: 1,
            infra: None,
            per_socket: true,
        };
        let pools = pools_for(&machine, sizes, &CpuSet::EMPTY).unwrap();
        let text = yaml(&pools, sizes, &machine, "n1");
        crate::golden::assert_golden(&text, "src/daemon/commands/make_pools.golden.txt");
        assert_eq!(from_yaml(&text, Path::new("x"), &machine).unwrap(), pools);
    }

    #[test]
    fn the_file_is_written_whole_with_its_directories_and_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("etc/cri-resmgr/pools.conf");
        for text in ["pools: {}", "pools: {a: {}}"] {
            write(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let beside = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(beside, 1);
        // A directory stands where the file should: nothing is left of the attempt.
        assert!(write(path.parent().unwrap(), "pools: {}").is_err());
        assert_eq!(fs::read_dir(folder.path().join("etc")).unwrap().count(), 1);
    }
}
