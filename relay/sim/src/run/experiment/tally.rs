//! Verdicts over many seeds.

use super::{Experiment, Timed};
use resmgr_policy::Outcome;
use std::{fmt, ops::RangeInclusive};

/// What became of the moves of one kind, by one way to judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Whether the moves were right.
    pub right: bool,
    /// Whether there was noise.
    pub noisy: bool,
    /// Whether the thresholds judged, not the policy.
    pub thresholds: bool,
    /// Moves made.
    pub made: u64,
    /// Moves kept.
    pub kept: u64,
    /// Moves undone.
    pub undone: u64,
    /// How long the verdicts took, thousandths of a half-life, summed.
    pub after_milli: u64,
}

impl Tally {
    /// The head of a table of these, in Markdown.
    pub const HEADER: &'static str = "| noise | moves | judged by | made | kept | undone | after, half-lives |\n\
         | --- | --- | --- | --- | --- | --- | --- |";

    fn add(&mut self, verdict: Option<Timed>) {
        self.made += 1;
        if let Some((outcome, after_milli)) = verdict {
            self.kept += u64::from(outcome == Outcome::Kept);
            self.undone += u64::from(outcome == Outcome::Undone);
            self.after_milli += after_milli;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |count: u64| (count * 1000 / self.made.max(1) + 5) / 10;
        write!(
            f,
            "| {} | {} | {} | {} | {} % | {} % | {}.{} |",
            if self.noisy { "yes" } else { "no" },
            if self.right { "right" } else { "wrong" },
            if self.thresholds {
                "thresholds"
            } else {
                "difference in differences"
            },
            self.made,
            percent(self.kept),
            percent(self.undone),
            self.after_milli / self.made.max(1) / 1000,
            self.after_milli / self.made.max(1) % 1000 / 100
        )
    }
}

/// The moves of these seeds, with and without noise, right and wrong, as the thresholds and the policy judge them.
pub fn table(seeds: RangeInclusive<u64>) -> impl Iterator<Item = Tally> {
    let kinds = [(true, true), (true, false), (false, true), (false, false)];
    kinds.into_iter().flat_map(move |(noisy, right)| {
        let tally = |thresholds| Tally {
            right,
            noisy,
            thresholds,
            ..Tally::default()
        };
        let (mut thresholds, mut policy) = (tally(true), tally(false));
        for seed in seeds.clone() {
            let experiment = Experiment { right, noisy, seed };
            if let Some(verdicts) = experiment.run() {
                thresholds.add(verdicts.thresholds);
                policy.add(verdicts.policy);
            }
        }
        [thresholds, policy]
    })
}
