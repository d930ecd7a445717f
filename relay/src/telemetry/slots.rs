//! Slots of the program's counters: allocated to containers, freed, and reused only after some sweeps.

use std::collections::VecDeque;

/// Sweeps before a freed slot is reused: a run that began earlier may still be counted in it.
const QUARANTINE: u64 = 3;

/// Slots that no container has.
#[derive(Debug)]
pub(super) struct Slots {
    free: Vec<u32>,
    /// Freed slots, and the sweep at which each may be recycled.
    freed: VecDeque<(u64, u32)>,
}

impl Slots {
    /// Slots `first … end−1`.
    pub(super) fn new(first: u32, end: u32) -> Self {
        Self {
            free: (first..end).rev().collect(),
            freed: VecDeque::new(),
        }
    }

    /// A slot whose counters are zero, if there is a free one.
    pub(super) fn allocate(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// Takes a slot back at this sweep.
    pub(super) fn free(&mut self, slot: u32, sweep: u64) {
        self.freed.push_back((sweep + QUARANTINE, slot));
    }

    /// Slots that were freed long enough ago; they must be zeroed and given to [`Slots::recycle`].
    pub(super) fn reclaimable(&mut self, sweep: u64) -> Vec<u32> {
        let due = self
            .freed
            .iter()
            .take_while(|(until, _)| *until <= sweep)
            .count();
        self.freed.drain(..due).map(|(_, slot)| slot).collect()
    }

    /// Makes a zeroed slot free again.
    pub(super) fn recycle(&mut self, slot: u32) {
        self.free.push(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_slot_is_reused_only_after_some_sweeps() {
        let mut slots = Slots::new(2, 3);
        assert_eq!((slots.allocate(), slots.allocate()), (Some(2), None));
        slots.free(2, 7);
        assert_eq!(slots.reclaimable(9), Vec::<u32>::new());
        assert_eq!(slots.reclaimable(10), vec![2]);
        slots.recycle(2);
        assert_eq!(slots.allocate(), Some(2));
    }
}
