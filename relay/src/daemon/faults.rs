//! A policy that fails when it is told to, so that tests can show what `--fail-policy` promises.
//!
//! Exists only with the feature `faults`, which the tests turn on, and never in a build for release. The
//! variable `CRI_RESMGR_FAULTS` names a file; its words say what every placement meets from then on:
//!
//! | words | what happens |
//! | --- | --- |
//! | none, or no file | nothing |
//! | `slow MILLISECONDS` | the answer is late by that much |
//! | `dead` | no answer, ever |
//! | `panic` | the policy panics |
//! | `refuse` | the policy refuses |
//!
//! A dead policy does not release either.

use resmgr_policy::{ContainerId, Decision, Policy, PoolUse, Refusal, Request, Rules, View};
use resmgr_topology::Topology;
use std::{path::PathBuf, thread, time::Duration};

/// Names the file.
const VARIABLE: &str = "CRI_RESMGR_FAULTS";

#[derive(Debug)]
struct Faulty {
    policy: Box<dyn Policy>,
    file: PathBuf,
}

/// The policy itself, unless the variable is set.
pub(super) fn wrap(policy: Box<dyn Policy>) -> Box<dyn Policy> {
    match std::env::var_os(VARIABLE) {
        None => policy,
        Some(file) => {
            tracing::warn!(target: "policy", "fails as {} says: {VARIABLE} is set", file.display());
            Box::new(Faulty {
                policy,
                file: file.into(),
            })
        }
    }
}

impl Faulty {
    fn words(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn die_if_dead(&self) {
        while self.words().first().is_some_and(|word| word == "dead") {
            thread::park();
        }
    }
}

impl Policy for Faulty {
    fn name(&self) -> &'static str {
        self.policy.name()
    }

    #[expect(clippy::panic, reason = "that is the fault")]
    fn place(&self, view: View<'_>, request: &Request) -> Result<Decision, Refusal> {
        self.die_if_dead();
        let words = self.words();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["slow", number] => {
                thread::park_timeout(Duration::from_millis(number.parse().unwrap_or(0)));
            }
            ["panic"] => panic!("told to"),
            ["refuse"] => {
                return Err(Refusal {
                    message: "told to refuse".to_owned(),
                });
            }
            _ => {}
        }
        self.policy.place(view, request)
    }

    fn release(&self, view: View<'_>, gone: &ContainerId) -> Decision {
        self.die_if_dead();
        self.policy.release(view, gone)
    }

    fn reconcile(&self, view: View<'_>) -> Result<Decision, Refusal> {
        self.policy.reconcile(view)
    }

    fn rules(&self, topology: &Topology) -> Rules {
        self.policy.rules(topology)
    }

    fn pools(&self, view: View<'_>) -> Vec<PoolUse> {
        self.policy.pools(view)
    }

    fn rebalance(&self, view: View<'_>) -> Option<Decision> {
        self.policy.rebalance(view)
    }
}
