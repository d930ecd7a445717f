//! Separating pairs that interfere: two shared containers of which one takes CPUs away from the other are
//! confined to domains that have nothing in common.

use super::context::{Context, Domain, DomainSize, SharedContainer, confine};
use crate::{
    explanation::{Candidate, Reason},
    rebalance::{
        interference::{InterferingPair, interfering_pairs},
        proposal::Proposal,
    },
    state::rebalance::{Benefit, MoveStep},
};
use alloc::{vec, vec::Vec};
use core::cmp::Reverse;

/// Pairs of domains listed.
const MAX_LISTED: usize = 8;

pub(super) fn proposals(context: &Context<'_>) -> Vec<Proposal> {
    let pairs = interfering_pairs(context.view.measured).into_iter();
    pairs.filter_map(|pair| separate(context, pair)).collect()
}

fn separate<'a>(context: &Context<'a>, pair: InterferingPair<'a>) -> Option<Proposal> {
    let InterferingPair {
        victim: victim_id,
        aggressor: aggressor_id,
        ..
    } = pair;
    let (victim, aggressor) = (context.shared(victim_id)?, context.shared(aggressor_id)?);
    if victim.placed.cpus.is_disjoint(&aggressor.placed.cpus) {
        return None;
    }
    let fitting = |container: SharedContainer<'a>, also_gone: SharedContainer<'a>| {
        let domains = context.domains.iter();
        let parts = domains.filter(|domain| domain.level != DomainSize::Pool);
        let fit = parts.filter_map(move |domain| {
            let left = domain.left(container, &[also_gone])?;
            Some((domain, left))
        });
        fit.collect::<Vec<_>>()
    };
    let victim_domains = fitting(victim, aggressor);
    let aggressor_domains = fitting(aggressor, victim);
    let stays = |container: SharedContainer<'_>, domain: &Domain| {
        container.placed.confined.as_deref() == Some(&domain.cpus)
    };
    let mut choices = Vec::new();
    for (victim_domain, victim_left) in &victim_domains {
        for (aggressor_domain, aggressor_left) in &aggressor_domains {
            if victim_domain.cpus.is_disjoint(&aggressor_domain.cpus) {
                let moves = [
                    stays(victim, victim_domain),
                    stays(aggressor, aggressor_domain),
                ];
                let moves = moves.iter().filter(|stays| !**stays).count();
                // Large domains first: both containers have more CPUs to choose from.
                let level = Reverse(victim_domain.level.min(aggressor_domain.level));
                let room = Reverse(*victim_left.min(aggressor_left));
                choices.push((moves, level, room, *victim_domain, *aggressor_domain));
            }
        }
    }
    choices.sort_by_key(|(moves, level, room, ..)| (*moves, *level, *room));
    let (_, _, _, victim_domain, aggressor_domain) = choices.first()?;
    let steps: Vec<MoveStep> = [(victim, victim_domain), (aggressor, aggressor_domain)]
        .into_iter()
        .filter(|(container, domain)| !stays(*container, domain))
        .map(|(container, domain)| confine(container, Some(domain.cpus)))
        .collect();
    Some(Proposal {
        steps,
        watched: vec![victim_id.clone(), aggressor_id.clone()],
        reason: "parting",
        gain_ns_per_s: pair.attributed_wait() / 2,
        benefit: Benefit::Time,
        reasons: vec![
            Reason::Interferes {
                aggressor: aggressor_id.clone(),
                victim: victim_id.clone(),
                preempted_milli_per_s: pair.preempted_milli_per_s,
                wait_ns_per_s: victim.seen.wait_ns_per_s,
                victim_confined: victim.placed.confined.clone(),
                aggressor_confined: aggressor.placed.confined.clone(),
            },
            Reason::FitApart {
                victim: victim_id.clone(),
                victim_domain: victim_domain.name.clone(),
                aggressor: aggressor_id.clone(),
                aggressor_domain: aggressor_domain.name.clone(),
            },
        ],
        candidates: choices
            .iter()
            .take(MAX_LISTED)
            .map(
                |(moves, _, room, victim_domain, aggressor_domain)| Candidate::Separation {
                    victim: victim_id.clone(),
                    victim_domain: victim_domain.name.clone(),
                    aggressor: aggressor_id.clone(),
                    aggressor_domain: aggressor_domain.name.clone(),
                    moves: *moves,
                    left_milli: room.0,
                },
            )
            .collect(),
    })
}
