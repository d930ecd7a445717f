//! What is attached while a load runs, and what the kernel's statistics say of it.

use anyhow::{Context as _, Result, bail, ensure};
use cri_resmgr::telemetry::bench::{BenchProgram, ProgramVariant};
use resmgr_topology::Topology;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// What is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Nothing,
    Ours(ProgramVariant),
    Runqlat,
    Cpudist,
}

/// What a run cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) switch_ns: f64,
    pub(crate) wake_ns: f64,
    pub(crate) empty_ns: f64,
    pub(crate) per_s: f64,
}

impl Subject {
    /// Rows of the table of costs; ours first.
    pub(crate) const COST: [Self; 7] = [
        Self::Ours(ProgramVariant::ALL[0]),
        Self::Ours(ProgramVariant::ALL[1]),
        Self::Ours(ProgramVariant::ALL[2]),
        Self::Ours(ProgramVariant::ALL[3]),
        Self::Ours(ProgramVariant::ALL[4]),
        Self::Runqlat,
        Self::Cpudist,
    ];
    /// Rows of the table of throughput; nothing first.
    pub(crate) const SPEED: [Self; 4] = [
        Self::Nothing,
        Self::Ours(ProgramVariant::Whole),
        Self::Runqlat,
        Self::Cpudist,
    ];

    /// Attaches it. With `twin`, the empty program of ours is attached beside every one of them.
    pub(crate) fn attach(self, topology: &Topology, twin: bool) -> Result<Attached> {
        let before: BTreeSet<u64> = programs()?.into_keys().collect();
        let mut attached = Attached {
            subject: self,
            ours: None,
            tool: None,
            programs: BTreeSet::new(),
            since: Instant::now(),
        };
        let tool = match self {
            Self::Nothing => None,
            Self::Ours(variant) => {
                attached.ours = Some(BenchProgram::start(topology, variant, twin)?);
                None
            }
            Self::Runqlat => Some(["runqlat", "1000", "1"]),
            Self::Cpudist => Some(["cpudist", "1000", "1"]),
        };
        if let Some(words) = tool {
            let tool = Command::new(words[0])
                .args(&words[1..])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .with_context(|| format!("cannot start {} (libbpf-tools)", words[0]))?;
            attached.tool = Some(tool);
            // They say nothing when they are ready: their programs must be there, and stay the same.
            let deadline = Instant::now() + Duration::from_secs(20);
            let mut last = BTreeSet::new();
            loop {
                let now: BTreeSet<u64> = programs()?
                    .into_keys()
                    .filter(|id| !before.contains(id))
                    .collect();
                if !now.is_empty() && now == last {
                    attached.programs = now;
                    break;
                }
                ensure!(
                    Instant::now() < deadline,
                    "{} attaches no program",
                    words[0]
                );
                last = now;
                pause();
            }
        }
        Ok(attached)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.pad("nothing"),
            Self::Ours(variant) => variant.fmt(f),
            Self::Runqlat => f.pad("runqlat"),
            Self::Cpudist => f.pad("cpudist"),
        }
    }
}

/// An attached subject; taken off when dropped.
#[derive(Debug)]
pub(crate) struct Attached {
    subject: Subject,
    ours: Option<BenchProgram>,
    tool: Option<Child>,
    programs: BTreeSet<u64>,
    since: Instant,
}

/// Nanoseconds and runs at one moment: at switches, at wake-ups, of the empty twin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    switch: (u64, u64),
    wake: (u64, u64),
    empty: (u64, u64),
    at: Instant,
}

impl Attached {
    pub(crate) fn read(&self) -> Result<Reading> {
        let mut reading = Reading {
            switch: (0, 0),
            wake: (0, 0),
            empty: (0, 0),
            at: Instant::now(),
        };
        if let Some(ours) = &self.ours {
            let [whole, empty] = ours.runs().context("no statistics")?;
            reading.switch = (whole.ns, whole.count);
            reading.empty = (empty.ns, empty.count);
            return Ok(reading);
        }
        for (id, program) in programs()? {
            if !self.programs.contains(&id) {
                continue;
            }
            let sum = if program.name.contains("switch") {
                &mut reading.switch
            } else {
                &mut reading.wake
            };
            sum.0 += program.ns;
            sum.1 += program.count;
        }
        if reading.switch.1 == 0 && self.since.elapsed() > Duration::from_secs(5) {
            bail!("{} has not run at any switch", self.subject);
        }
        Ok(reading)
    }
}

impl Reading {
    pub(crate) fn since(&self, before: &Self) -> Option<Cost> {
        let each = |now: (u64, u64), then: (u64, u64)| {
            let runs = now.1.checked_sub(then.1).filter(|runs| *runs != 0)?;
            Some(now.0.saturating_sub(then.0) as f64 / runs as f64)
        };
        Some(Cost {
            switch_ns: each(self.switch, before.switch)?,
            wake_ns: each(self.wake, before.wake).unwrap_or(0.0),
            empty_ns: each(self.empty, before.empty).unwrap_or(0.0),
            per_s: self.switch.1.saturating_sub(before.switch.1) as f64
                / (self.at - before.at).as_secs_f64(),
        })
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(tool) = &mut self.tool {
            // It may have ended by itself.
            let _gone = tool.kill();
            let _status = tool.wait();
        }
    }
}

struct Program {
    name: String,
    ns: u64,
    count: u64,
}

/// Every loaded tracing program, by id.
fn programs() -> Result<BTreeMap<u64, Program>> {
    let output = Command::new("bpftool")
        .args(["-j", "prog", "show"])
        .output()
        .context("cannot start bpftool")?;
    let list: Value = serde_json::from_slice(&output.stdout).context("bpftool prog show")?;
    let number = |one: &Value, key: &str| one[key].as_u64().unwrap_or(0);
    Ok(list
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| {
            let program = Program {
                name: one["name"].as_str().unwrap_or("").to_owned(),
                ns: number(one, "run_time_ns"),
                count: number(one, "run_cnt"),
            };
            (number(one, "id"), program)
        })
        .collect())
}

fn pause() {
    std::thread::sleep(Duration::from_millis(300));
}
