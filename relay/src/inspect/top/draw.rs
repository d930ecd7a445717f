//! Draws the live picture. Every line is composed for the width that there is: a number is shown whole or not at all.

use super::{
    columns::{Column, SHARE, Tone, fitting},
    detail,
    fit::{beginning, joined, printable},
    map::{self, Runner},
    names::{shortened, shortened_sources},
    screen::{Drawn, Pane, Screen},
    units::{number, share, span},
    view::{TopContainer, TopView},
};
use ratatui::{
    Frame,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::{Line, Span},
};
use std::collections::BTreeMap;

/// Colours of containers on the map, repeated when there are more.
const COLOURS: [Color; 6] = [
    Color::Cyan,
    Color::Green,
    Color::Yellow,
    Color::Magenta,
    Color::Blue,
    Color::Red,
];

/// Characters before the CPUs of the map, in most cases.
const LABEL: usize = 40;

/// What `?` shows.
const HELP: &str = "\
KEYS
 ↑ ↓ PgUp PgDn Home End   select a container     Enter   its detail; Esc back
 < >  or o                sort by a column       r       reverse the order
 /                        filter by name; Esc    p       pause
 t                        rates, or sums         m       map of the CPUs
COLUMNS   rates of the last interval. ! is much beside the container's CPU time
 CPU             CPUs in use
 WAIT            threads were ready and had no CPU: their time, added up
 P99             of 100 waits 99 were shorter
 THROTTLED       its own CPU limit stopped it
 FOREIGN         others ran on its exclusive CPUs
 WAITS MOST FOR  what ran meanwhile (an estimate), and its share of WAIT;
                 itself: its own threads wait for each other
 CPUS, OUTSIDE   CPUs that it may use; time that it ran on other CPUs
 PREEMPTED       another container or a service took the CPU from it
 MEM FAR         part of its memory on NUMA nodes on which it has no CPU
 Its threads moved to ...
 SIBLING  the other thread of a core        X-NODE    another NUMA node
 IN-LLC   a core of the same cache (LLC)    X-SOCKET  another socket
 X-LLC    another cache of the NUMA node
 worst first: by WAIT + THROTTLED + FOREIGN + OUTSIDE          -: not known";

impl Screen {
    /// Draws everything.
    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let (width, height) = (usize::from(area.width), usize::from(area.height));
        let (lines, drawn) = self.lines(width, height);
        self.drawn = drawn;
        for (line, y) in lines.into_iter().zip(area.top()..area.bottom()) {
            frame.render_widget(
                line,
                Rect {
                    y,
                    height: 1,
                    ..area
                },
            );
        }
    }

    pub(super) fn lines(&self, width: usize, height: usize) -> (Vec<Line<'static>>, Drawn) {
        let mut drawn = Drawn {
            page: 0,
            ..self.drawn
        };
        let rows = self.rows();
        let mut lines = Vec::new();
        let notice = self.notice();
        let middle = height.saturating_sub(2 + usize::from(notice.is_some()));
        let mut body = match self.pane {
            Pane::Help { .. } => HELP
                .lines()
                .map(|line| Line::from(beginning(line, width)))
                .collect(),
            Pane::Detail => match self.detailed() {
                Some(container) => detail::lines(self, container, width, middle),
                None => vec![Line::from(beginning(" this container runs no more", width))],
            },
            Pane::Table => self.table(&rows, width, middle, &mut drawn),
        };
        body.resize(middle, Line::default());
        lines.push(self.title(&rows, width, drawn));
        lines.extend(notice.map(|notice| {
            let text = beginning(&format!(" ! {}", printable(&notice)), width);
            Line::from(text).style(self.style(Tone::Alarm))
        }));
        lines.append(&mut body);
        lines.push(self.footer(width));
        (lines, drawn)
    }

    /// Why the numbers are not what they should be.
    fn notice(&self) -> Option<String> {
        let view = self.view();
        let quality = || {
            let reason = view.reason.as_deref()?;
            Some(format!("telemetry {}: {reason}", view.quality))
        };
        self.trouble.clone().or_else(quality)
    }

    fn title(&self, rows: &[&TopContainer], width: usize, drawn: Drawn) -> Line<'static> {
        let view = self.view();
        let mut parts = Vec::new();
        if self.paused {
            parts.push("PAUSED".to_owned());
        }
        parts.push(match view.over_ns {
            0 => "sums since measured".to_owned(),
            over_ns => format!("last {}", span(over_ns)),
        });
        let (page, found, all) = (drawn.page, rows.len(), view.containers.len());
        let containers = match found {
            1 => "1 container".to_owned(),
            _ if page > 0 && page < found => {
                let last = (drawn.first + page).min(found);
                format!("{}-{last} of {found} containers", drawn.first + 1)
            }
            _ => format!("{found} containers"),
        };
        parts.push(containers);
        if !self.filter.is_empty() {
            let filter = printable(&self.filter);
            parts.push(format!("of {all}, filter {filter}"));
        }
        if !view.is_exact() {
            parts.push(format!("telemetry {}", view.quality));
        }
        let order = self.order.map_or("worst", |order| order.heading(false).0);
        parts.push(match (self.order, self.reversed) {
            (None, false) => "worst first".to_owned(),
            (None, true) => "worst last".to_owned(),
            (Some(_), false) => format!("by {order}"),
            (Some(_), true) => format!("by {order}, reversed"),
        });
        if view.over_ns > 0 {
            let over_ns = view.over_ns as f64;
            let busy_ns: u64 = view.busy_ns.values().sum();
            let (busy, all) = (busy_ns as f64 / over_ns, view.cpus.len());
            parts.push(format!("{busy:.1} of {all} CPUs busy"));
            let switches = number(view.switches as f64 * 1e9 / over_ns, 0, 8);
            parts.push(format!("{} switches/s", switches.trim()));
        }
        if view.is_exact() {
            parts.push(format!("telemetry {}", view.quality));
        }
        if let Some(cost) = view.cost_ns {
            parts.push(format!("{cost:.0} ns a switch"));
        }
        let name = beginning(" cri-resmgr top ", width);
        let rest = joined(&parts, width.saturating_sub(name.len()));
        Line::from(vec![
            Span::styled(name, Modifier::REVERSED),
            Span::raw(rest),
        ])
    }

    fn footer(&self, width: usize) -> Line<'static> {
        let text = if self.typing {
            // Of a long filter the end, where it is being written.
            let filter = printable(&self.filter);
            let begin = filter.len().saturating_sub(width.saturating_sub(10));
            let typed = format!(" filter: {}_", filter.get(begin..).unwrap_or_default());
            let keys = "Enter keeps it   Esc clears it";
            match typed.len() + 3 + keys.len() <= width {
                true => format!("{typed}   {keys}"),
                false => typed,
            }
        } else {
            let keys: &[&str] = match self.pane {
                Pane::Table if self.filter.is_empty() => &[
                    "q quit",
                    "? help",
                    "Enter detail",
                    "< > sort",
                    "/ filter",
                    "r reverse",
                    "p pause",
                    "t sums",
                    "m map",
                    "↑↓ select",
                ],
                Pane::Table => &[
                    "q quit",
                    "? help",
                    "Esc all containers",
                    "Enter detail",
                    "< > sort",
                    "/ filter",
                    "p pause",
                ],
                Pane::Detail => &[
                    "q quit",
                    "Esc back",
                    "↑↓ next container",
                    "p pause",
                    "t sums",
                    "? help",
                ],
                Pane::Help { .. } => &["q quit", "Esc back"],
            };
            joined(keys, width)
        };
        Line::from(beginning(&text, width))
            .style(self.style(Tone::Plain).add_modifier(Modifier::DIM))
    }

    /// The CPUs if they are shown, headings, and as many rows as there is room for.
    fn table(
        &self,
        rows: &[&TopContainer],
        width: usize,
        height: usize,
        drawn: &mut Drawn,
    ) -> Vec<Line<'static>> {
        let view = self.view();
        let mut lines = self.map_lines(width);
        let most = match self.map {
            Some(true) => height / 2,
            Some(false) => 0,
            None => height / 4,
        };
        drawn.map = !lines.is_empty() && lines.len() <= most;
        if !drawn.map {
            lines.clear();
        }
        let marks = if drawn.map { 3 } else { 2 };
        let columns = fitting(view, rows, width.saturating_sub(marks), self.order);
        let headings = self.headings(&columns, marks);
        // A very low screen has the names of the columns and no units.
        let used = lines.len();
        let headings = headings
            .into_iter()
            .take(if height - used < 6 { 1 } else { 2 });
        lines.extend(headings);
        let selected = self.place(rows);
        drawn.page = height.saturating_sub(lines.len());
        let last = rows.len().saturating_sub(drawn.page);
        drawn.first = match drawn.first.min(last) {
            first if selected < first => selected,
            first => first.max((selected + 1).saturating_sub(drawn.page)),
        };
        if rows.is_empty() {
            let why = match self.filter.as_str() {
                "" => " no containers",
                _ => " no container has this in its name",
            };
            lines.push(Line::from(beginning(why, width)));
        }
        let letters = map::names(view);
        let names = ShortNames::new(rows, &columns);
        let shown = rows.iter().enumerate().skip(drawn.first).take(drawn.page);
        lines.extend(shown.map(|(index, container)| {
            let letter = letters.get(container.id.as_str());
            let letter = letter.copied().filter(|_| drawn.map);
            self.row(container, index == selected, letter, &columns, &names)
        }));
        lines
    }

    fn headings(&self, columns: &[(Column, usize)], marks: usize) -> [Line<'static>; 2] {
        let total = self.view().over_ns == 0;
        let mut lines = [" ".repeat(marks), " ".repeat(marks)];
        for (column, width) in columns {
            let arrow = match self.order == Some(*column) {
                true if self.reversed => "▲",
                true => "▼",
                false => " ",
            };
            let (name, unit) = column.heading(total);
            for (line, (text, behind)) in lines.iter_mut().zip([(name, arrow), (unit, " ")]) {
                let text = beginning(text, *width);
                *line += &match column.is_text() {
                    true => format!("{:<rest$}", text + behind, rest = width + 1),
                    false => format!("{text:>width$}{behind}"),
                };
            }
        }
        let [names, units] = lines;
        [
            Line::from(names).style(Modifier::BOLD),
            Line::from(units).style(Modifier::DIM),
        ]
    }

    fn row(
        &self,
        container: &TopContainer,
        selected: bool,
        letter: Option<usize>,
        columns: &[(Column, usize)],
        names: &ShortNames,
    ) -> Line<'static> {
        let view = self.view();
        let mut spans = vec![Span::raw(if selected { ">" } else { " " })];
        if let Some(letter) = letter {
            let style = self.letter_style(letter);
            spans.push(Span::styled(map::letter(letter).to_string(), style));
        }
        spans.push(Span::raw(" "));
        for (column, width) in columns {
            if column.is_text() {
                let text = names.cell(*column, container, view, *width);
                spans.push(Span::raw(format!("{:<width$} ", beginning(&text, *width))));
                continue;
            }
            let tone = column.tone(container, view);
            let mark = if tone == Tone::Alarm { '!' } else { ' ' };
            let text = column.cell(container, view, *width);
            spans.push(Span::styled(format!("{text}{mark}"), self.style(tone)));
        }
        match selected {
            true => Line::from(spans).style(Modifier::REVERSED),
            false => Line::from(spans),
        }
    }

    pub(super) fn style(&self, tone: Tone) -> Style {
        match tone {
            Tone::Plain => Style::new(),
            Tone::Notice if self.colour => Style::new().fg(Color::Yellow),
            Tone::Notice => Style::new().add_modifier(Modifier::BOLD),
            Tone::Alarm if self.colour => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
            Tone::Alarm => Style::new().add_modifier(Modifier::BOLD),
        }
    }

    fn letter_style(&self, index: usize) -> Style {
        let colour = COLOURS.get(index % COLOURS.len()).copied();
        match colour {
            Some(colour) if self.colour => Style::new().fg(colour),
            _ => Style::new(),
        }
    }

    fn map_lines(&self, width: usize) -> Vec<Line<'static>> {
        let view = self.view();
        let threads = view.cpus.chunk_by(|a, b| a.core == b.core).map(<[_]>::len);
        let core = 2 * threads.max().unwrap_or_default() + 1;
        let fitting = (width.saturating_sub(LABEL) / core).clamp(1, map::CORES_A_LINE);
        let cores = 1 << fitting.ilog2();
        let heading =
            "the container that ran most on each CPU (* outside containers, · idle), how busy";
        let mut lines = vec![Line::from(beginning(heading, width)).style(Modifier::DIM)];
        for line in map::map(view, cores) {
            let mut spans = vec![Span::raw(line.label)];
            for core in &line.cores {
                for square in core {
                    let style = match square.runner {
                        Runner::Container(index) => self.letter_style(index),
                        Runner::Outside | Runner::Idle => Style::new().add_modifier(Modifier::DIM),
                    };
                    let drawn = format!("{}{}", square.runner.letter(), square.bar);
                    spans.push(Span::styled(drawn, style));
                }
                spans.push(Span::raw(" "));
            }
            lines.push(Line::from(spans));
        }
        // A map that is cut off would show the wrong CPUs.
        if lines.iter().any(|line| line.width() > width) {
            lines.clear();
        }
        lines
    }
}

/// The names in the table, by column, cut so that different names differ.
struct ShortNames(BTreeMap<Column, BTreeMap<String, String>>);

impl ShortNames {
    fn new(rows: &[&TopContainer], columns: &[(Column, usize)]) -> Self {
        let words = columns.iter().filter(|(column, _)| column.is_text());
        let words = words.map(|(column, width)| {
            let names: Vec<_> = rows
                .iter()
                .filter_map(|container| match column {
                    Column::Name => Some(container.name()),
                    _ => column.worst(container).map(|(source, _)| source.to_owned()),
                })
                .collect();
            let names = names.iter().map(String::as_str);
            let short = match column {
                Column::Name => shortened(names, *width),
                _ => shortened_sources(names, width.saturating_sub(SHARE)),
            };
            let short = short
                .into_iter()
                .map(|(name, cell)| (name.to_owned(), cell));
            (*column, short.collect())
        });
        Self(words.collect())
    }

    fn cell(
        &self,
        column: Column,
        container: &TopContainer,
        view: &TopView,
        width: usize,
    ) -> String {
        let short = |name: &str| {
            let short = self.0.get(&column).and_then(|short| short.get(name));
            short.cloned().unwrap_or_default()
        };
        match column {
            Column::Name => short(&container.name()),
            Column::Cpus if container.cpus.is_empty() => "any".to_owned(),
            Column::Cpus => beginning(&container.cpus, width),
            _ if !view.is_exact() => "-".to_owned(),
            _ => match column.worst(container) {
                Some((source, ns)) => {
                    let whole = match column {
                        Column::WaitsFor => container.contention_ns,
                        _ => container.total_foreign_ns(),
                    };
                    let source = match container.name() == source {
                        true => "itself".to_owned(),
                        false => short(source),
                    };
                    format!("{} {source}", share(ns, whole))
                }
                None => String::new(),
            },
        }
    }
}
