//! Asks the policy, with a deadline, and survives its panics.

use resmgr_policy::{Decision, Measured, Policy, Refusal, State, View, Violation, check};
use resmgr_topology::{Nanos, Topology};
use std::{fmt, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// Why there is no decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The policy said no.
    Refused(Refusal),
    /// The policy did not answer in time.
    Late(Duration),
    /// The policy broke down.
    Broken(String),
    /// What it decided breaks its own promises: never carried out.
    Illegal(Vec<Violation>),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Late(after) => write!(f, "the policy gave no answer within {after:?}"),
            Self::Broken(how) => write!(f, "the policy broke down: {how}"),
            Self::Illegal(violations) => {
                f.write_str("the policy decided what must not be")?;
                let mut lead = ": ";
                for violation in violations.iter().take(MAX_NAMED) {
                    write!(f, "{lead}{violation}")?;
                    lead = "; ";
                }
                match violations.len().saturating_sub(MAX_NAMED) {
                    0 => Ok(()),
                    more => write!(f, "; and {more} more"),
                }
            }
        }
    }
}

impl Failure {
    /// RESOURCE_EXHAUSTED for a refusal, DEADLINE_EXCEEDED, INTERNAL.
    pub(super) fn code(&self) -> u32 {
        match self {
            Self::Refused(_) => 8,
            Self::Late(_) => 4,
            Self::Broken(_) | Self::Illegal(_) => 13,
        }
    }
}

/// Calls of a policy that may hang at one time; more fail at once.
const MAX_HANGING: usize = 4;

/// Violations named in one message.
const MAX_NAMED: usize = 3;

#[derive(Clone, Debug)]
pub(super) struct Decider {
    pub(super) policy: Arc<dyn Policy>,
    pub(super) topology: Arc<Topology>,
    pub(super) measured: Arc<Measured>,
    pub(super) timeout: Duration,
    calls: Arc<Semaphore>,
}

impl Decider {
    pub(super) fn new(policy: Arc<dyn Policy>, topology: Arc<Topology>, timeout: Duration) -> Self {
        Self {
            policy,
            topology,
            measured: Arc::default(),
            timeout,
            calls: Arc::new(Semaphore::new(MAX_HANGING)),
        }
    }

    /// Runs `question` on a thread of its own: a policy that hangs costs a thread, not the manager.
    pub(super) async fn ask<T, F>(&self, state: &Arc<State>, question: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Policy, View<'_>) -> Result<T, Refusal> + Send + 'static,
    {
        let Ok(permit) = Arc::clone(&self.calls).try_acquire_owned() else {
            return Err(Failure::Late(Duration::ZERO));
        };
        let (policy, topology) = (Arc::clone(&self.policy), Arc::clone(&self.topology));
        let (measured, state) = (Arc::clone(&self.measured), Arc::clone(state));
        let task = tokio::task::spawn_blocking(move || {
            let _held_until_the_answer = permit;
            let view = View {
                topology: &topology,
                state: &state,
                measured: &measured,
                now: now(),
            };
            question(policy.as_ref(), view)
        });
        match tokio::time::timeout(self.timeout, task).await {
            Err(_elapsed) => Err(Failure::Late(self.timeout)),
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(refusal))) => Err(Failure::Refused(refusal)),
            Ok(Err(join)) => Err(Failure::Broken(panic_text(join))),
        }
    }

    /// The same, asking another policy.
    pub(super) fn with(&self, policy: Arc<dyn Policy>) -> Self {
        Self {
            policy,
            ..self.clone()
        }
    }

    /// Whether a decision breaks a promise that was not broken before it.
    pub(super) fn check(&self, state: &State, decision: &Decision) -> Result<(), Failure> {
        let mut after = state.clone();
        after.apply(decision);
        let Err(Failure::Illegal(mut wrong)) = self.check_whole(&after) else {
            return Ok(());
        };
        let before = check(&self.topology, state, &self.policy.rules(&self.topology));
        wrong.retain(|violation| !before.contains(violation));
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Failure::Illegal(wrong))
    }

    /// Whether a state breaks any promise.
    pub(super) fn check_whole(&self, state: &State) -> Result<(), Failure> {
        let wrong = check(&self.topology, state, &self.policy.rules(&self.topology));
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Failure::Illegal(wrong))
    }
}

/// `CLOCK_MONOTONIC`, the clock of the measurements.
pub(super) fn now() -> Nanos {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map(Duration::from)
        .unwrap_or_default();
    Nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

fn panic_text(join: tokio::task::JoinError) -> String {
    match join.try_into_panic() {
        Ok(panic) => panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "panic".to_owned()),
        Err(join) => join.to_string(),
    }
}
