//! The detail pane: where a container runs, what it waits for and how long, and why it is there.

use super::{
    columns::{Column, existing, largest_first},
    fit::{beginning, joined},
    names::shortened_sources,
    screen::Screen,
    units::{bytes, long_bar, number, share},
    view::{TopContainer, TopView},
};
use ratatui::{style::Modifier, text::Line};
use std::collections::BTreeMap;

/// Sources of waits and of foreign time that are named.
const SOURCES: usize = 5;

/// The narrowest pane in which the causes stand beside the histogram.
const TWO_HALVES: usize = 76;

/// The pane in so many characters and lines.
pub(super) fn lines(
    screen: &Screen,
    container: &TopContainer,
    width: usize,
    height: usize,
) -> Vec<Line<'static>> {
    let view = screen.view();
    let mut facts = vec![
        ("CPUs", cpus(container)),
        ("ran on", ran_on(container, view)),
    ];
    if let Some(decision) = screen.decision(container) {
        facts.push(("because", decision.to_owned()));
    }
    let (moves, numbers): (Vec<_>, Vec<_>) = existing(view)
        .into_iter()
        .filter(|column| !column.is_text() && *column != Column::MemoryFar)
        .partition(|column| column.is_migration());
    let total = view.over_ns == 0;
    let number = |column: &Column| {
        let cell = column.cell(container, view, 9);
        (column.heading(total), cell.trim().to_owned())
    };
    let numbers = numbers.iter().map(number);
    let numbers: Vec<_> = numbers
        .map(|((name, unit), cell)| format!("{name} {cell} {unit}"))
        .collect();
    let room = width.saturating_sub(9);
    let (first, second) = numbers.split_at(numbers.len().div_ceil(2));
    facts.push(("numbers", joined(first, room).trim_start().to_owned()));
    facts.push(("", joined(second, room).trim_start().to_owned()));
    let moves = moves.iter().map(number);
    let moves: Vec<_> = moves
        .map(|((name, _), cell)| format!("{name} {cell}"))
        .collect();
    let (_, unit) = Column::OtherNode.heading(total);
    facts.push((unit, joined(&moves, room).trim_start().to_owned()));
    if !container.memory_bytes.is_empty() {
        facts.push(("memory", memory(container, view)));
    }
    // As many characters of the id as `crictl ps` shows.
    let id: String = container.id.chars().take(13).collect();
    let name = beginning(&format!(" {}   id {id}", container.name()), width);
    let mut lines = vec![Line::from(name).style(Modifier::BOLD)];
    let facts = facts
        .iter()
        .map(|(name, fact)| beginning(&format!(" {name:<8} {fact}"), width));
    lines.extend(facts.map(Line::from));
    lines.push(Line::default());

    let room = height.saturating_sub(lines.len());
    if width < TWO_HALVES {
        let mut below = causes(container, view, width);
        below.extend(histogram(
            container,
            width,
            room.saturating_sub(below.len()),
        ));
        lines.extend(below.iter().map(|line| Line::from(beginning(line, width))));
        return lines;
    }
    let half = width / 2;
    let left = histogram(container, half - 2, room);
    let right = causes(container, view, width - half);
    for index in 0..left.len().max(right.len()).min(room) {
        let text = |half: &[String]| half.get(index).cloned().unwrap_or_default();
        let line = format!("{:<half$}{}", text(&left), text(&right));
        lines.push(Line::from(beginning(line.trim_end(), width)));
    }
    lines
}

fn cpus(container: &TopContainer) -> String {
    match (&*container.cpus, &*container.exclusive) {
        ("", _) => "any".to_owned(),
        (cpus, "") => format!("{cpus}, none exclusively"),
        (cpus, exclusive) if cpus == exclusive => format!("{cpus}, all exclusively"),
        (cpus, exclusive) => format!("{cpus}, of these exclusively {exclusive}"),
    }
}

/// Where it ran, the CPU that it used most first.
fn ran_on(container: &TopContainer, view: &TopView) -> String {
    let by_cpu = container.run_ns.iter().filter(|(_, ns)| **ns > 0);
    let mut by_cpu: Vec<_> = by_cpu.collect();
    by_cpu.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
    let amount = |ns: u64| match view.over_ns {
        0 => format!("{} s", number(ns as f64 / 1e9, 1, 9).trim()),
        over_ns => share(ns, over_ns).trim().to_owned(),
    };
    let by_cpu = by_cpu
        .into_iter()
        .map(|(cpu, ns)| format!("CPU {cpu} {}", amount(*ns)));
    let by_cpu: Vec<_> = by_cpu.collect();
    match by_cpu.is_empty() {
        true => "no CPU".to_owned(),
        false => by_cpu.join(", "),
    }
}

fn memory(container: &TopContainer, view: &TopView) -> String {
    let nodes = container.memory_bytes.iter();
    let nodes = nodes.map(|(node, amount)| format!("node {node} {}", bytes(*amount)));
    let mut nodes: Vec<_> = nodes.collect();
    if existing(view).contains(&Column::MemoryFar) {
        let far = Column::MemoryFar.cell(container, view, 9);
        nodes.push(format!("{} % far from its CPUs", far.trim()));
    }
    nodes.join(", ")
}

/// What it waits for, and what runs on its exclusive CPUs.
fn causes(container: &TopContainer, view: &TopView, width: usize) -> Vec<String> {
    let mut lines = vec!["WAITS FOR   its parts of WAIT, estimated".to_owned()];
    lines.extend(sources(&container.waited_for_ns, container, width));
    lines.push(String::new());
    if container.exclusive.is_empty() {
        return lines;
    }
    let (_, unit) = Column::Foreign.heading(view.over_ns == 0);
    let foreign = Column::Foreign.cell(container, view, 9);
    lines.push(format!(
        "ON ITS EXCLUSIVE CPUS RAN   {} {unit}",
        foreign.trim()
    ));
    lines.extend(sources(&container.foreign_ns, container, width));
    lines
}

/// The largest sources with their shares.
fn sources(sums: &BTreeMap<String, u64>, container: &TopContainer, width: usize) -> Vec<String> {
    let whole = sums.values().sum();
    let sources = largest_first(sums);
    if sources.is_empty() {
        return vec![" nothing".to_owned()];
    }
    let own = container.name();
    let names = sources.iter().map(|(source, _)| *source);
    let names = shortened_sources(names, width.saturating_sub(7));
    let name = |source: &str| match source == own {
        true => "itself",
        false => names.get(source).map_or("", String::as_str),
    };
    let line = |(source, ns): &(&str, u64)| format!("{}  {}", share(*ns, whole), name(source));
    let (named, rest) = sources.split_at(sources.len().min(SOURCES));
    let mut lines: Vec<_> = named.iter().map(line).collect();
    if !rest.is_empty() {
        let ns = rest.iter().map(|(_, ns)| ns).sum();
        lines.push(format!("{}  {} more", share(ns, whole), rest.len()));
    }
    lines
}

/// The number of its waits by length. Where `height` has no room for all lengths, the shortest are one line.
fn histogram(container: &TopContainer, width: usize, height: usize) -> Vec<String> {
    let counts = &container.wait_histogram;
    let mut lines = vec!["WAITS BY LENGTH".to_owned()];
    let first = counts.iter().position(|count| *count > 0);
    let last = counts.iter().rposition(|count| *count > 0);
    let Some((first, last)) = first.zip(last) else {
        lines.push(" none".to_owned());
        return lines;
    };
    let first = first.max((last + 2).saturating_sub(height));
    let short = counts.get(..=first).unwrap_or_default().iter().sum();
    let longer = counts.get(first + 1..=last).unwrap_or_default();
    let counts: Vec<u64> = std::iter::once(short)
        .chain(longer.iter().copied())
        .collect();
    let most = counts.iter().copied().max().unwrap_or_default();
    for (bucket, count) in (first..).zip(counts) {
        let bar = long_bar(count, most, width.saturating_sub(19));
        let count = number(count as f64, 0, 8);
        lines.push(
            format!(" {:>7} {count} {bar}", length(bucket))
                .trim_end()
                .to_owned(),
        );
    }
    lines
}

/// The waits of a bucket: the powers of two of microseconds that bound them, and of these the next unit.
fn length(bucket: usize) -> String {
    let unit = |power: usize| match power {
        0..10 => format!("{}us", 1 << power),
        10..20 => format!("{}ms", 1 << (power - 10)),
        power => format!("{}s", 1 << (power - 20)),
    };
    match resmgr_common::bucket_ceiling_ns(bucket) {
        Some(_) => format!("< {}", unit(bucket)),
        None => format!(">= {}", unit(bucket - 1)),
    }
}
