//! What the telemetry costs, beside an empty program and the tools one would use in its place.
//!
//! Cost of a switch: program after program is attached, each with the empty twin beside it, in turns and
//! under the same loads, so that a slow moment of the machine hits all alike. Throughput: the same turns
//! without twin and without statistics. Sweep: a thousand containers on a machine of 256 CPUs.
#![expect(clippy::print_stdout, reason = "it prints a table")]

mod load;
mod subject;
mod sweep;

use anyhow::{Context as _, Result};
use load::Load;
use resmgr_topology::Topology;
use std::collections::BTreeMap;
use subject::Subject;

fn main() -> Result<()> {
    let rounds: usize = match std::env::args().nth(1) {
        Some(rounds) => rounds.parse().context("how many rounds is not a number")?,
        None => 5,
    };
    let topology = Topology::synthetic("pack:1 numa:1 core:2 pu:1")?;
    let loads = Load::ALL;
    let mut costs = BTreeMap::<(usize, usize), Vec<subject::Cost>>::new();
    let mut speeds = BTreeMap::<(usize, usize), Vec<f64>>::new();
    let statistics = cri_resmgr::telemetry::bench::statistics()?;
    for round in 0..rounds {
        eprint_round("cost", round, rounds);
        for (row, subject) in turn(&Subject::COST, round) {
            for (column, load) in loads.iter().enumerate() {
                let watched = subject.attach(&topology, true)?;
                let before = watched.read()?;
                load.run()?;
                if let Some(cost) = watched.read()?.since(&before) {
                    costs.entry((row, column)).or_default().push(cost);
                }
            }
        }
    }
    drop(statistics);
    for round in 0..rounds {
        eprint_round("throughput", round, rounds);
        for (row, subject) in turn(&Subject::SPEED, round) {
            for (column, load) in loads.iter().enumerate() {
                let attached = subject.attach(&topology, false)?;
                speeds.entry((row, column)).or_default().push(load.run()?);
                drop(attached);
            }
        }
    }
    print_costs(&costs);
    print_speeds(&speeds);
    sweep::print()
}

/// All of them with their rows, in each round another one first and another one behind it: what one leaves
/// behind (maps that are freed, caches) does not always meet the same.
fn turn<T>(all: &[T], round: usize) -> impl Iterator<Item = (usize, &T)> {
    let rows = all.len();
    // A stride that has no divisor in common with the number of rows meets each once.
    let strides = (1..rows.max(2)).filter(|stride| gcd(*stride, rows) == 1);
    let stride = strides.clone().nth(round % strides.count()).unwrap_or(1);
    let order = (0..rows).map(move |step| (round + step * stride) % rows);
    order.filter_map(|row| Some((row, all.get(row)?)))
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[expect(clippy::print_stderr, reason = "it takes minutes")]
fn eprint_round(what: &str, round: usize, rounds: usize) {
    eprintln!("{what}: round {} of {rounds}", round + 1);
}

/// Middle value; 0 of none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn print_costs(costs: &BTreeMap<(usize, usize), Vec<subject::Cost>>) {
    let of = |row: usize, column: usize, pick: fn(&subject::Cost) -> f64| {
        let runs = costs.get(&(row, column));
        median(runs.into_iter().flatten().map(pick))
    };
    println!(
        "\nns per switch, median: raw / empty twin / net; with wake-ups where the tool has a program there\n"
    );
    print!("| program |");
    Load::ALL.iter().for_each(|load| print!(" {load} |"));
    println!("\n| --- |{}", " ---: |".repeat(Load::ALL.len()));
    for (row, subject) in Subject::COST.iter().enumerate() {
        print!("| {subject} |");
        for column in 0..Load::ALL.len() {
            // The tools ran without the twin: the floor is that of our own turns.
            let (raw, own) = (
                of(row, column, |c| c.switch_ns),
                of(row, column, |c| c.empty_ns),
            );
            let empty = if own > 0.0 {
                own
            } else {
                of(0, column, |c| c.empty_ns)
            };
            print!(" {raw:.0} / {empty:.0} / {:.0}", raw - empty);
            let wake = of(row, column, |c| c.wake_ns);
            if wake > 0.0 {
                print!(" (+ {wake:.0} per wake-up)");
            }
            print!(" |");
        }
        println!();
    }
    print!("| ours, raw, of runqlat's sched_switch |");
    let peer = Subject::COST
        .iter()
        .position(|one| *one == Subject::Runqlat);
    for column in 0..Load::ALL.len() {
        let runqlat = of(peer.unwrap_or(0), column, |c| c.switch_ns);
        print!(" {:.2} |", of(0, column, |c| c.switch_ns) / runqlat);
    }
    println!(
        "\n| switches a second |{}",
        (0..Load::ALL.len())
            .map(|column| { format!(" {:.0} |", of(0, column, |c| c.per_s)) })
            .collect::<String>()
    );
}

fn print_speeds(speeds: &BTreeMap<(usize, usize), Vec<f64>>) {
    println!("\nthroughput, median of the load's own figure, and what is lost of it\n");
    print!("| program |");
    Load::ALL.iter().for_each(|load| print!(" {load} |"));
    println!("\n| --- |{}", " ---: |".repeat(Load::ALL.len()));
    for (row, subject) in Subject::SPEED.iter().enumerate() {
        print!("| {subject} |");
        for column in 0..Load::ALL.len() {
            let of = |row| median(speeds.get(&(row, column)).into_iter().flatten().copied());
            let (free, here) = (of(0), of(row));
            print!(" {here:.0} ({:+.1} %) |", (here / free - 1.0) * 100.0);
        }
        println!();
    }
}
