//! The same mix on the simulator's model of the scheduler, so that the two can be compared.

use super::{HALF_LIFE, MIX, Part, Way};
use anyhow::{Result, anyhow, bail};
use resmgr_policy::{
    CpuListConfig, PolicySettings, PoolConfig, QosClass, RebalanceMode, Reserved, by_name,
    trace::{Behaviour, Class, Line, TraceEvent},
};
use resmgr_sim::{Setup, SimulationReport, simulate, workload::request};
use resmgr_topology::{MilliCpu, Topology};

const MS: u64 = 1_000_000;
/// The guest.
const MACHINE: &str = "pack:2 numa:2 core:2 pu:2";
/// Simulated before it counts: all moves have been made by then, as in the guest.
const SETTLE_MS: u64 = 20_000;
/// Simulated in all.
const WHOLE_MS: u64 = 40_000;

/// What came of one way on the model.
#[derive(Clone, Debug)]
pub struct Modelled {
    /// Migrations between packages once it has settled, in each second.
    pub crossed_per_s: u64,
    /// From the start on.
    pub whole: SimulationReport,
}

/// What a part of the mix does, in the words of the model: pieces of work and rests as `workload` has them.
///
/// # Errors
/// When the model has no such class.
pub fn behaviour(part: Part) -> Result<Behaviour> {
    let (class, work_ns, sleep_ns) = match part.class {
        // Two call every 3 ms, the others work 200 µs when called.
        "chatty" => (Class::Chatty, MS / 5, 3 * MS),
        "latency" => (Class::Latency, MS, 9 * MS),
        "batch" => (Class::Batch, 50 * MS, 0),
        "bursty" => (Class::Bursty, 100 * MS, 300 * MS),
        other => bail!("the model has no class {other:?}"),
    };
    Ok(Behaviour {
        class,
        threads: part.threads,
        work_ns,
        sleep_ns,
        talks: class == Class::Chatty,
        callers: if class == Class::Chatty { 2 } else { 0 },
    })
}

/// The mix as a trace, a container after the other.
///
/// # Errors
/// When the model has no word for a part.
pub fn trace() -> Result<Vec<Line>> {
    let line = |(at_ms, part): (u64, Part)| {
        let milli = MilliCpu(u32::try_from(part.milli)?);
        Ok(Line {
            at_ms,
            event: TraceEvent::Create {
                request: Box::new(request(part.name, QosClass::Burstable, milli, None)),
                behaviour: Some(behaviour(part)?),
            },
        })
    };
    (0..).step_by(500).zip(MIX).map(line).collect()
}

/// Runs the mix one way on the model, with the arguments that [`super::run`] gives the daemon.
///
/// # Errors
/// When the policy refuses its configuration.
pub fn model(way: Way, seed: u64) -> Result<Modelled> {
    // Equal seeds give equal runs: what is more in the longer one is its end.
    let settling = simulated(way, seed, SETTLE_MS)?.cross_package();
    let whole = simulated(way, seed, WHOLE_MS)?;
    let crossed = whole.cross_package().saturating_sub(settling);
    Ok(Modelled {
        crossed_per_s: crossed * 1000 / (WHOLE_MS - SETTLE_MS),
        whole,
    })
}

fn simulated(way: Way, seed: u64, duration_ms: u64) -> Result<SimulationReport> {
    let machine = Topology::synthetic(MACHINE)?;
    let mut settings = PolicySettings {
        rebalance: RebalanceMode::On,
        ..PolicySettings::default()
    };
    settings.slices.reserved = Some(Reserved::Quantity(MilliCpu(1000)));
    let nodes = machine.nodes.iter().filter_map(|node| {
        let first = machine.cpu(node.cpus.iter().next()?)?;
        Some(CpuListConfig {
            socket: first.package.0,
            cpuset: node.cpus.to_string(),
        })
    });
    let pool = PoolConfig {
        exclusive: false,
        cpu_lists: nodes.collect(),
    };
    settings.pools.pools = [("shared".to_owned(), pool)].into();
    let policy = by_name(way.policy, &machine, &settings).map_err(|problems| {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        anyhow!("{}", problems.join("; "))
    })?;
    Ok(simulate(&Setup {
        topology: &machine,
        policy: &*policy,
        trace: &trace()?,
        seed,
        duration_ms,
        // The model's half-life is five of these.
        interval_ms: u64::try_from(HALF_LIFE.as_millis() / 5)?,
        feedback: match way.feedback {
            "on" => RebalanceMode::On,
            "shadow" => RebalanceMode::Shadow,
            _ => RebalanceMode::Off,
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_puts_the_ways_in_the_order_of_the_guest() {
        for seed in 1..=2 {
            let modelled = Way::ALL.map(|way| (way, model(way, seed).unwrap()));
            let told: Vec<_> = modelled
                .iter()
                .map(|(way, one)| {
                    let (crossed, whole) = (one.crossed_per_s, &one.whole);
                    let (policy, feedback) = (way.policy, way.feedback);
                    let (moves, undone) = (whole.moves, whole.undone);
                    format!("{policy}/{feedback}: {crossed}/s, {moves} moves, {undone} undone")
                })
                .collect();
            let told = told.join("\n");
            for (way, one) in &modelled {
                assert!(
                    one.whole.violations.is_empty(),
                    "seed {seed}: {}",
                    one.whole
                );
                for (other, less) in modelled.iter().filter(|(other, _)| !other.crosses()) {
                    let order =
                        !way.crosses() || one.crossed_per_s >= 10 * less.crossed_per_s.max(1);
                    assert!(order, "seed {seed}: {way:?} and {other:?}\n{told}");
                }
            }
        }
    }
}
