//! Moves beside noise: right ones stay, wrong ones are taken back.

use resmgr_sim::run::experiment::table;

/// As many as take some seconds; `docs/feedback.md` has the table of 500.
const SEEDS: u64 = 20;

#[test]
fn right_moves_are_kept_and_wrong_ones_undone_whatever_else_the_machine_does() {
    for tally in table(1..=SEEDS).filter(|tally| !tally.thresholds) {
        assert_eq!(tally.made, SEEDS, "{tally}");
        let (expected, contrary) = match tally.right {
            true => (tally.kept, tally.undone),
            false => (tally.undone, tally.kept),
        };
        // 95 %: one of these may be misjudged.
        assert!(expected + 1 >= SEEDS && contrary <= 1, "{tally}");
    }
}
