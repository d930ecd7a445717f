//! Verdicts over many seeds.

use resmgr_policy::Outcome;
use std::fmt;

/// What became of the moves of one kind, by one way to judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerdictCount {
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

impl VerdictCount {
    /// The head of a table of these, in Markdown.
    pub const HEADER: &'static str = "| noise | moves | judged by | made | kept | undone | after, half-lives |\n\
         | --- | --- | --- | --- | --- | --- | --- |";

    pub(super) fn add(&mut self, verdict: Option<(Outcome, u64)>) {
        self.made += 1;
        if let Some((outcome, after_milli)) = verdict {
            self.kept += u64::from(outcome == Outcome::Kept);
            self.undone += u64::from(outcome == Outcome::Undone);
            self.after_milli += after_milli;
        }
    }
}

impl fmt::Display for VerdictCount {
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
