//! What a thread ran and waited, from what was remembered of it and what the scheduler says now.
//!
//! A switch may go unseen: a kernel may keep some tasks out of every tracepoint, and programs are not
//! run while they are being attached. The scheduler's own totals only grow, so what was missed shows
//! in them at the next switch that is seen, and is booked then: nothing is lost and nothing twice.

use crate::{arithmetic::beyond, layout::Task};

/// The scheduler's totals of a thread at a switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// CPU time of its life, nanoseconds; 0: it never ran.
    pub sum_exec_ns: u64,
    /// Wait of its life, the one that ends now excluded, nanoseconds.
    pub run_delay_ns: u64,
}

/// What is booked at a switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stint {
    /// CPU time, nanoseconds.
    pub run_ns: u64,
    /// Run-queue wait, nanoseconds.
    pub wait_ns: u64,
    /// CPU it ran on before, if that is known.
    pub from: Option<u16>,
}

/// A thread is switched in after `queued_ns` on the queue of this CPU.
///
/// `memory` is about this thread id. Balancing folds a wait into the total and starts it anew on the
/// other CPU, so the wait is what the total gained and what is still to be added to it. CPU time
/// gained since the memory is that of a stint whose end went unseen.
#[inline(always)]
#[must_use]
pub fn entered(memory: Option<&Task>, now: Totals, queued_ns: u64) -> Stint {
    match memory {
        // A thread that never ran has a reused id, and all its wait is new.
        _ if now.sum_exec_ns == 0 => Stint {
            run_ns: 0,
            wait_ns: queued_ns + now.run_delay_ns,
            from: None,
        },
        Some(memory) => Stint {
            run_ns: beyond(now.sum_exec_ns, memory.sum_exec_ns),
            wait_ns: queued_ns + beyond(now.run_delay_ns, memory.run_delay_ns),
            from: Some(memory.last.cpu),
        },
        None => Stint {
            run_ns: 0,
            wait_ns: queued_ns,
            from: None,
        },
    }
}

/// CPU time of a thread that is switched out, as this CPU saw it switched in with a total of `record`.
///
/// `memory` is about this thread id, and newer than the record where the thread was seen elsewhere since.
#[inline(always)]
#[must_use]
pub fn ran_ns(memory: Option<&Task>, record: u64, now: u64) -> u64 {
    match memory {
        Some(memory) => beyond(now, memory.sum_exec_ns),
        None => beyond(now, record),
    }
}

/// A thread is switched out that was not seen to be switched in.
///
/// `memory` is about this thread id. Without one, a thread that cannot have run longer than the
/// `unseen_ns` since the last switch seen here has begun in them.
#[inline(always)]
#[must_use]
pub fn left(memory: Option<&Task>, now: Totals, unseen_ns: u64) -> Stint {
    match memory {
        Some(memory) if memory.sum_exec_ns <= now.sum_exec_ns => Stint {
            run_ns: now.sum_exec_ns - memory.sum_exec_ns,
            wait_ns: beyond(now.run_delay_ns, memory.run_delay_ns),
            from: Some(memory.last.cpu),
        },
        _ if now.sum_exec_ns <= unseen_ns => Stint {
            run_ns: now.sum_exec_ns,
            wait_ns: now.run_delay_ns,
            from: None,
        },
        _ => Stint {
            run_ns: 0,
            wait_ns: 0,
            from: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::LastRun;

    const fn totals(sum_exec_ns: u64, run_delay_ns: u64) -> Totals {
        Totals {
            sum_exec_ns,
            run_delay_ns,
        }
    }

    /// A thread that runs `run` after waiting `wait`, over and over; each switch is seen or not.
    fn told(stints: &[(u64, u64)], seen: impl Fn(usize, bool) -> bool) -> (u64, u64) {
        let (mut memory, mut now, mut run, mut wait) = (None, totals(0, 0), 0, 0);
        let mut book = |stint: Stint| {
            run += stint.run_ns;
            wait += stint.wait_ns;
        };
        for (index, (ran, waited)) in stints.iter().enumerate() {
            if seen(index, true) {
                book(entered(memory.as_ref(), now, *waited));
                memory = Some(Task {
                    run_delay_ns: now.run_delay_ns + waited,
                    sum_exec_ns: now.sum_exec_ns,
                    ..Task::default()
                });
            }
            now = totals(now.sum_exec_ns + ran, now.run_delay_ns + waited);
            if seen(index, false) {
                book(left(memory.as_ref(), now, *ran));
                memory = Some(Task {
                    run_delay_ns: now.run_delay_ns,
                    sum_exec_ns: now.sum_exec_ns,
                    ..Task::default()
                });
            }
        }
        (run, wait)
    }

    #[test]
    fn whichever_switches_go_unseen_the_sums_are_the_schedulers() {
        let stints = [(5, 7), (11, 13), (17, 19), (23, 29)];
        let switches = stints.len() * 2;
        // Every pattern of hidden switches in which the first and the last are seen.
        for hidden in 0..1_u32 << (switches - 2) {
            let sums = told(&stints, |index, entering| {
                let switch = index * 2 + usize::from(!entering);
                switch == 0 || switch == switches - 1 || hidden & 1 << (switch - 1) == 0
            });
            assert_eq!(sums, (56, 68), "hidden: {hidden:b}");
        }
    }

    #[test]
    fn a_new_thread_whose_first_switch_went_unseen_is_booked_whole() {
        let sums = told(&[(5, 7), (11, 13)], |index, _| index > 0);
        assert_eq!(
            sums.0, 11,
            "its first stint is older than what is remembered"
        );
        assert_eq!(told(&[(5, 7)], |_, entering| !entering), (5, 7));
    }

    #[test]
    fn nothing_is_booked_of_a_thread_that_ran_before_anybody_looked() {
        assert_eq!(left(None, totals(1000, 50), 10), Stint::default());
        assert_eq!(entered(None, totals(1000, 50), 3).wait_ns, 3);
    }

    #[test]
    fn a_reused_thread_id_does_not_inherit() {
        let dead = Task {
            run_delay_ns: 900,
            sum_exec_ns: 800,
            last: LastRun {
                cpu: 3,
                ..LastRun::default()
            },
            ..Task::default()
        };
        let fresh = entered(Some(&dead), totals(0, 4), 6);
        assert_eq!((fresh.wait_ns, fresh.run_ns, fresh.from), (10, 0, None));
    }

    #[test]
    fn the_record_stands_in_for_an_entry_that_another_thread_took() {
        assert_eq!(ran_ns(None, 100, 130), 30);
        let newer = Task {
            sum_exec_ns: 120,
            ..Task::default()
        };
        assert_eq!(ran_ns(Some(&newer), 100, 130), 10);
    }
}
