//! Policies that place nothing: `null` and `none`.

use crate::{
    decision::{Change, Decision, Policy, Refusal},
    explanation::{Explanation, Reason},
    request::{ContainerId, Request},
    state::Placement,
    view::View,
};
use alloc::{format, sync::Arc, vec, vec::Vec};

/// Places nothing: containers run where the runtime puts them.
#[derive(Clone, Copy, Debug)]
pub struct Unplaced {
    name: &'static str,
}

impl Unplaced {
    /// The policy `none`.
    pub const NONE: Self = Self { name: "none" };
    /// The policy `null`.
    pub const NULL: Self = Self { name: "null" };
}

impl Policy for Unplaced {
    fn name(&self) -> &'static str {
        self.name
    }

    fn place(&self, _view: View<'_>, request: &Request) -> Result<Decision, Refusal> {
        let explanation = Explanation {
            summary: format!("{}: not pinned", request.name),
            reasons: vec![Reason::PlacesNothing {
                policy: self.name.into(),
            }],
            candidates: Vec::new(),
        };
        Ok(Decision {
            changes: vec![Change {
                id: request.id.clone(),
                request: Some(Arc::new(request.clone())),
                placement: Placement::default(),
                explanation: Some(explanation),
            }],
            ..Decision::default()
        })
    }

    fn release(&self, view: View<'_>, gone: &ContainerId) -> Decision {
        let known = view.state.containers.contains_key(gone);
        Decision {
            released: known.then(|| gone.clone()).into_iter().collect(),
            ..Decision::default()
        }
    }

    fn reconcile(&self, view: View<'_>) -> Result<Decision, Refusal> {
        let placed = view.state.containers.iter();
        let placed = placed.filter(|(_, container)| container.placement != Placement::default());
        let changes = placed.map(|(id, _)| Change {
            id: id.clone(),
            request: None,
            placement: Placement::default(),
            explanation: None,
        });
        Ok(Decision {
            changes: changes.collect(),
            ..Decision::default()
        })
    }
}
