//! Parting pairs that hurt each other: two shared containers of which one takes CPUs away from the other
//! are confined to parts of the machine that have nothing in common.

use super::{
    Scene, Shared, confine,
    span::{Level, Span},
};
use crate::{
    rebalance::interference::{HURT_NS_PER_S, PAIR_MILLI_PER_S, due_to},
    rebalance::proposal::{Proposal, Wins},
    request::ContainerId,
    state::rebalance::{Part, or},
};
use alloc::{format, vec::Vec};
use core::cmp::Reverse;

/// Pairs looked at, the worst first.
const LOOKED_AT: usize = 4;

pub(super) fn proposals(scene: &Scene<'_>) -> Vec<Proposal> {
    let mut pairs: Vec<(u64, &ContainerId, &ContainerId)> = Vec::new();
    for (id, seen) in &scene.view.measured.containers {
        if seen.wait_ns_per_s < HURT_NS_PER_S {
            continue;
        }
        let worst = seen.preempted_by.iter().filter(|(by, _)| *by != id);
        let worst = worst.max_by_key(|(_, rate)| **rate);
        if let Some((by, rate)) = worst.filter(|(_, rate)| **rate >= PAIR_MILLI_PER_S) {
            pairs.push((*rate, id, by));
        }
    }
    pairs.sort_by_key(|(rate, id, _)| (Reverse(*rate), *id));
    let each = pairs.into_iter().take(LOOKED_AT);
    each.filter_map(|(rate, victim, by)| part(scene, rate, victim, by))
        .collect()
}

fn part<'a>(
    scene: &Scene<'a>,
    rate: u64,
    victim: &'a ContainerId,
    by: &'a ContainerId,
) -> Option<Proposal> {
    let (hurt, hurts) = (scene.shared(victim)?, scene.shared(by)?);
    if hurt.placed.cpus.is_disjoint(&hurts.placed.cpus) {
        return None;
    }
    let places = |one: Shared<'a>, other: Shared<'a>| {
        let spans = scene.spans.iter().filter(|span| span.level != Level::Pool);
        let fit = spans.filter_map(move |span| Some((span, span.left(one, &[other])?)));
        fit.collect::<Vec<_>>()
    };
    let (homes, exiles) = (places(hurt, hurts), places(hurts, hurt));
    let stays = |one: Shared<'_>, span: &Span| one.placed.confined.as_deref() == Some(&span.cpus);
    let mut choices = Vec::new();
    for (home, left) in &homes {
        for (exile, other_left) in &exiles {
            if home.cpus.is_disjoint(&exile.cpus) {
                let moves = [stays(hurt, home), stays(hurts, exile)];
                let moves = moves.iter().filter(|stays| !**stays).count();
                // Large places first: both have more to go round in.
                let level = Reverse(home.level.min(exile.level));
                let room = Reverse(*left.min(other_left));
                choices.push((moves, level, room, *home, *exile));
            }
        }
    }
    choices.sort_by_key(|(moves, level, room, ..)| (*moves, *level, *room));
    let (_, _, _, home, exile) = choices.first()?;
    let parts: Vec<Part> = [(hurt, home), (hurts, exile)]
        .into_iter()
        .filter(|(one, span)| !stays(*one, span))
        .map(|(one, span)| confine(one, Some(span.cpus)))
        .collect();
    Some(Proposal {
        parts,
        watched: alloc::vec![victim.clone(), by.clone()],
        reason: "parting",
        gain_ns_per_s: due_to(hurt.seen, rate) / 2,
        wins: Wins::Time,
        why: alloc::vec![
            format!(
                "{by} preempts {victim} {} times a second, who waits {} µs/s; they run on {} and {}",
                rate / 1000,
                hurt.seen.wait_ns_per_s / 1000,
                or(hurt.placed.confined.as_deref(), "all of the pool"),
                or(hurts.placed.confined.as_deref(), "all of the pool"),
            ),
            format!("{victim} fits in {}, {by} in {}", home.name, exile.name),
        ],
        candidates: choices
            .iter()
            .take(8)
            .map(|(moves, _, room, home, exile)| {
                format!(
                    "{victim} in {}, {by} in {}: {moves} moves, at least {}m free in both",
                    home.name, exile.name, room.0
                )
            })
            .collect(),
    })
}
