//! Why a container is where it is: values, and the text that people read.

mod candidate;
mod reason;

pub use candidate::{Candidate, DomainContention, DomainLevel};
pub use reason::{Certainty, CpuSource, Reason};

use alloc::{
    string::{String, ToString as _},
    vec::Vec,
};
use serde::{Deserialize, Serialize};

/// Why a container was put where it is. Printed by `explain`, a line for each reason and candidate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// One line: what was decided.
    pub summary: String,
    /// The rule that decided, and the numbers it saw.
    pub reasons: Vec<Reason>,
    /// The choices considered, best first.
    #[serde(default)]
    pub candidates: Vec<Candidate>,
}

impl Explanation {
    /// The reasons as text.
    #[must_use]
    pub fn reason_lines(&self) -> Vec<String> {
        self.reasons.iter().map(Reason::to_string).collect()
    }

    /// The candidates as text.
    #[must_use]
    pub fn candidate_lines(&self) -> Vec<String> {
        self.candidates.iter().map(Candidate::to_string).collect()
    }
}

/// Candidates listed that were not taken; further ones are counted.
pub(crate) const MAX_LISTED_CANDIDATES: usize = 16;

/// The first `listed` candidates, best first, and how many more there were.
pub(crate) fn first_candidates(
    candidates: impl ExactSizeIterator<Item = Candidate>,
    listed: usize,
) -> Vec<Candidate> {
    let count = candidates.len().saturating_sub(listed);
    let first = candidates.take(listed);
    let more = (count > 0).then_some(Candidate::More { count });
    first.chain(more).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use resmgr_topology::{CpuSet, Cpus};

    #[test]
    fn texts_that_an_earlier_version_wrote_are_read_and_written_as_they_were() {
        let written = r#"{"summary":"web: pool shared, CPUs 0-3","reasons":["quota removed: its CPUs are its own"],"candidates":["node 0: 4 CPUs free"]}"#;
        let read: Explanation = serde_json::from_str(written).unwrap();
        assert_eq!(read.reason_lines(), ["quota removed: its CPUs are its own"]);
        assert_eq!(read.candidate_lines(), ["node 0: 4 CPUs free"]);
        assert_eq!(serde_json::to_string(&read).unwrap(), written);
        let without = r#"{"summary":"kept","reasons":["still there"]}"#;
        let read: Explanation = serde_json::from_str(without).unwrap();
        assert_eq!(read.candidates, []);
    }

    #[test]
    fn values_are_written_by_name_with_their_units_and_read_back() {
        let cpus = |list: &str| Cpus::from(list.parse::<CpuSet>().unwrap());
        let why = Explanation {
            summary: "db: 2 exclusive CPUs 2-3".into(),
            reasons: vec![
                Reason::TakenFrom {
                    source: CpuSource::IsolatedCore,
                },
                Reason::PoolsNow {
                    shared: cpus("0-1"),
                    reserved: cpus(""),
                },
                Reason::QuotaRemoved,
            ],
            candidates: vec![
                Candidate::Domain {
                    level: DomainLevel::Node,
                    id: 0,
                    free: 2,
                    isolated: 0,
                    size: 4,
                    contention: Some(DomainContention {
                        busy_milli: 100,
                        busy_around_milli: 0,
                        waited_us_per_s: 2500,
                    }),
                    given: cpus("2-3"),
                },
                Candidate::More { count: 7 },
            ],
        };
        let text = serde_json::to_string(&why).unwrap();
        assert_eq!(
            text,
            r#"{"summary":"db: 2 exclusive CPUs 2-3","reasons":[{"kind":"taken-from","source":"isolated-core"},{"kind":"pools-now","shared":"0-1","reserved":""},{"kind":"quota-removed"}],"candidates":[{"kind":"domain","level":"node","id":0,"free":2,"isolated":0,"size":4,"contention":{"busy_milli":100,"busy_around_milli":0,"waited_us_per_s":2500},"given":"2-3"},{"kind":"more","count":7}]}"#
        );
        assert_eq!(serde_json::from_str::<Explanation>(&text).unwrap(), why);
        assert_eq!(
            why.candidate_lines(),
            [
                "node 0: 2 CPUs free (0 isolated) of 4, 100 of 1000 busy, 0 of 1000 around it, 2 ms/s waited there; gives 2-3",
                "and 7 more"
            ]
        );
    }
}
