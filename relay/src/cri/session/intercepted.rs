//! Intercepted calls: the request waits for its hook, the end of the reply for the other.
//!
//! ```text
//! Collecting ─ last DATA ─▶ Deciding ─ decided ─▶ Sending ─ trailers ─▶ Committing
//! ```

use crate::cri::{
    held::{HeldBody, HeldBudget},
    hpack::Header,
    intercept::{After, Call, CallOutcome},
    status,
    tap::only_message,
};
use bytes::Bytes;
use std::{fmt, sync::Arc};

/// A hook to be run; its answer comes back by stream id.
pub(in crate::cri) enum PendingHook {
    Before(u32, Arc<Call>, Bytes),
    /// Without a stream no reply waits for it any more.
    After(Option<u32>, Box<dyn After>, CallOutcome),
}

impl fmt::Debug for PendingHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Before(id, call, _) => write!(f, "Before({id}, {})", call.path),
            Self::After(id, _, outcome) => write!(f, "After({id:?}, {outcome:?})"),
        }
    }
}

#[derive(Debug)]
pub(super) enum InterceptPhase {
    Collecting(HeldBody),
    /// The data as received.
    Deciding(Bytes),
    /// The request goes out, as far as the stream's [`Unsent`](super::unsent::Unsent) does not have it.
    Sending,
    /// The trailers wait for the hook.
    Committing(Vec<Header>),
}

/// A call that hooks look at.
pub(super) struct InterceptedCall {
    pub(super) call: Arc<Call>,
    pub(super) phase: InterceptPhase,
    pub(super) after: Option<Box<dyn After>>,
    reply: HeldBody,
    reply_cut: bool,
}

impl fmt::Debug for InterceptedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterceptedCall")
            .field("call", &self.call)
            .finish_non_exhaustive()
    }
}

impl InterceptedCall {
    pub(super) fn new(
        call: Arc<Call>,
        requests: &Arc<HeldBudget>,
        copies: &Arc<HeldBudget>,
    ) -> Self {
        Self {
            call,
            phase: InterceptPhase::Collecting(HeldBody::new(requests)),
            after: None,
            reply: HeldBody::new(copies),
            reply_cut: false,
        }
    }

    /// Whether the request was let go.
    pub(super) fn was_let_go(&self) -> bool {
        matches!(
            self.phase,
            InterceptPhase::Sending | InterceptPhase::Committing(_)
        )
    }

    /// Keeps DATA of the reply for the hook, up to `max` octets.
    pub(super) fn collect_reply(&mut self, data: &[u8], max: usize) {
        let keeps = self.after.is_some() && !self.reply_cut && self.reply.len() + data.len() <= max;
        if !keeps || self.reply.extend(data).is_err() {
            self.reply_cut = true;
            self.reply.take();
        }
    }

    /// The runtime has answered: the hook that is to hear of it, and what it hears. The trailers wait for it.
    pub(super) fn commit(&mut self, trailers: &[Header]) -> Option<(Box<dyn After>, CallOutcome)> {
        let after = self.after.take()?;
        let outcome = self.outcome(trailers);
        self.phase = InterceptPhase::Committing(trailers.to_vec());
        Some((after, outcome))
    }

    fn outcome(&mut self, trailers: &[Header]) -> CallOutcome {
        if let Some(status) = status::of(trailers) {
            return CallOutcome::Failed(status);
        }
        let data = self.reply.take();
        match only_message(&data) {
            Some(body) if !self.reply_cut => CallOutcome::Reply(body),
            _ => {
                CallOutcome::Unknown("the reply is compressed, too large or not one message".into())
            }
        }
    }
}
