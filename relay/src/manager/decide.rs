//! Asks the policy, with a deadline, survives its panics, and checks what it decides.

use super::{answer::DenyKind, clock::monotonic};
use crate::ledger::Blocking;
use resmgr_policy::{
    ContainerId, Decision, Measured, Policy, Refusal, Request, State, View, Violation, check,
};
use resmgr_topology::Topology;
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
    /// A cgroup that had to give CPUs up could not be written; those written before have their old values again.
    NoRoom(String),
    /// All containers were given back.
    Restored,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Late(after) => write!(f, "the policy gave no answer within {after:?}"),
            Self::Broken(how) => write!(f, "the policy broke down: {how}"),
            Self::NoRoom(why) => write!(f, "other containers could not make room: {why}"),
            Self::Restored => f.write_str(
                "cri-resmgr has given all containers back and places none until it is restarted",
            ),
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
    /// How a request that needs the decision is refused.
    pub(super) fn kind(&self) -> DenyKind {
        match self {
            Self::Refused(_) => DenyKind::NoPlace,
            Self::Late(_) => DenyKind::PolicyLate,
            Self::Broken(_) | Self::Illegal(_) | Self::NoRoom(_) | Self::Restored => {
                DenyKind::Internal
            }
        }
    }
}

/// A decision that keeps every promise, and the state that it leads to.
#[derive(Clone, Debug, Default)]
pub(super) struct Decided {
    pub(super) decision: Decision,
    pub(super) after: Arc<State>,
}

impl Decided {
    fn nothing(state: &Arc<State>) -> Self {
        Self {
            decision: Decision::default(),
            after: Arc::clone(state),
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
    blocking: Blocking,
    calls: Arc<Semaphore>,
}

impl Decider {
    pub(super) fn new(
        policy: Arc<dyn Policy>,
        topology: Arc<Topology>,
        timeout: Duration,
        blocking: Blocking,
    ) -> Self {
        Self {
            policy,
            topology,
            measured: Arc::default(),
            timeout,
            blocking,
            calls: Arc::new(Semaphore::new(MAX_HANGING)),
        }
    }

    /// Runs `question` on a thread of its own: a policy that hangs costs a thread, not the manager.
    pub(super) async fn evaluate<T, F>(&self, state: &Arc<State>, question: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Policy, View<'_>) -> T + Send + 'static,
    {
        let Ok(permit) = Arc::clone(&self.calls).try_acquire_owned() else {
            return Err(Failure::Late(Duration::ZERO));
        };
        let (policy, topology) = (Arc::clone(&self.policy), Arc::clone(&self.topology));
        let (measured, state) = (Arc::clone(&self.measured), Arc::clone(state));
        let task = self.blocking.run(move || {
            let _held_until_the_answer = permit;
            let view = View {
                topology: &topology,
                state: &state,
                measured: &measured,
                now: monotonic(),
            };
            question(policy.as_ref(), view)
        });
        match tokio::time::timeout(self.timeout, task).await {
            Err(_elapsed) => Err(Failure::Late(self.timeout)),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(join)) => Err(Failure::Broken(panic_text(join))),
        }
    }

    /// Has the policy decide, and checks that no promise is broken that was not broken before. The decision
    /// with the state that it leads to; `None` when nothing is to change.
    pub(super) async fn decide<F>(
        &self,
        state: &Arc<State>,
        question: F,
    ) -> Result<Option<Decided>, Failure>
    where
        F: FnOnce(&dyn Policy, View<'_>) -> Result<Option<Decision>, Refusal> + Send + 'static,
    {
        let evaluated = self.evaluate(state, |policy, view| {
            let Some(decision) = question(policy, view).map_err(Failure::Refused)? else {
                return Ok(None);
            };
            let mut after = view.state.clone();
            after.apply(&decision);
            let rules = policy.rules(view.topology);
            let mut wrong = check(view.topology, &after, &rules);
            if !wrong.is_empty() {
                let before = check(view.topology, view.state, &rules);
                wrong.retain(|violation| !before.contains(violation));
            }
            if !wrong.is_empty() {
                return Err(Failure::Illegal(wrong));
            }
            let after = Arc::new(after);
            Ok(Some(Decided { decision, after }))
        });
        evaluated.await?
    }

    /// Has the policy place a container.
    pub(super) async fn place(
        &self,
        state: &Arc<State>,
        request: Request,
    ) -> Result<Decided, Failure> {
        let decided = self.decide(state, move |policy, view| {
            let mut decision = policy.place(view, &request)?;
            // What is kept of a command line is `cmk isolate` alone.
            let own = decision.changes.iter_mut();
            for change in own.filter(|change| change.id == request.id) {
                change.request = Some(Arc::new(request.remembered()));
            }
            Ok(Some(decision))
        });
        Ok(decided.await?.unwrap_or_else(|| Decided::nothing(state)))
    }

    /// Has the policy take a container out.
    pub(super) async fn release(
        &self,
        state: &Arc<State>,
        gone: &ContainerId,
    ) -> Result<Decided, Failure> {
        let gone = gone.clone();
        let decided = self.decide(state, move |policy, view| {
            let mut decision = policy.release(view, &gone);
            if !decision.released.contains(&gone) {
                decision.released.push(gone);
            }
            Ok(Some(decision))
        });
        Ok(decided.await?.unwrap_or_else(|| Decided::nothing(state)))
    }

    /// The same, asking another policy.
    pub(super) fn with(&self, policy: Arc<dyn Policy>) -> Self {
        Self {
            policy,
            ..self.clone()
        }
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
