//! The live picture: what is on the screen and what keys change. Pure; `daemon::commands` owns the terminal.

use super::{
    map::{self, Runner},
    text,
    units::span,
    view::{TopContainer, TopView},
};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Paragraph, Row, Table, TableState},
};

/// What a key does to the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScreenAction {
    /// Select the container above.
    Up,
    /// Select the container below.
    Down,
    /// Sort by the next column.
    Sort,
    /// Stop or go on.
    Pause,
    /// Numbers since each container was first measured, in place of the last interval.
    Total,
}

/// What the containers are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    #[default]
    Hurt,
    Ran,
    Migrated,
    Name,
}

impl Order {
    fn next(self) -> Self {
        match self {
            Self::Hurt => Self::Ran,
            Self::Ran => Self::Migrated,
            Self::Migrated => Self::Name,
            Self::Name => Self::Hurt,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Hurt => "what hurts",
            Self::Ran => "CPU time",
            Self::Migrated => "migrations",
            Self::Name => "name",
        }
    }
}

/// The screen: the last two pictures and how they are shown.
#[derive(Debug)]
pub struct Screen {
    last: TopView,
    between: Option<TopView>,
    order: Order,
    /// Id of the selected container.
    selected: Option<String>,
    paused: bool,
    total: bool,
    /// Why the picture is not fresh.
    trouble: Option<String>,
}

/// Colours of containers on the map, repeated when there are more.
const COLOURS: [Color; 6] = [
    Color::Cyan,
    Color::Green,
    Color::Yellow,
    Color::Magenta,
    Color::Blue,
    Color::Red,
];

impl Screen {
    /// Begins with a first picture, whose numbers count from when a container was first measured.
    #[must_use]
    pub fn new(first: TopView) -> Self {
        Self {
            last: first,
            between: None,
            order: Order::default(),
            selected: None,
            paused: false,
            total: false,
            trouble: None,
        }
    }

    /// Takes the next picture; while paused it is dropped.
    pub fn update(&mut self, now: TopView) {
        self.trouble = None;
        if self.paused {
            return;
        }
        self.between = Some(now.since(&self.last));
        self.last = now;
    }

    /// Shows why there is no newer picture; the last one stays.
    pub fn trouble(&mut self, why: String) {
        self.trouble = Some(why);
    }

    /// Does what a key asks.
    pub fn press(&mut self, key: ScreenAction) {
        match key {
            ScreenAction::Sort => self.order = self.order.next(),
            ScreenAction::Pause => self.paused = !self.paused,
            ScreenAction::Total => self.total = !self.total,
            ScreenAction::Up => self.step(|index, _| index.saturating_sub(1)),
            ScreenAction::Down => self.step(|index, last| (index + 1).min(last)),
        }
    }

    fn step(&mut self, to: impl Fn(usize, usize) -> usize) {
        let rows = self.rows();
        let Some(last) = rows.len().checked_sub(1) else {
            return;
        };
        let now = self.place(&rows);
        let next = now.map_or(0, |index| to(index, last));
        self.selected = rows.get(next).map(|container| container.id.clone());
    }

    fn place(&self, rows: &[&TopContainer]) -> Option<usize> {
        let selected = self.selected.as_deref()?;
        rows.iter().position(|container| container.id == selected)
    }

    fn view(&self) -> &TopView {
        match &self.between {
            Some(between) if !self.total => between,
            _ => &self.last,
        }
    }

    /// Containers in the order shown.
    pub(super) fn rows(&self) -> Vec<&TopContainer> {
        let mut rows: Vec<_> = self.view().containers.iter().collect();
        let migrated = |container: &TopContainer| container.migrations.iter().sum::<u64>();
        // The view itself is sorted by what hurts; the sort is stable.
        match self.order {
            Order::Hurt => {}
            Order::Ran => rows.sort_by_key(|container| std::cmp::Reverse(container.total_run_ns())),
            Order::Migrated => rows.sort_by_key(|container| std::cmp::Reverse(migrated(container))),
            Order::Name => rows.sort_by_key(|container| container.name()),
        }
        rows
    }

    /// Draws everything.
    pub fn draw(&self, frame: &mut Frame<'_>) {
        let view = self.view();
        let lines = map_lines(view);
        let area = frame.area();
        let map_height = u16::try_from(lines.len() + 2)
            .unwrap_or(u16::MAX)
            .min(area.height / 2);
        let detail_height = if self.selected.is_some() { 5 } else { 0 };
        let [title, cpus, table, detail, keys] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(map_height),
            Constraint::Min(3),
            Constraint::Length(detail_height),
            Constraint::Length(1),
        ])
        .areas(area);
        frame.render_widget(Line::from(self.title()), title);
        let block = Block::bordered()
            .title(" the container that ran most on each CPU, and how busy it was ");
        frame.render_widget(Paragraph::new(lines).block(block), cpus);
        self.draw_table(frame, table);
        self.draw_detail(frame, detail);
        let help = " q quit   s sort   t since start/last interval   space pause   ↑↓ select";
        frame.render_widget(Line::from(help).style(Modifier::DIM), keys);
    }

    fn title(&self) -> Vec<Span<'static>> {
        let view = self.view();
        let mut title = vec![Span::styled(
            " cri-resmgr top ",
            Style::new().add_modifier(Modifier::REVERSED),
        )];
        let quality = match view.quality.as_str() {
            "exact" => Color::Green,
            _ => Color::Yellow,
        };
        title.push(Span::styled(
            format!(" telemetry {} ", view.quality),
            Style::new().fg(quality),
        ));
        if let Some(reason) = &view.reason {
            title.push(Span::raw(format!("({reason}) ")));
        }
        if view.over_ns > 0 {
            let per_s = u128::from(view.switches) * 1_000_000_000 / u128::from(view.over_ns);
            title.push(Span::raw(format!(
                " over {}  {per_s} switches/s",
                span(view.over_ns)
            )));
        } else {
            title.push(Span::raw(" since each was first measured"));
        }
        if let Some(cost) = view.cost_ns {
            title.push(Span::raw(format!("  measuring costs {cost:.0} ns each")));
        }
        title.push(Span::raw(format!("  sorted by {}", self.order.name())));
        if self.paused {
            title.push(Span::styled("  PAUSED", Style::new().fg(Color::Yellow)));
        }
        if let Some(trouble) = &self.trouble {
            title.push(Span::styled(
                format!("  {trouble}"),
                Style::new().fg(Color::Red),
            ));
        }
        title
    }

    fn draw_table(&self, frame: &mut Frame<'_>, area: Rect) {
        let view = self.view();
        let names = map::names(view);
        let containers = self.rows();
        let rows = containers.iter().map(|container| {
            let index = names
                .get(container.id.as_str())
                .copied()
                .unwrap_or(usize::MAX);
            let [sibling, cache, same_node, node, package] = container.migrations;
            let run = container.total_run_ns();
            let foreign: u64 = container.foreign_ns.values().sum();
            let cells = [
                Span::styled(map::letter(index).to_string(), colour(index)),
                Span::raw(container.name()),
                Span::raw(if container.cpus.is_empty() {
                    "any".to_owned()
                } else {
                    container.cpus.clone()
                }),
                Span::raw(amount(run, view.over_ns)),
                Span::styled(
                    amount(container.contention_ns, view.over_ns),
                    alarm(container.contention_ns, run / 10, run / 2),
                ),
                Span::styled(
                    amount(container.throttled_ns, view.over_ns),
                    alarm(container.throttled_ns, run / 10, run / 2),
                ),
                Span::raw(format!("{}/{}", container.voluntary, container.involuntary)),
                Span::raw((sibling + cache + same_node).to_string()),
                Span::styled(node.to_string(), alarm(node, 0, u64::MAX)),
                Span::styled(package.to_string(), alarm(package, 0, u64::MAX)),
                Span::styled(
                    amount(container.outside_ns, view.over_ns),
                    alarm(container.outside_ns, 0, 0),
                ),
                Span::styled(
                    match container.worst_intruder() {
                        Some(worst) => format!("{} {worst}", amount(foreign, view.over_ns)),
                        None => amount(foreign, view.over_ns),
                    },
                    alarm(foreign, 0, run / 100),
                ),
            ];
            Row::new(cells)
        });
        let longest = |cell: &dyn Fn(&TopContainer) -> usize, least: usize| {
            let widest = containers.iter().map(|container| cell(container)).max();
            u16::try_from(widest.unwrap_or_default().max(least)).unwrap_or(u16::MAX)
        };
        let widths = [
            Constraint::Length(1),
            Constraint::Length(longest(&|container| container.name().chars().count(), 9)),
            Constraint::Length(longest(&|container| container.cpus.len(), 4)),
            Constraint::Length(8),
            Constraint::Length(8),
            Constraint::Length(9),
            Constraint::Length(15),
            Constraint::Length(8),
            Constraint::Length(6),
            Constraint::Length(8),
            Constraint::Length(7),
            // The name is cut off first.
            Constraint::Min(7),
        ];
        let head = Row::new([
            "",
            "CONTAINER",
            "CPUS",
            "RAN",
            "WAITED",
            "THROTTLED",
            "SWITCHES",
            "MIGRATED",
            "X-NODE",
            "X-SOCKET",
            "OUTSIDE",
            "FOREIGN",
        ])
        .style(Modifier::BOLD);
        let mut state = TableState::default().with_selected(self.place(&containers));
        let table = Table::new(rows, widths)
            .header(head)
            .row_highlight_style(Modifier::REVERSED)
            .column_spacing(2)
            .block(Block::bordered().title(" containers "));
        frame.render_stateful_widget(table, area, &mut state);
    }

    fn draw_detail(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.rows();
        let Some(container) = self.place(&rows).and_then(|index| rows.get(index)) else {
            return;
        };
        let mut by_cpu: Vec<_> = container.run_ns.iter().filter(|(_, ns)| **ns > 0).collect();
        by_cpu.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
        let by_cpu: Vec<_> = by_cpu
            .into_iter()
            .map(|(cpu, ns)| format!("CPU {cpu} {}", amount(*ns, self.view().over_ns)))
            .collect();
        let or_none = |text: String| {
            if text.is_empty() {
                "none".to_owned()
            } else {
                text
            }
        };
        let lines = vec![
            Line::from(format!(
                "id {}   exclusive CPUs {}",
                container.id,
                or_none(container.exclusive.clone())
            )),
            Line::from(format!("ran on {}", or_none(by_cpu.join(", ")))),
            Line::from(format!(
                "on its exclusive CPUs: {}",
                text::foreign(&container.foreign_ns)
            )),
        ];
        let block = Block::bordered().title(format!(" {} ", container.name()));
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }
}

/// The share of a CPU over an interval; without an interval, the sum.
fn amount(ns: u64, over_ns: u64) -> String {
    if over_ns == 0 {
        return span(ns);
    }
    let tenths = u128::from(ns) * 1_000 / u128::from(over_ns);
    if tenths == 0 && ns > 0 {
        return "<0.1%".to_owned();
    }
    format!("{}.{}%", tenths / 10, tenths % 10)
}

/// Plain up to `notice`, yellow above, red above `alarm`.
fn alarm(value: u64, notice: u64, alarm: u64) -> Style {
    if value <= notice {
        Style::new()
    } else if value <= alarm {
        Style::new().fg(Color::Yellow)
    } else {
        Style::new().fg(Color::Red)
    }
}

fn colour(index: usize) -> Style {
    let colour = COLOURS.get(index % COLOURS.len()).copied();
    Style::new().fg(colour.unwrap_or(Color::Gray))
}

fn map_lines(view: &TopView) -> Vec<Line<'static>> {
    let lines = map::map(view);
    let width = |cell: fn(&map::MapLine) -> &str| {
        let widths = lines.iter().map(|line| cell(line).chars().count());
        widths.max().unwrap_or_default()
    };
    let package = width(|line| &line.package);
    let node = width(|line| &line.node);
    let cpus = width(|line| &line.cpus);
    let line = |line: &map::MapLine| {
        let mut spans = vec![Span::raw(format!(
            "{:package$}  {:node$}  CPUs {:cpus$}  ",
            line.package, line.node, line.cpus
        ))];
        for core in &line.cores {
            for square in core {
                let style = match square.runner {
                    Runner::Container(index) => colour(index),
                    Runner::Outside | Runner::Idle => Style::new().add_modifier(Modifier::DIM),
                };
                let drawn = format!("{}{}", square.runner.letter(), square.bar);
                spans.push(Span::styled(drawn, style));
            }
            spans.push(Span::raw(" "));
        }
        Line::from(spans)
    };
    lines.iter().map(line).collect()
}
