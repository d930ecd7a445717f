//! Which container runs where, drawn as the machine is built: a line for each cache, cores apart, threads of a
//! core together.

use super::{
    units::bar,
    view::{Seat, TopContainer, TopView},
};
use std::collections::BTreeMap;

/// Most cores on a line; a larger cache goes on below.
const CORES_A_LINE: usize = 16;

/// What ran most on a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runner {
    /// A container, by its place in [`names`].
    Container(usize),
    /// Processes outside containers, or the kernel.
    Outside,
    /// The CPU idled.
    Idle,
}

impl Runner {
    /// Its letter in the map: `A` to `Z`, `a` to `z`, `#` for containers beyond, `*` for others.
    pub(super) fn letter(self) -> char {
        match self {
            Self::Container(index) => letter(index),
            Self::Outside => '*',
            Self::Idle => '·',
        }
    }
}

/// A CPU of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Square {
    pub(super) runner: Runner,
    /// How busy it was, of the busiest (or of the interval).
    pub(super) bar: char,
}

/// A line of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MapLine {
    /// `socket 0`, or blank when as above.
    pub(super) package: String,
    /// `node 1`, or blank when as above.
    pub(super) node: String,
    /// The line's CPUs in the kernel's list format.
    pub(super) cpus: String,
    /// Cores and their threads.
    pub(super) cores: Vec<Vec<Square>>,
}

/// The letter of the container at this place.
pub(super) fn letter(index: usize) -> char {
    ('A'..='Z').chain('a'..='z').nth(index).unwrap_or('#')
}

/// Containers by name, which keeps letters and colours from a picture to the next.
pub(super) fn names(view: &TopView) -> BTreeMap<&str, usize> {
    let mut named: Vec<_> = view
        .containers
        .iter()
        .map(|container| {
            (
                &container.namespace,
                &container.pod,
                &container.container,
                container.id.as_str(),
            )
        })
        .collect();
    named.sort_unstable();
    let ids = named.into_iter().map(|(.., id)| id);
    ids.enumerate().map(|(index, id)| (id, index)).collect()
}

/// The map of a picture.
pub(super) fn map(view: &TopView) -> Vec<MapLine> {
    let names = names(view);
    let whole = if view.over_ns > 0 {
        view.over_ns
    } else {
        view.busy_ns.values().copied().max().unwrap_or_default()
    };
    let square = |seat: &Seat| {
        let busy = view.busy_ns.get(&seat.cpu).copied().unwrap_or_default();
        let ran =
            |container: &TopContainer| container.run_ns.get(&seat.cpu).copied().unwrap_or_default();
        let contained: u64 = view.containers.iter().map(ran).sum();
        let most = view
            .containers
            .iter()
            .map(|container| (ran(container), container.id.as_str()))
            .max_by(|a, b| a.0.cmp(&b.0).then_with(|| b.1.cmp(a.1)));
        let outside_ns = busy.saturating_sub(contained);
        let runner = match most {
            Some((ns, id)) if ns > 0 && ns >= outside_ns => {
                Runner::Container(names.get(id).copied().unwrap_or(usize::MAX))
            }
            _ if outside_ns > 0 => Runner::Outside,
            _ => Runner::Idle,
        };
        Square {
            runner,
            bar: bar_of(busy.max(contained), whole),
        }
    };
    let mut lines = Vec::new();
    let mut above = (None, None);
    for cache in view
        .cpus
        .chunk_by(|a, b| (a.package, a.node, a.llc) == (b.package, b.node, b.llc))
    {
        let cores: Vec<_> = cache.chunk_by(|a, b| a.core == b.core).collect();
        for some in cores.chunks(CORES_A_LINE) {
            let Some(first) = some.first().and_then(|core| core.first()) else {
                continue;
            };
            let named = |new: bool, level: &str, id: u32| match new {
                true => format!("{level} {id}"),
                false => String::new(),
            };
            let node_here = Some((first.package, first.node));
            let package = named(above.0 != Some(first.package), "socket", first.package);
            let node = named(above.1 != node_here, "node", first.node);
            above = (Some(first.package), node_here);
            let cpus: resmgr_topology::CpuSet = some
                .iter()
                .flat_map(|core| core.iter())
                .map(|seat| resmgr_topology::CpuId(seat.cpu))
                .collect();
            lines.push(MapLine {
                package,
                node,
                cpus: cpus.to_string(),
                cores: some
                    .iter()
                    .map(|core| core.iter().map(square).collect())
                    .collect(),
            });
        }
    }
    lines
}

fn bar_of(busy: u64, whole: u64) -> char {
    match bar(busy, whole) {
        // In the map an idle CPU's letter says it already.
        '·' => ' ',
        level => level,
    }
}
