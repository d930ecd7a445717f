//! Which container ran where over time, as an SVG: a row for each CPU, a column for each slice of time, and the
//! colour of the container that ran there most. Each class of containers has a hue, each container a shade
//! of it; a triangle over the plot is a move by feedback.

use crate::kernel::{Handle, Stretch};
use resmgr_policy::{ContainerId, trace::Class};
use resmgr_topology::{Cpu, CpuId, Topology};
use std::{collections::BTreeMap, fmt::Write as _};

const COLUMNS: u64 = 300;
const LEFT: usize = 122;
const TOP: usize = 66;
const WIDTH: usize = 900;
const RIGHT: usize = 24;
/// From the plot to the legend: ticks, their numbers and the name of the axis.
const AXIS: usize = 54;
const LEGEND_COLUMNS: usize = 4;
const LEGEND_ROW: usize = 18;

/// Collects which container ran where.
#[derive(Clone, Debug)]
pub struct Timeline {
    cpus: Vec<Cpu>,
    duration_ns: u64,
    column_ns: u64,
    names: BTreeMap<Handle, (ContainerId, Class)>,
    /// CPU time by column, CPU and container.
    ran_ns: BTreeMap<(u64, CpuId), BTreeMap<Handle, u64>>,
    busy_ns: BTreeMap<CpuId, u64>,
    moves: Vec<(u64, Handle)>,
}

impl Timeline {
    pub(crate) fn new(topology: &Topology, duration_ms: u64) -> Self {
        let mut cpus = topology.cpus.clone();
        cpus.retain(|cpu| topology.online.contains(cpu.id));
        cpus.sort_by_key(|cpu| (cpu.package, cpu.node, cpu.core, cpu.id));
        let duration_ns = duration_ms.saturating_mul(1_000_000).max(1);
        Self {
            cpus,
            duration_ns,
            column_ns: (duration_ns / COLUMNS).max(1),
            names: BTreeMap::new(),
            ran_ns: BTreeMap::new(),
            busy_ns: BTreeMap::new(),
            moves: Vec::new(),
        }
    }

    pub(crate) fn name(&mut self, handle: Handle, id: &ContainerId, class: Class) {
        self.names.insert(handle, (id.clone(), class));
    }

    pub(crate) fn moved(&mut self, handle: Handle, at_ns: u64) {
        self.moves.push((at_ns, handle));
    }

    pub(crate) fn add(&mut self, stretches: Vec<Stretch>) {
        for stretch in stretches {
            let column = (stretch.until_ns.saturating_sub(1) / self.column_ns).min(COLUMNS - 1);
            let cell = self.ran_ns.entry((column, stretch.cpu)).or_default();
            *cell.entry(stretch.container).or_default() += stretch.ran_ns;
            *self.busy_ns.entry(stretch.cpu).or_default() += stretch.ran_ns;
        }
    }

    /// CPU time used on each CPU since the last call.
    pub(crate) fn take_busy(&mut self) -> BTreeMap<CpuId, u64> {
        std::mem::take(&mut self.busy_ns)
    }

    /// The drawing. The first line of the text is its title, the rest is small print below it.
    #[must_use]
    pub fn svg(&self, text: &str) -> String {
        let row = self.row();
        let bottom = TOP + self.cpus.len() * row;
        let legend = self.names.len().div_ceil(LEGEND_COLUMNS) * LEGEND_ROW;
        let (width, height) = (LEFT + WIDTH + RIGHT, bottom + AXIS + legend + 30);
        let mut svg = Svg::default();
        svg.put(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" font-family=\"Helvetica,Arial,sans-serif\" font-size=\"11\" fill=\"#333\">"
        ));
        svg.put(format_args!(
            "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
        ));
        let mut lines = text.lines();
        let title = escape(lines.next().unwrap_or_default());
        svg.put(format_args!(
            "<text x=\"{LEFT}\" y=\"24\" font-size=\"16\" font-weight=\"bold\" fill=\"#111\">{title}</text>"
        ));
        let small: Vec<&str> = lines.collect();
        let small = escape(&small.join(" · "));
        svg.put(format_args!(
            "<text x=\"{LEFT}\" y=\"42\" fill=\"#666\">{small}</text>"
        ));
        svg.put(format_args!(
            "<rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{WIDTH}\" height=\"{}\" fill=\"#f4f4f2\"/>",
            bottom - TOP
        ));
        for (place, cpu) in self.cpus.iter().enumerate() {
            self.cells(&mut svg, cpu.id, TOP + place * row, row);
        }
        self.rulers(&mut svg, row);
        self.time(&mut svg, bottom);
        for (at_ns, handle) in &self.moves {
            let (x, colour) = (self.x(*at_ns), self.colour(*handle));
            svg.put(format_args!(
                "<path d=\"M{} {} h10 l-5 8 z\" fill=\"{colour}\" stroke=\"#333\" stroke-width=\"0.6\"/>",
                x - 5,
                TOP - 11
            ));
        }
        self.legend(&mut svg, bottom + AXIS);
        svg.put(format_args!("</svg>"));
        svg.0
    }

    /// Height of a CPU's row: large machines get thin ones.
    fn row(&self) -> usize {
        (720 / self.cpus.len().max(1)).clamp(3, 14)
    }

    fn x(&self, at_ns: u64) -> usize {
        let wide = u128::from(at_ns) * 900 / u128::from(self.duration_ns);
        LEFT + usize::try_from(wide).unwrap_or(WIDTH).min(WIDTH)
    }

    /// One CPU's row; neighbouring columns of the same container are one rectangle.
    fn cells(&self, svg: &mut Svg, cpu: CpuId, y: usize, row: usize) {
        let most = |column: u64| {
            let cell = self.ran_ns.get(&(column, cpu))?;
            let (handle, ran) = cell.iter().max_by_key(|(_, ran)| **ran)?;
            // Less than an eighth of the time counts as idle.
            (*ran * 8 > self.column_ns).then_some(*handle)
        };
        let mut column = 0;
        while column < COLUMNS {
            let start = column;
            let container = most(start);
            while column < COLUMNS && most(column) == container {
                column += 1;
            }
            if let Some(handle) = container {
                let (x, end) = (
                    self.x(start * self.column_ns),
                    self.x(column * self.column_ns),
                );
                svg.put(format_args!(
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" fill=\"{}\"/>",
                    end - x,
                    row.saturating_sub(1).max(1),
                    self.colour(handle)
                ));
            }
        }
    }

    /// What the rows are: numbers of CPUs, and beside them NUMA nodes and packages.
    fn rulers(&self, svg: &mut Svg, row: usize) {
        let every = 9_usize.div_ceil(row);
        for (place, cpu) in self.cpus.iter().enumerate().step_by(every) {
            let y = TOP + place * row + row / 2 + 3;
            svg.put(format_args!(
                "<text x=\"{}\" y=\"{y}\" font-size=\"9\" text-anchor=\"end\">{}</text>",
                LEFT - 6,
                cpu.id
            ));
        }
        svg.put(format_args!(
            "<text x=\"{}\" y=\"{}\" font-size=\"9\" text-anchor=\"end\" fill=\"#666\">CPU</text>",
            LEFT - 6,
            TOP - 5
        ));
        let node = |cpu: &Cpu| cpu.node.0;
        let package = |cpu: &Cpu| cpu.package.0;
        self.brackets(svg, row, LEFT - 36, "node", "#999", &node);
        self.brackets(svg, row, LEFT - 76, "package", "#111", &package);
    }

    /// A bracket along the rows of each part of the machine, and a line across the plot between two.
    fn brackets(
        &self,
        svg: &mut Svg,
        row: usize,
        x: usize,
        name: &str,
        colour: &str,
        part: &dyn Fn(&Cpu) -> u32,
    ) {
        let mut first = 0;
        for place in 1..=self.cpus.len() {
            let (Some(of), next) = (self.cpus.get(first), self.cpus.get(place)) else {
                return;
            };
            let (of, next) = (part(of), next.map(part));
            if next == Some(of) {
                continue;
            }
            let (y1, y2) = (TOP + first * row + 1, TOP + place * row - 2);
            svg.put(format_args!(
                "<path d=\"M{} {y1} h-4 V{y2} h4\" fill=\"none\" stroke=\"{colour}\"/>\
                 <text font-size=\"10\" text-anchor=\"middle\" \
                 transform=\"translate({} {}) rotate(-90)\">{name} {of}</text>",
                x + 8,
                x - 2,
                usize::midpoint(y1, y2)
            ));
            if next.is_some() {
                svg.put(format_args!(
                    "<line x1=\"{}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"0.8\"/>",
                    x + 4,
                    LEFT + WIDTH,
                    y = TOP + place * row
                ));
            }
            first = place;
        }
    }

    /// The axis of time: round numbers of seconds, or of milliseconds in short runs.
    fn time(&self, svg: &mut Svg, bottom: usize) {
        let ms = self.duration_ns / 1_000_000;
        let (unit_ms, unit) = if ms < 3_000 { (1, "ms") } else { (1_000, "s") };
        let total = ms / unit_ms;
        let step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000]
            .into_iter()
            .find(|step| total / step <= 12)
            .unwrap_or(10_000);
        for tick in (0..=total).step_by(usize::try_from(step).unwrap_or(1)) {
            let x = self.x(tick * unit_ms * 1_000_000);
            svg.put(format_args!(
                "<line x1=\"{x}\" x2=\"{x}\" y1=\"{bottom}\" y2=\"{}\" stroke=\"#666\"/>\
                 <text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>",
                bottom + 5,
                bottom + 17
            ));
        }
        svg.put(format_args!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"#666\">simulated time ({unit})</text>",
            LEFT + WIDTH / 2,
            bottom + 34
        ));
    }

    fn legend(&self, svg: &mut Svg, top: usize) {
        let mut names: Vec<_> = self.names.iter().collect();
        names.sort_by_key(|(handle, (_, class))| (*class, **handle));
        for (place, (handle, (id, class))) in names.into_iter().enumerate() {
            let x = LEFT + place % LEGEND_COLUMNS * (WIDTH / LEGEND_COLUMNS);
            let y = top + place / LEGEND_COLUMNS * LEGEND_ROW;
            let kind = format!("{class:?}").to_lowercase();
            let short: String = id.0.chars().take(24).collect();
            svg.put(format_args!(
                "<rect x=\"{x}\" y=\"{y}\" width=\"14\" height=\"10\" rx=\"2\" fill=\"{}\"/>\
                 <text x=\"{}\" y=\"{}\">{} <tspan fill=\"#888\">({kind})</tspan></text>",
                self.colour(*handle),
                x + 20,
                y + 9,
                escape(&short)
            ));
        }
        let y = top + self.names.len().div_ceil(LEGEND_COLUMNS) * LEGEND_ROW + 12;
        svg.put(format_args!(
            "<text x=\"{LEFT}\" y=\"{y}\" fill=\"#666\">colour: the container that ran there most · blank: idle for seven \
             eighths of the time · triangle: moved by feedback</text>"
        ));
    }

    fn colour(&self, handle: Handle) -> String {
        let Some((_, class)) = self.names.get(&handle) else {
            return "#999".to_owned();
        };
        let hue = match class {
            Class::Chatty => 8,
            Class::Latency => 212,
            Class::Batch => 42,
            Class::Bursty => 145,
        };
        let same = self.names.iter().filter(|(_, (_, named))| named == class);
        let place = same.take_while(|(earlier, _)| **earlier < handle).count();
        // Neighbours differ well; there is no end of them.
        let light = 42 + place * 17 % 36;
        format!("hsl({hue},62%,{light}%)")
    }
}

#[derive(Default)]
struct Svg(String);

impl Svg {
    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let written = self.0.write_fmt(element);
        debug_assert!(written.is_ok(), "a string takes everything");
        self.0.push('\n');
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
