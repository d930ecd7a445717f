//! Who ran where over time, as an SVG: a row for each CPU, a column for each slice of time, and the
//! colour of the container that ran there most. Grey lines part NUMA nodes, black ones packages.

use crate::kernel::{Handle, Stretch};
use resmgr_policy::ContainerId;
use resmgr_topology::{CpuId, Topology};
use std::{collections::BTreeMap, fmt::Write as _};

const COLUMNS: u64 = 300;
const WIDTH: u64 = 3;
const ROW: usize = 8;
const LEGEND: usize = 16;

/// Collects who ran where.
#[derive(Clone, Debug)]
pub struct Timeline {
    cpus: Vec<resmgr_topology::Cpu>,
    column_ns: u64,
    names: BTreeMap<Handle, ContainerId>,
    /// CPU time by column, CPU and container.
    ran_ns: BTreeMap<(u64, CpuId), BTreeMap<Handle, u64>>,
    busy_ns: BTreeMap<CpuId, u64>,
}

impl Timeline {
    pub(crate) fn new(topology: &Topology, duration_ms: u64) -> Self {
        let mut cpus = topology.cpus.clone();
        cpus.retain(|cpu| topology.online.contains(cpu.id));
        cpus.sort_by_key(|cpu| (cpu.package, cpu.node, cpu.core, cpu.id));
        Self {
            cpus,
            column_ns: (duration_ms.saturating_mul(1_000_000) / COLUMNS).max(1),
            names: BTreeMap::new(),
            ran_ns: BTreeMap::new(),
            busy_ns: BTreeMap::new(),
        }
    }

    pub(crate) fn name(&mut self, handle: Handle, id: &ContainerId) {
        self.names.insert(handle, id.clone());
    }

    pub(crate) fn add(&mut self, stretches: Vec<Stretch>) {
        for one in stretches {
            let column = (one.until_ns.saturating_sub(1) / self.column_ns).min(COLUMNS - 1);
            let cell = self.ran_ns.entry((column, one.cpu)).or_default();
            *cell.entry(one.container).or_default() += one.ran_ns;
            *self.busy_ns.entry(one.cpu).or_default() += one.ran_ns;
        }
    }

    /// CPU time used on each CPU since the last call.
    pub(crate) fn take_busy(&mut self) -> BTreeMap<CpuId, u64> {
        std::mem::take(&mut self.busy_ns)
    }

    /// The drawing.
    #[must_use]
    pub fn svg(&self, title: &str) -> String {
        let rows = self.cpus.len() * ROW;
        let height = rows + 30 + self.names.len() * LEGEND;
        let width = COLUMNS * WIDTH + 60;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"10\">\n<rect width=\"100%\" height=\"100%\" \
             fill=\"white\"/>\n<text x=\"50\" y=\"14\">{}</text>\n",
            escape(title)
        );
        for (row, cpu) in self.cpus.iter().enumerate() {
            let y = 20 + row * ROW;
            put(
                &mut svg,
                format_args!(
                    "<text x=\"4\" y=\"{}\" font-size=\"8\">CPU {}</text>",
                    y + 7,
                    cpu.id
                ),
            );
            for column in 0..COLUMNS {
                let most = self.ran_ns.get(&(column, cpu.id)).and_then(|cell| {
                    let most = cell.iter().max_by_key(|(_, ran)| **ran);
                    // Less than an eighth of the time counts as idle.
                    most.filter(|(_, ran)| **ran * 8 > self.column_ns)
                });
                if let Some((handle, _)) = most {
                    let x = 50 + column * WIDTH;
                    let colour = self.colour(*handle);
                    put(
                        &mut svg,
                        format_args!(
                            "<rect x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{ROW}\" fill=\"{colour}\"/>"
                        ),
                    );
                }
            }
            let before = row.checked_sub(1).and_then(|row| self.cpus.get(row));
            let stroke = match before {
                Some(before) if before.package != cpu.package => "black",
                Some(before) if before.node != cpu.node => "#aaa",
                _ => continue,
            };
            put(
                &mut svg,
                format_args!(
                    "<line x1=\"50\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\" stroke=\"{stroke}\"/>",
                    50 + COLUMNS * WIDTH
                ),
            );
        }
        for (row, (handle, id)) in self.names.iter().enumerate() {
            let y = 34 + rows + row * LEGEND;
            let colour = self.colour(*handle);
            put(
                &mut svg,
                format_args!(
                    "<rect x=\"50\" y=\"{}\" width=\"12\" height=\"10\" fill=\"{colour}\"/><text x=\"68\" y=\"{y}\">{}</text>",
                    y - 9,
                    escape(&id.0)
                ),
            );
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// Golden-angle hues: neighbours in the legend differ well.
    fn colour(&self, handle: Handle) -> String {
        let position = self
            .names
            .keys()
            .position(|one| *one == handle)
            .unwrap_or(0);
        format!("hsl({},65%,55%)", position * 137 % 360)
    }
}

fn put(svg: &mut String, element: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let written = svg.write_fmt(element);
    debug_assert!(written.is_ok(), "a string takes everything");
    svg.push('\n');
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
