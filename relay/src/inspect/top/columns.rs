//! The columns of the live table: what each shows, which the machine has, and which fit the width.

use super::{
    fit::printable,
    units::number,
    view::{TopContainer, TopView},
};
use std::{cmp::Ordering, collections::BTreeMap};

/// A column, in the order in which columns stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Column {
    /// Namespace, pod and container.
    Name,
    /// CPUs that it may use.
    Cpus,
    /// CPU time.
    Used,
    /// Run-queue wait.
    Wait,
    /// The longest waits but one in a hundred.
    P99,
    /// Throttling by its quota.
    Throttled,
    /// Time of others on its exclusive CPUs.
    Foreign,
    /// Time outside its CPUs.
    Outside,
    /// Preemptions by others.
    Preempted,
    /// Migrations to the SMT sibling.
    Sibling,
    /// Migrations within a last-level cache.
    WithinCache,
    /// Migrations to another last-level cache of the NUMA node.
    OtherCache,
    /// Migrations to another NUMA node of the package.
    OtherNode,
    /// Migrations to another package.
    OtherPackage,
    /// Memory on NUMA nodes that its CPUs are not on.
    MemoryFar,
    /// What it waits for most.
    WaitsFor,
    /// What runs most on its exclusive CPUs.
    ForeignBy,
}

/// All columns, the most worth first: a narrow screen has the first of them.
const BY_WORTH: [Column; 17] = [
    Column::Name,
    Column::Wait,
    Column::Used,
    Column::WaitsFor,
    Column::Throttled,
    Column::Foreign,
    Column::P99,
    Column::Cpus,
    Column::OtherPackage,
    Column::OtherNode,
    Column::Preempted,
    Column::Outside,
    Column::ForeignBy,
    Column::MemoryFar,
    Column::OtherCache,
    Column::WithinCache,
    Column::Sibling,
];

/// How alarming a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tone {
    Plain,
    /// Worth a look.
    Notice,
    /// Shown with an exclamation mark.
    Alarm,
}

impl Column {
    /// Its two lines of heading: what it shows, and the unit; of sums since the beginning when `total`.
    pub(super) fn heading(self, total: bool) -> (&'static str, &'static str) {
        let rate = |rate, sum| if total { sum } else { rate };
        let moves = rate("moves/s", "moves");
        match self {
            Self::Name => ("NAME", "namespace/pod"),
            Self::Cpus => ("CPUS", "allowed"),
            Self::Used => ("CPU", rate("used", "s")),
            Self::Wait => ("WAIT", rate("ms/s", "s")),
            Self::P99 => ("P99", "us"),
            Self::Throttled => ("THROTTLED", rate("ms/s", "s")),
            Self::Foreign => ("FOREIGN", rate("ms/s", "s")),
            Self::Outside => ("OUTSIDE", rate("ms/s", "s")),
            Self::Preempted => ("PREEMPTED", rate("times/s", "times")),
            Self::Sibling => ("SIBLING", moves),
            Self::WithinCache => ("IN-LLC", moves),
            Self::OtherCache => ("X-LLC", moves),
            Self::OtherNode => ("X-NODE", moves),
            Self::OtherPackage => ("X-SOCKET", moves),
            Self::MemoryFar => ("MEM FAR", "%"),
            Self::WaitsFor => ("WAITS MOST FOR", "share of WAIT"),
            Self::ForeignBy => ("FOREIGN MOST BY", "share of FOREIGN"),
        }
    }

    /// Whether its cells are words, which stand on the left.
    pub(super) fn is_text(self) -> bool {
        matches!(
            self,
            Self::Name | Self::Cpus | Self::WaitsFor | Self::ForeignBy
        )
    }

    /// Whether it counts migrations.
    pub(super) fn is_migration(self) -> bool {
        (Self::Sibling..=Self::OtherPackage).contains(&self)
    }

    /// Characters of its cells, the gap behind left out, on a screen of this width; of text the fewest.
    fn least(self, width: usize) -> usize {
        match self {
            Self::Name => (width / 5).clamp(18, 36).min(width.saturating_sub(9)),
            Self::Used => 5,
            Self::WaitsFor | Self::ForeignBy => (width / 7).clamp(16, 36),
            Self::Throttled | Self::Preempted => 9,
            Self::OtherPackage => 8,
            _ => 7,
        }
    }

    fn exists(self, view: &TopView) -> bool {
        let several = |part: fn(&super::Seat) -> (u32, u32), whole: fn(&super::Seat) -> u32| {
            let mut parts = BTreeMap::new();
            view.cpus
                .iter()
                .any(|seat| *parts.entry(whole(seat)).or_insert_with(|| part(seat)) != part(seat))
        };
        match self {
            Self::Sibling => several(|seat| (seat.cpu, 0), |seat| seat.core),
            Self::WithinCache => several(|seat| (seat.core, 0), |seat| seat.llc),
            Self::OtherCache => several(|seat| (seat.llc, 0), |seat| seat.node),
            Self::OtherNode => several(|seat| (seat.node, 0), |seat| seat.package),
            Self::OtherPackage => several(|seat| (seat.package, 0), |_| 0),
            Self::MemoryFar => several(|seat| (seat.node, 0), |_| 0),
            _ => true,
        }
    }

    /// What its number is made of: nanoseconds, times, or thousandths. `None` where it is not known, and for words.
    pub(super) fn amount(self, container: &TopContainer, view: &TopView) -> Option<u64> {
        let exact = view.is_exact();
        let [
            sibling,
            within_cache,
            other_cache,
            other_node,
            other_package,
        ] = container.migrations;
        match self {
            Self::Name | Self::Cpus => None,
            Self::Used => (exact || !container.run_ns.is_empty()).then(|| container.total_run_ns()),
            Self::Wait => Some(container.contention_ns),
            Self::Throttled => Some(container.throttled_ns),
            Self::MemoryFar => memory_far(container, view),
            _ if !exact => None,
            Self::P99 => Some(container.wait_p99_ns()).filter(|ns| *ns > 0),
            Self::Foreign => Some(container.total_foreign_ns()),
            Self::Outside => Some(container.outside_ns),
            Self::Preempted => Some(container.preempted),
            Self::Sibling => Some(sibling),
            Self::WithinCache => Some(within_cache),
            Self::OtherCache => Some(other_cache),
            Self::OtherNode => Some(other_node),
            Self::OtherPackage => Some(other_package),
            Self::WaitsFor | Self::ForeignBy => self.worst(container).map(|(_, ns)| ns),
        }
    }

    /// The source that [`WaitsFor`](Self::WaitsFor) and [`ForeignBy`](Self::ForeignBy) show, and its nanoseconds.
    pub(super) fn worst(self, container: &TopContainer) -> Option<(&str, u64)> {
        largest_first(self.sources(container)?).first().copied()
    }

    fn sources(self, container: &TopContainer) -> Option<&BTreeMap<String, u64>> {
        match self {
            Self::WaitsFor => Some(&container.waited_for_ns),
            Self::ForeignBy => Some(&container.foreign_ns),
            _ => None,
        }
    }

    /// The cell of a number in `width` characters.
    pub(super) fn cell(self, container: &TopContainer, view: &TopView, width: usize) -> String {
        let Some(amount) = self.amount(container, view) else {
            return format!("{:>width$}", "-");
        };
        let rate = 1e9 / view.over_ns.max(1) as f64;
        let total = view.over_ns == 0;
        let amount = amount as f64;
        match self {
            Self::P99 => number((amount / 1e3).floor(), 0, width),
            Self::MemoryFar => number((amount / 10.0).round(), 0, width),
            Self::Used if total => number(amount / 1e9, 1, width),
            Self::Used => number(amount / 1e9 * rate, 2, width),
            Self::Wait | Self::Throttled | Self::Foreign | Self::Outside if total => {
                number(amount / 1e9, 2, width)
            }
            Self::Wait | Self::Throttled | Self::Foreign | Self::Outside => {
                number(amount / 1e6 * rate, 1, width)
            }
            _ if total => number(amount, 0, width),
            _ => number(amount * rate, 1, width),
        }
    }

    /// How alarming its number is, beside the CPU time of the container.
    pub(super) fn tone(self, container: &TopContainer, view: &TopView) -> Tone {
        let run = container.total_run_ns();
        // What is less than a hundredth of the time hurts little, also where it is much beside the CPU time.
        let least = view.over_ns / 100;
        let (notice, alarm) = match self {
            Self::Wait | Self::Throttled => (least.max(run / 10), least.max(run / 2)),
            Self::Foreign => (0, run / 100),
            Self::Outside => (0, 0),
            Self::OtherNode | Self::OtherPackage | Self::MemoryFar => (0, u64::MAX),
            _ => return Tone::Plain,
        };
        match self.amount(container, view).unwrap_or_default() {
            amount if amount > alarm => Tone::Alarm,
            amount if amount > notice => Tone::Notice,
            _ => Tone::Plain,
        }
    }

    /// The order of two rows: large numbers first, unknown ones last, words by the alphabet.
    pub(super) fn order(self, a: &TopContainer, b: &TopContainer, view: &TopView) -> Ordering {
        match self {
            Self::Name => a.name().cmp(&b.name()),
            Self::Cpus => a.cpus.cmp(&b.cpus),
            _ => self.amount(b, view).cmp(&self.amount(a, view)),
        }
    }
}

/// Sources with their sums, without those that are zero.
pub(super) fn largest_first(sums: &BTreeMap<String, u64>) -> Vec<(&str, u64)> {
    let sums = sums.iter().filter(|(_, sum)| **sum > 0);
    let mut sums: Vec<_> = sums.map(|(source, sum)| (source.as_str(), *sum)).collect();
    sums.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    sums
}

/// How much of its memory is on NUMA nodes on which it has no CPU (without a CPU set: on which it did not run), thousandths.
fn memory_far(container: &TopContainer, view: &TopView) -> Option<u64> {
    let whole: u64 = container.memory_bytes.values().sum();
    let cpus = container.cpus.parse::<resmgr_topology::CpuSet>().ok()?;
    let near = |node: u32| {
        let mut seats = view.cpus.iter().filter(|seat| seat.node == node);
        seats.any(|seat| match cpus.is_empty() {
            true => container.run_ns.get(&seat.cpu).is_some_and(|ns| *ns > 0),
            false => cpus.contains(resmgr_topology::CpuId(seat.cpu)),
        })
    };
    if whole == 0 || cpus.is_empty() && container.total_run_ns() == 0 {
        return None;
    }
    let memory = container.memory_bytes.iter();
    let far: u64 = memory
        .filter(|(node, _)| !near(**node))
        .map(|(_, bytes)| bytes)
        .sum();
    u64::try_from(u128::from(far) * 1000 / u128::from(whole)).ok()
}

/// Columns that this machine has.
pub(super) fn existing(view: &TopView) -> Vec<Column> {
    let mut columns = BY_WORTH.to_vec();
    columns.retain(|column| column.exists(view));
    columns.sort_unstable();
    columns
}

/// The columns that fit `width`, with the characters of their cells; behind each cell is a gap of one character. `wanted`,
/// the column that rows are sorted by, is among them if only it and the name fit.
///
/// What changes from a picture to the next has no influence, so that columns stay where they are.
pub(super) fn fitting(
    view: &TopView,
    containers: &[&TopContainer],
    width: usize,
    wanted: Option<Column>,
) -> Vec<(Column, usize)> {
    let longest = |cell: fn(&TopContainer) -> usize| {
        let cells = containers.iter().map(|container| cell(container));
        cells.max().unwrap_or_default()
    };
    let exclusive = longest(|container| container.exclusive.len()) > 0;
    let mut room = width;
    let mut columns = Vec::new();
    let by_worth = BY_WORTH
        .into_iter()
        .filter(|column| Some(*column) != wanted);
    let after_name = wanted.into_iter().chain(by_worth);
    for column in std::iter::once(Column::Name).chain(after_name) {
        let empty = column == Column::ForeignBy && !exclusive && wanted != Some(column);
        let least = column.least(width);
        let known = columns.iter().any(|(shown, _)| *shown == column);
        if !empty && !known && column.exists(view) && least < room {
            columns.push((column, least));
            room -= least + 1;
        }
    }
    columns.sort_unstable();
    // What is left goes to words; those at the end take all of it.
    let name = longest(|container| printable(&container.name()).len());
    let cpus = longest(|container| container.cpus.len()).min(11);
    for (column, most, of_the_rest) in [
        (Column::Cpus, cpus, 1),
        (Column::Name, name, 2),
        (Column::ForeignBy, 60, 2),
        (Column::WaitsFor, 60, 1),
        (Column::Name, name, 1),
    ] {
        if let Some((_, width)) = columns.iter_mut().find(|(shown, _)| *shown == column) {
            let more = most.saturating_sub(*width).min(room / of_the_rest);
            *width += more;
            room -= more;
        }
    }
    columns
}

/// Characters of a share before the name of a source.
pub(super) const SHARE: usize = 6;
