//! CPU time and wait of a thread since its last switch, from its history and the scheduler's totals.
//!
//! A switch may go unseen: a kernel may keep some tasks out of every tracepoint, and programs are not run while
//! they are being attached. The scheduler's totals only grow, so the next switch that is seen shows what was
//! missed, and it is counted then: no time is lost, and none is counted twice.

use crate::{arithmetic::beyond, layout::ThreadHistory};

/// The scheduler's totals of a thread at a switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadTotals {
    /// CPU time since it began, nanoseconds; 0: it never ran.
    pub sum_exec_ns: u64,
    /// Run-queue wait since it began, without the wait that ends now, nanoseconds.
    pub run_delay_ns: u64,
}

/// What a thread gained since its last switch that was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwitchDelta {
    /// CPU time, nanoseconds.
    pub run_ns: u64,
    /// Run-queue wait, nanoseconds.
    pub wait_ns: u64,
    /// The CPU of its last run, if that is known.
    pub from: Option<u16>,
}

/// A thread is switched in after `queued_ns` on the queue of this CPU.
///
/// `history` is that of this thread id. Load balancing adds a wait to the total and starts a new one on the
/// other CPU, so the wait is what the total gained plus what the kernel is about to add. CPU time gained
/// since the history was written is that of a run whose end went unseen.
#[inline(always)]
#[must_use]
pub fn entered(history: Option<&ThreadHistory>, now: ThreadTotals, queued_ns: u64) -> SwitchDelta {
    match history {
        // A thread that never ran has a reused id, and all its wait is new.
        _ if now.sum_exec_ns == 0 => SwitchDelta {
            run_ns: 0,
            wait_ns: queued_ns + now.run_delay_ns,
            from: None,
        },
        Some(history) => SwitchDelta {
            run_ns: beyond(now.sum_exec_ns, history.sum_exec_ns),
            wait_ns: queued_ns + beyond(now.run_delay_ns, history.run_delay_ns),
            from: Some(history.last.cpu),
        },
        None => SwitchDelta {
            run_ns: 0,
            wait_ns: queued_ns,
            from: None,
        },
    }
}

/// CPU time of a thread that is switched out, whose total was `switched_in` when it was switched in on this CPU.
///
/// `history` is that of this thread id, and newer than `switched_in` if the thread was seen elsewhere since.
#[inline(always)]
#[must_use]
pub fn ran_ns(history: Option<&ThreadHistory>, switched_in: u64, now: u64) -> u64 {
    match history {
        Some(history) => beyond(now, history.sum_exec_ns),
        None => beyond(now, switched_in),
    }
}

/// A thread is switched out that was not seen to be switched in.
///
/// `history` is that of this thread id. A thread without history whose total fits into the `unseen_ns` since the
/// last switch seen here is new: all of its time is counted.
#[inline(always)]
#[must_use]
pub fn left(history: Option<&ThreadHistory>, now: ThreadTotals, unseen_ns: u64) -> SwitchDelta {
    match history {
        Some(history) if history.sum_exec_ns <= now.sum_exec_ns => SwitchDelta {
            run_ns: now.sum_exec_ns - history.sum_exec_ns,
            wait_ns: beyond(now.run_delay_ns, history.run_delay_ns),
            from: Some(history.last.cpu),
        },
        _ if now.sum_exec_ns <= unseen_ns => SwitchDelta {
            run_ns: now.sum_exec_ns,
            wait_ns: now.run_delay_ns,
            from: None,
        },
        _ => SwitchDelta {
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

    const fn totals(sum_exec_ns: u64, run_delay_ns: u64) -> ThreadTotals {
        ThreadTotals {
            sum_exec_ns,
            run_delay_ns,
        }
    }

    /// What is counted of a thread that runs and waits so, when only some of its switches are seen.
    fn counted(runs: &[(u64, u64)], seen: impl Fn(usize, bool) -> bool) -> (u64, u64) {
        let (mut history, mut now, mut run, mut wait) = (None, totals(0, 0), 0, 0);
        let mut add = |delta: SwitchDelta| {
            run += delta.run_ns;
            wait += delta.wait_ns;
        };
        for (index, (ran, waited)) in runs.iter().enumerate() {
            if seen(index, true) {
                add(entered(history.as_ref(), now, *waited));
                history = Some(ThreadHistory {
                    run_delay_ns: now.run_delay_ns + waited,
                    sum_exec_ns: now.sum_exec_ns,
                    ..ThreadHistory::default()
                });
            }
            now = totals(now.sum_exec_ns + ran, now.run_delay_ns + waited);
            if seen(index, false) {
                add(left(history.as_ref(), now, *ran));
                history = Some(ThreadHistory {
                    run_delay_ns: now.run_delay_ns,
                    sum_exec_ns: now.sum_exec_ns,
                    ..ThreadHistory::default()
                });
            }
        }
        (run, wait)
    }

    #[test]
    fn whichever_switches_go_unseen_the_sums_are_the_schedulers() {
        let runs = [(5, 7), (11, 13), (17, 19), (23, 29)];
        let switches = runs.len() * 2;
        // Every pattern of hidden switches in which the first and the last are seen.
        for hidden in 0..1_u32 << (switches - 2) {
            let sums = counted(&runs, |index, entering| {
                let switch = index * 2 + usize::from(!entering);
                switch == 0 || switch == switches - 1 || hidden & 1 << (switch - 1) == 0
            });
            assert_eq!(sums, (56, 68), "hidden: {hidden:b}");
        }
    }

    #[test]
    fn a_new_thread_whose_first_switch_went_unseen_is_counted_whole() {
        let sums = counted(&[(5, 7), (11, 13)], |index, _| index > 0);
        assert_eq!(sums.0, 11, "its first run is older than its history");
        assert_eq!(counted(&[(5, 7)], |_, entering| !entering), (5, 7));
    }

    #[test]
    fn nothing_is_counted_of_a_thread_that_ran_before_the_program_was_attached() {
        assert_eq!(left(None, totals(1000, 50), 10), SwitchDelta::default());
        assert_eq!(entered(None, totals(1000, 50), 3).wait_ns, 3);
    }

    #[test]
    fn a_reused_thread_id_does_not_inherit() {
        let dead = ThreadHistory {
            run_delay_ns: 900,
            sum_exec_ns: 800,
            last: LastRun {
                cpu: 3,
                ..LastRun::default()
            },
            ..ThreadHistory::default()
        };
        let fresh = entered(Some(&dead), totals(0, 4), 6);
        assert_eq!((fresh.wait_ns, fresh.run_ns, fresh.from), (10, 0, None));
    }

    #[test]
    fn the_total_at_switch_in_serves_where_another_thread_took_the_entry() {
        assert_eq!(ran_ns(None, 100, 130), 30);
        let newer = ThreadHistory {
            sum_exec_ns: 120,
            ..ThreadHistory::default()
        };
        assert_eq!(ran_ns(Some(&newer), 100, 130), 10);
    }
}
