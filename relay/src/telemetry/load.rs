//! Loads the program, sized and adapted to this machine.

use super::{
    btf::Btf, hierarchy::CgroupHierarchy, kernel_offsets, mapped::MappedArray,
    options::TelemetrySetup, relocate::relocate, status::OffReason, warnings::KernelWarnings,
};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData},
    programs::BtfTracePoint,
};
use resmgr_common::{
    CSS_ENTRIES, ConstReloc, CpuState, Css, SLOTS_RESERVED, SlotCounters, TASK_ENTRIES,
    ThreadHistory, row_bytes,
};
use resmgr_topology::{CpuId, Topology};
use std::{fs, os::fd::AsFd as _};

/// The program; empty where it was not built.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/cri-resmgr-ebpf.o"));
const HOOK: &str = "sched_switch";
const EMPTY: &str = "sched_switch_empty";
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Slots for cgroups of the host, behind those for containers.
pub(super) const HOST_SLOTS: u32 = 64;

/// States of a CPU that fit into the counters of a slot: a row begins with a state, in the place of counters.
#[expect(clippy::cast_possible_truncation, reason = "3")]
const STATE_EVERY: u32 = (size_of::<SlotCounters>() / size_of::<CpuState>()) as u32;
const _: () = assert!(size_of::<SlotCounters>().is_multiple_of(size_of::<CpuState>()));

/// The attached program and its maps. Dropping it detaches.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) ebpf: Ebpf,
    pub(super) counters: MappedArray<SlotCounters>,
    pub(super) states: MappedArray<CpuState>,
    pub(super) preemptions: MappedArray<u64>,
    pub(super) css: MappedArray<Css>,
    /// A [`SlotRef`](resmgr_common::SlotRef) as a word, by the kernel's id of a cgroup.
    pub(super) cgroups: HashMap<MapData, u64, u64>,
    pub(super) tasks: Map,
    pub(super) warnings: Option<KernelWarnings>,
    pub(super) slots: u32,
    pub(super) rows: u32,
    pub(super) absent: Vec<&'static str>,
}

impl Program {
    /// Loads and attaches the program.
    ///
    /// # Errors
    /// Why this machine cannot run it.
    pub(super) fn load(
        topology: &Topology,
        hierarchy: &CgroupHierarchy,
        options: &TelemetrySetup,
    ) -> Result<Self, OffReason> {
        Self::load_object(OBJECT, topology, hierarchy, options, &[])
    }

    /// The same of any object; `overrides` are constants that differ from what this kernel asks for.
    pub(super) fn load_object(
        object: &[u8],
        topology: &Topology,
        hierarchy: &CgroupHierarchy,
        options: &TelemetrySetup,
        overrides: &[(ConstReloc, u32)],
    ) -> Result<Self, OffReason> {
        if object.is_empty() {
            return Err(OffReason::NotBuilt);
        }
        let bytes = fs::read(BTF).map_err(|error| OffReason::NoBtf {
            why: format!("{BTF}: {error}"),
        })?;
        let btf = Btf::parse(bytes).map_err(|error| OffReason::NoBtf {
            why: error.to_string(),
        })?;
        let mut offsets = kernel_offsets::find(&btf, hierarchy)?;
        let slots = options
            .max_containers
            .saturating_add(SLOTS_RESERVED + HOST_SLOTS);
        let rows = rows(topology);
        let nodes = u32::try_from(topology.nodes.len())
            .unwrap_or(u32::MAX)
            .max(1);
        let refused = |step| {
            move |error: &dyn std::error::Error| OffReason::Refused {
                step,
                why: chain(error),
            }
        };

        let sizes = [
            (ConstReloc::Slots, slots),
            (ConstReloc::RowBytes, row_bytes(slots)),
            (ConstReloc::Nodes, nodes),
        ];
        offsets.values.constants.extend(sizes);
        offsets.values.constants.extend(overrides.iter().copied());
        let mut object = object.to_vec();
        relocate(&mut object, &offsets.values).map_err(|error| OffReason::Unfit {
            why: error.to_string(),
        })?;

        // Before 5.11 maps count against this limit; where it cannot be raised, loading fails and says so.
        let _unlimited = nix::sys::resource::setrlimit(
            nix::sys::resource::Resource::RLIMIT_MEMLOCK,
            nix::sys::resource::RLIM_INFINITY,
            nix::sys::resource::RLIM_INFINITY,
        );
        let kernel =
            aya::Btf::from_sys_fs().map_err(|error| refused("type information")(&error))?;
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&kernel));
        let mut ebpf = loader
            .map_max_entries("ROWS", rows)
            .map_max_entries("PREEMPTIONS", slots.saturating_mul(slots))
            .map_max_entries("PLACES", rows)
            .map_max_entries("DISTANCES", nodes * nodes)
            .map_max_entries("CGROUPS", slots)
            .load(&object)
            .map_err(|error| refused("the maps")(&error))?;
        describe(&mut ebpf, topology)?;
        let program = Self {
            counters: mapped(&mut ebpf, "ROWS", rows * (slots + 1))?,
            states: mapped(&mut ebpf, "ROWS", rows * (slots + 1) * STATE_EVERY)?,
            preemptions: mapped(&mut ebpf, "PREEMPTIONS", slots * slots)?,
            css: mapped(&mut ebpf, "CSS", CSS_ENTRIES)?,
            cgroups: HashMap::try_from(take(&mut ebpf, "CGROUPS")?)
                .map_err(|error| refused("the table of cgroups")(&error))?,
            tasks: take(&mut ebpf, "TASKS")?,
            warnings: KernelWarnings::of(&mut ebpf),
            slots,
            rows,
            absent: offsets.absent,
            ebpf,
        };
        program.attach(&kernel)
    }

    fn attach(mut self, kernel: &aya::Btf) -> Result<Self, OffReason> {
        self.attach_program(HOOK, kernel)?;
        Ok(self)
    }

    fn attach_program(&mut self, name: &'static str, kernel: &aya::Btf) -> Result<(), OffReason> {
        let missing = || OffReason::Refused {
            step: name,
            why: "not in the object".to_owned(),
        };
        let program: &mut BtfTracePoint = self
            .ebpf
            .program_mut(name)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(missing)?;
        let refused = |error: aya::programs::ProgramError| OffReason::Refused {
            step: "the program at sched_switch",
            why: chain(&error),
        };
        program.load(HOOK, kernel).map_err(refused)?;
        program.attach().map_err(refused)?;
        Ok(())
    }

    /// Nanoseconds in and runs of (our program, its empty twin), as counted while statistics are on.
    pub(super) fn run_stats(&self) -> Option<[(u64, u64); 2]> {
        let of = |name| {
            let program: &BtfTracePoint = self.ebpf.program(name)?.try_into().ok()?;
            let info = program.info().ok()?;
            Some((
                u64::try_from(info.run_time().as_nanos()).ok()?,
                info.run_count(),
            ))
        };
        Some([of(HOOK)?, of(EMPTY)?])
    }

    /// Attaches the empty twin, or detaches it.
    pub(super) fn empty_twin(&mut self, on: bool) -> Result<(), OffReason> {
        if !on {
            if let Some(Ok(program)) = self
                .ebpf
                .program_mut(EMPTY)
                .map(<&mut BtfTracePoint>::try_from)
            {
                // A program that is not loaded needs no unloading.
                let _unloaded = program.unload();
            }
            return Ok(());
        }
        let kernel = aya::Btf::from_sys_fs().map_err(|error| OffReason::NoBtf {
            why: error.to_string(),
        })?;
        self.attach_program(EMPTY, &kernel)
    }

    /// Totals of a slot on a CPU.
    pub(super) fn counters_of(&self, row: usize, slot: u32) -> Option<SlotCounters> {
        self.counters.get(self.counters_at(row, slot))
    }

    /// Drops what is remembered of cgroups that lead to such a slot.
    pub(super) fn forget(&self, drops: impl Fn(u32) -> bool) {
        for index in 0..self.css.len() {
            if let Some(entry) = self.css.get(index)
                && entry.serial != 0
                && drops(entry.owner.slot)
            {
                self.css.zero(index);
            }
        }
    }

    /// Where they are in `counters`.
    pub(super) fn counters_at(&self, row: usize, slot: u32) -> usize {
        row * (self.slots as usize + 1) + 1 + slot as usize
    }

    /// What a CPU runs.
    pub(super) fn cpu_state(&self, row: usize) -> Option<CpuState> {
        let at = row * (self.slots as usize + 1) * STATE_EVERY as usize;
        self.states.get(at)
    }

    /// Memory of the maps.
    pub(super) fn map_bytes(&self) -> u64 {
        let bytes = |count: usize, size: usize| (count * size) as u64;
        bytes(self.counters.len(), size_of::<SlotCounters>())
            + bytes(self.preemptions.len(), size_of::<u64>())
            + bytes(self.css.len(), size_of::<Css>())
            + bytes(TASK_ENTRIES as usize, size_of::<ThreadHistory>())
    }
}

/// One row per CPU number that may ever exist.
fn rows(topology: &Topology) -> u32 {
    let known = topology.cpus.last().map_or(0, |cpu| cpu.id.0);
    let possible = fs::read_to_string("/sys/devices/system/cpu/possible")
        .ok()
        .and_then(|list| list.trim().rsplit([',', '-']).next()?.parse().ok())
        .unwrap_or(0);
    known.max(possible).saturating_add(1)
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, OffReason> {
    ebpf.take_map(name).ok_or(OffReason::Refused {
        step: name,
        why: "not in the object".to_owned(),
    })
}

/// Borrows a map: a map that is dropped before the program is loaded would be gone.
fn borrowed<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Map, OffReason> {
    ebpf.map_mut(name).ok_or(OffReason::Refused {
        step: name,
        why: "not in the object".to_owned(),
    })
}

fn mapped<T: super::mapped::Plain>(
    ebpf: &mut Ebpf,
    name: &'static str,
    entries: u32,
) -> Result<MappedArray<T>, OffReason> {
    let refused = |why: String| OffReason::Refused { step: name, why };
    let Some(Map::Array(map)) = ebpf.map(name) else {
        return Err(refused("not an array".to_owned()));
    };
    MappedArray::new(map.fd().as_fd(), entries)
        .map_err(|error| refused(format!("cannot map it into memory: {error}")))
}

/// Tells the program the location of each CPU.
fn describe(ebpf: &mut Ebpf, topology: &Topology) -> Result<(), OffReason> {
    let refused = |error: aya::maps::MapError| OffReason::Refused {
        step: "the table of CPUs",
        why: chain(&error),
    };
    let dense = |position: Option<usize>| position.map_or(0, |at| at as u64 & 0xffff);
    let mut places: Array<_, u64> = Array::try_from(borrowed(ebpf, "PLACES")?).map_err(refused)?;
    for cpu in &topology.cpus {
        let CpuId(row) = cpu.id;
        let core = dense(topology.cores.iter().position(|group| group.id == cpu.core));
        let llc = dense(topology.llcs.iter().position(|group| group.id == cpu.llc));
        let node = dense(topology.nodes.iter().position(|node| node.id == cpu.node));
        let package = dense(
            topology
                .packages
                .iter()
                .position(|group| group.id == cpu.package),
        );
        // Four 16-bit numbers in the order of `resmgr_common::CpuLocation`.
        let place = core | llc << 16 | node << 32 | package << 48;
        places.set(row, place, 0).map_err(refused)?;
    }
    let mut distances: Array<_, u32> =
        Array::try_from(borrowed(ebpf, "DISTANCES")?).map_err(refused)?;
    let all = topology.nodes.iter().flat_map(|from| {
        topology
            .nodes
            .iter()
            .map(|to| topology.distance(from.id, to.id))
    });
    for (index, distance) in all.enumerate() {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        distances
            .set(index, u32::from(distance), 0)
            .map_err(refused)?;
    }
    Ok(())
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    // The verifier's log has many lines; the last ones tell why.
    let lines: Vec<&str> = line
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    match lines.len() {
        0..=4 => lines.join(" "),
        count => format!("{} … {}", lines[0], lines[count - 4..].join(" | ")),
    }
}
