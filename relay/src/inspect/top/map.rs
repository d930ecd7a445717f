//! Which container runs where, drawn as the machine is built: a line for each cache, cores apart, threads of a
//! core together.

use super::{
    units::bar,
    view::{Seat, TopView},
};
use std::collections::BTreeMap;

/// Most cores on a line of text; a larger cache goes on below.
pub(super) const CORES_A_LINE: usize = 16;

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
    /// `socket 0  node 1  CPUs 4-7  `, without what is as above, as long as those of the other lines.
    pub(super) label: String,
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

/// The map of a picture, with at most so many cores on a line.
pub(super) fn map(view: &TopView, cores_a_line: usize) -> Vec<MapLine> {
    let names = names(view);
    let whole = if view.over_ns > 0 {
        view.over_ns
    } else {
        view.busy_ns.values().copied().max().unwrap_or_default()
    };
    // By CPU what containers ran together, and the container that ran most, of equals the first by id.
    let mut ran = BTreeMap::<u32, (u64, u64, &str)>::new();
    for container in &view.containers {
        for (cpu, ns) in &container.run_ns {
            let (sum, most, id) = ran.entry(*cpu).or_default();
            *sum += ns;
            if *ns > *most || *ns == *most && container.id.as_str() < *id {
                (*most, *id) = (*ns, &container.id);
            }
        }
    }
    let square = |seat: &Seat| {
        let busy = view.busy_ns.get(&seat.cpu).copied().unwrap_or_default();
        let (contained, most, id) = ran.get(&seat.cpu).copied().unwrap_or_default();
        let outside_ns = busy.saturating_sub(contained);
        let runner = match most {
            1.. if most >= outside_ns => {
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
        for some in cores.chunks(cores_a_line) {
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
            let squares = |core: &&[Seat]| core.iter().map(square).collect();
            let squares: Vec<Vec<_>> = some.iter().map(squares).collect();
            lines.push(([package, node, cpus.to_string()], squares));
        }
    }
    let width = |cell: usize| {
        let widths = lines.iter().map(|(label, _)| label[cell].len());
        widths.max().unwrap_or_default()
    };
    let widths = [width(0), width(1), width(2)];
    lines
        .into_iter()
        .map(|([package, node, cpus], cores)| {
            let [for_package, for_node, for_cpus] = widths;
            let label =
                format!("{package:for_package$}  {node:for_node$}  CPUs {cpus:for_cpus$}  ");
            MapLine { label, cores }
        })
        .collect()
}

fn bar_of(busy: u64, whole: u64) -> char {
    match bar(busy, whole) {
        // In the map an idle CPU's letter says it already.
        '·' => ' ',
        level => level,
    }
}
