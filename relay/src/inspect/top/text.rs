//! The picture as text, for `--once`, pipes and the demo.

use super::{
    columns::largest_first,
    map,
    units::{bar, span},
    view::{NonContainerTotals, Seat, TopContainer, TopView},
};
use crate::inspect::view::table;
use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

/// Most characters of the column that shows where a container ran.
const STRIP: usize = 64;

/// What a character of that column stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grain {
    Cpu,
    Core,
    Cache,
    Node,
}

impl Grain {
    /// The finest that fits.
    fn fitting(view: &TopView) -> Self {
        let fits = |grain: &Self| grain.count(view) <= STRIP;
        [Self::Cpu, Self::Core, Self::Cache]
            .into_iter()
            .find(fits)
            .unwrap_or(Self::Node)
    }

    fn of(self, seat: &Seat) -> (u32, u32, u32) {
        let within = match self {
            Self::Cpu => seat.cpu,
            Self::Core => seat.core,
            Self::Cache => seat.llc,
            Self::Node => seat.node,
        };
        (seat.package, seat.node, within)
    }

    fn count(self, view: &TopView) -> usize {
        view.cpus.chunk_by(|a, b| self.of(a) == self.of(b)).count()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Core => "core",
            Self::Cache => "last-level cache",
            Self::Node => "NUMA node",
        }
    }
}

impl TopView {
    /// How much of the container's time was spent where: a package in brackets, nodes parted by `|`.
    fn strip(&self, container: &TopContainer, grain: Grain) -> String {
        let parts: Vec<_> = self
            .cpus
            .chunk_by(|a, b| grain.of(a) == grain.of(b))
            .filter_map(|seats| {
                let first = seats.first()?;
                let ran = |seat: &Seat| container.run_ns.get(&seat.cpu).copied().unwrap_or(0);
                Some((
                    first.package,
                    first.node,
                    seats.iter().map(ran).sum::<u64>(),
                ))
            })
            .collect();
        let most = parts.iter().map(|part| part.2).max().unwrap_or_default();
        let mut strip = String::new();
        for package in parts.chunk_by(|a, b| a.0 == b.0) {
            strip.push('[');
            for (index, node) in package.chunk_by(|a, b| a.1 == b.1).enumerate() {
                if index > 0 {
                    strip.push('|');
                }
                strip.extend(node.iter().map(|(.., ran)| bar(*ran, most)));
            }
            strip.push(']');
        }
        strip
    }
}

/// How many of those that ran on exclusive CPUs are named.
const INTRUDERS: usize = 3;

/// What ran on the exclusive CPUs of a container, in words, the worst first.
fn foreign(by: &BTreeMap<String, u64>) -> String {
    let sources = largest_first(by);
    let (named, rest) = sources.split_at(sources.len().min(INTRUDERS));
    let mut words: Vec<_> = named
        .iter()
        .map(|(source, ns)| format!("{} {source}", span(*ns)))
        .collect();
    if !rest.is_empty() {
        let ran_ns = rest.iter().map(|(_, ns)| ns).sum();
        words.push(format!("{} {} more", span(ran_ns), rest.len()));
    }
    if words.is_empty() {
        "0".to_owned()
    } else {
        words.join(", ")
    }
}

fn write_map(f: &mut fmt::Formatter<'_>, view: &TopView) -> fmt::Result {
    for line in map::map(view, map::CORES_A_LINE) {
        let mut drawn = String::new();
        for core in &line.cores {
            for square in core {
                drawn.push(square.runner.letter());
                drawn.push(square.bar);
            }
            drawn.push(' ');
        }
        writeln!(f, "  {}{}", line.label, drawn.trim_end())?;
    }
    Ok(())
}

impl fmt::Display for TopView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "telemetry {}", self.quality)?;
        if let Some(reason) = &self.reason {
            write!(f, ": {reason}")?;
        }
        if self.over_ns > 0 {
            write!(f, ", over the last {}", span(self.over_ns))?;
        }
        f.write_char('\n')?;
        if !self.busy_ns.is_empty() {
            f.write_str(
                "\nthe container that ran most on each CPU, and how busy it was (* outside containers, · idle):\n",
            )?;
            write_map(f, self)?;
        }
        let grain = Grain::fitting(self);
        writeln!(
            f,
            "\nwhere each ran: one character a {}, a package in brackets, NUMA nodes parted by |\n",
            grain.name()
        )?;
        let names = map::names(self);
        let rows: Vec<_> = self
            .containers
            .iter()
            .map(|container| {
                let [sibling, llc, other_llc, node, package] = container.migrations;
                let key = names.get(container.id.as_str()).copied();
                vec![
                    key.map_or('#', map::letter).to_string(),
                    container.name(),
                    if container.cpus.is_empty() {
                        "any".to_owned()
                    } else {
                        container.cpus.clone()
                    },
                    self.strip(container, grain),
                    span(container.total_run_ns()),
                    span(container.contention_ns),
                    span(container.wait_p99_ns()),
                    span(container.throttled_ns),
                    format!("{}/{}", container.voluntary, container.involuntary),
                    (sibling + llc + other_llc).to_string(),
                    node.to_string(),
                    package.to_string(),
                    span(container.outside_ns),
                    foreign(&container.foreign_ns),
                ]
            })
            .collect();
        let head = [
            "",
            "CONTAINER",
            "CPUS",
            "WHERE",
            "RAN",
            "WAITED",
            "P99",
            "THROTTLED",
            "SWITCHES",
            "MIGRATED",
            "X-NODE",
            "X-SOCKET",
            "OUTSIDE",
            "FOREIGN",
        ];
        f.write_str(&table(&head, &rows))?;
        if self.outside != NonContainerTotals::default()
            || self.kernel != NonContainerTotals::default()
        {
            let rest = |rest: &NonContainerTotals| {
                format!(
                    "ran {}, waited {}, {} switches",
                    span(rest.run_ns),
                    span(rest.wait_ns),
                    rest.switches
                )
            };
            writeln!(f, "\noutside containers: {}", rest(&self.outside))?;
            writeln!(f, "kernel threads: {}", rest(&self.kernel))?;
        }
        Ok(())
    }
}
