//! Columns of the cell matrix: given to containers, taken back, given again only after a while.

use std::collections::VecDeque;

/// Sweeps a freed slot rests: a stint that began before may still be booked to it.
const REST: u64 = 3;

/// Free and resting slots.
#[derive(Debug)]
pub(super) struct Slots {
    free: Vec<u32>,
    resting: VecDeque<(u64, u32)>,
}

impl Slots {
    /// Slots `first … end−1`.
    pub(super) fn new(first: u32, end: u32) -> Self {
        Self {
            free: (first..end).rev().collect(),
            resting: VecDeque::new(),
        }
    }

    /// A slot nobody has used lately.
    pub(super) fn take(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// Takes a slot back at this sweep.
    pub(super) fn put(&mut self, slot: u32, sweep: u64) {
        self.resting.push_back((sweep + REST, slot));
    }

    /// Slots that have rested enough; they must be zeroed and given to [`Slots::rested`].
    pub(super) fn wake(&mut self, sweep: u64) -> Vec<u32> {
        let due = self
            .resting
            .iter()
            .take_while(|(until, _)| *until <= sweep)
            .count();
        self.resting.drain(..due).map(|(_, slot)| slot).collect()
    }

    /// A zeroed slot may be used again.
    pub(super) fn rested(&mut self, slot: u32) {
        self.free.push(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_slot_rests_before_it_is_given_again() {
        let mut slots = Slots::new(2, 3);
        assert_eq!((slots.take(), slots.take()), (Some(2), None));
        slots.put(2, 7);
        assert_eq!(slots.wake(9), Vec::<u32>::new());
        assert_eq!(slots.wake(10), vec![2]);
        slots.rested(2);
        assert_eq!(slots.take(), Some(2));
    }
}
