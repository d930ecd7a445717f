//! A policy simple enough to be right, that can be made slow, dead or wrong.

use super::*;

/// Guaranteed containers get the lowest free CPUs for themselves, all others share the rest.
#[derive(Debug)]
pub(super) struct Toy {
    pub(super) name: &'static str,
    pub(super) mood: Mutex<Mood>,
    /// Most CPUs one container may have.
    pub(super) largest: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Well,
    Slow,
    Dead,
    /// Gives every container CPU 0 alone, whichever has it.
    Wrong,
}

impl Toy {
    pub(super) fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            name,
            mood: Mutex::new(Mood::Well),
            largest: 64,
        })
    }

    /// One that gives no container more than this.
    pub(super) fn up_to(name: &'static str, largest: usize) -> Arc<Self> {
        Arc::new(Self {
            name,
            mood: Mutex::new(Mood::Well),
            largest,
        })
    }

    fn follow(view: View<'_>, state: &State, mut changes: Vec<Change>) -> Vec<Change> {
        let mut exclusive = state.exclusive();
        for change in &changes {
            exclusive = exclusive.union(&change.placement.exclusive);
        }
        let shared = view.topology.online.difference(&exclusive);
        for (id, container) in &state.containers {
            if container.placement.exclusive.is_empty() && container.placement.cpus != shared {
                let placement = Placement {
                    cpus: shared.into(),
                    ..container.placement.clone()
                };
                changes.push(Change {
                    id: id.clone(),
                    request: None,
                    placement,
                    explanation: None,
                });
            }
        }
        changes.sort_by(|a, b| a.id.cmp(&b.id));
        changes
    }
}

impl Policy for Toy {
    fn name(&self) -> &'static str {
        self.name
    }

    fn place(&self, view: View<'_>, request: &Request) -> Result<Decision, Refusal> {
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Well | Mood::Wrong => {}
            Mood::Slow => std::thread::sleep(Duration::from_millis(2000)),
            Mood::Dead => panic!("dead by injection"),
        }
        let mut peers = view.state.clone();
        peers.containers.remove(&request.id);
        let free = view.topology.online.difference(&peers.exclusive());
        let count = request.requirements.cpu_request.0 as usize / 1000;
        let mut placement = Placement::default();
        if request.qos == QosClass::Guaranteed {
            if count >= free.len() || count > self.largest {
                return Err(Refusal {
                    message: format!("{count} exclusive CPUs asked, {} free", free.len()),
                });
            }
            placement.exclusive = free.iter().take(count).collect::<CpuSet>().into();
            placement.cpus = placement.exclusive.clone();
        } else {
            placement.cpus = free.into();
        }
        if mood == Mood::Wrong {
            placement.exclusive = cpus("0").into();
            placement.cpus = cpus("0").into();
        }
        let change = Change {
            id: request.id.clone(),
            request: Some(Arc::new(request.clone())),
            placement,
            explanation: Some(Explanation {
                summary: "lowest free".into(),
                ..Explanation::default()
            }),
        };
        Ok(Decision {
            memory: None,
            notes: Vec::new(),
            released: Vec::new(),
            changes: Self::follow(view, &peers, vec![change]),
        })
    }

    fn release(&self, view: View<'_>, gone: &ContainerId) -> Decision {
        let mut state = view.state.clone();
        state.containers.remove(gone);
        Decision {
            memory: None,
            notes: Vec::new(),
            released: vec![gone.clone()],
            changes: Self::follow(view, &state, Vec::new()),
        }
    }

    fn reconcile(&self, view: View<'_>) -> Result<Decision, Refusal> {
        let mut changes = Vec::new();
        for (id, container) in &view.state.containers {
            let held = *container.placement.exclusive;
            if held.len() > self.largest || !held.is_subset(&view.topology.online) {
                return Err(Refusal {
                    message: format!("{id} cannot keep {held}"),
                });
            }
        }
        changes = Self::follow(view, view.state, changes);
        if *self.mood.lock().unwrap() == Mood::Wrong {
            for change in &mut changes {
                change.placement.cpus = view.topology.online.into();
            }
        }
        Ok(Decision {
            memory: None,
            notes: Vec::new(),
            released: Vec::new(),
            changes,
        })
    }
}
