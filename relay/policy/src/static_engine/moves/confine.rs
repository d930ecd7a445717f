//! Confining shared containers whose threads migrate far to a domain they fit in, and giving those another
//! domain that wait where they are.

use super::context::{Context, Domain, DomainSize, SharedContainer, confine, need, single};
use crate::{
    explanation::Reason,
    rebalance::{
        cost::{LLC_MIGRATION_US, NODE_MIGRATION_US, PACKAGE_MIGRATION_US},
        limits::MIN_GAIN_NS,
        proposal::Proposal,
    },
    state::rebalance::Benefit,
};
use alloc::{vec, vec::Vec};
use core::cmp::Reverse;

/// Far migrations per second from which a container is worth confining, thousandths.
const FAR_MIGRATIONS_MILLI_PER_S: u64 = 20_000;
/// Waiting from which a confined container is worth another domain, nanoseconds per second.
const WAITS_NS_PER_S: u64 = 100_000_000;
/// Candidates listed.
const MAX_LISTED: usize = 8;

pub(super) fn proposal(context: &Context<'_>, shared: SharedContainer<'_>) -> Option<Proposal> {
    let seen = shared.seen;
    let package = seen.package_migrations_milli_per_s;
    let node = seen.node_migrations_milli_per_s;
    let llc = seen.llc_migrations_milli_per_s;
    // Thousandths of migrations times microseconds are nanoseconds.
    let saves = |level: DomainSize| {
        let (package, node, llc) = (
            package.saturating_mul(PACKAGE_MIGRATION_US),
            node.saturating_mul(NODE_MIGRATION_US),
            llc.saturating_mul(LLC_MIGRATION_US),
        );
        match level {
            DomainSize::Llc => package.saturating_add(node).saturating_add(llc),
            DomainSize::Node => package.saturating_add(node),
            DomainSize::Package => package,
            DomainSize::Pool => 0,
        }
    };
    let migrates_far =
        package.saturating_add(node).saturating_add(llc) >= FAR_MIGRATIONS_MILLI_PER_S;
    let waits = shared.placed.confined.is_some() && seen.wait_ns_per_s >= WAITS_NS_PER_S;
    if !migrates_far && !waits {
        return None;
    }
    // A cache of its own must be worth the narrowness; a node need not.
    let caches = saves(DomainSize::Llc) >= saves(DomainSize::Node).saturating_add(MIN_GAIN_NS);
    let offered = |domain: &&Domain| {
        let narrower = migrates_far && !shared.placed.cpus.is_subset(&domain.cpus);
        let elsewhere = Some(&domain.cpus) != shared.placed.confined.as_deref();
        (domain.level != DomainSize::Llc || caches) && elsewhere && (narrower || waits)
    };
    let mut choices: Vec<_> = context
        .domains
        .iter()
        .filter(offered)
        .map(|domain| (domain, domain.left(shared, &[])))
        .collect();
    choices.sort_by_key(|(domain, left)| {
        // A container that waits wants room first, one that migrates far a small domain.
        let level = if migrates_far {
            domain.level
        } else {
            DomainSize::Pool
        };
        (
            left.is_none(),
            level,
            Reverse(*left),
            domain.level,
            domain.id,
        )
    });
    let (domain, left) = choices.first()?;
    let left = (*left)?;
    let (reason, gain, benefit) = if migrates_far {
        ("migrations", saves(domain.level), Benefit::Refill)
    } else {
        ("contention", seen.wait_ns_per_s / 2, Benefit::Time)
    };
    let to = (domain.level != DomainSize::Pool).then_some(domain.cpus);
    Some(Proposal {
        reasons: vec![
            Reason::Migrates {
                package_milli_per_s: package,
                node_milli_per_s: node,
                llc_milli_per_s: llc,
                wait_ns_per_s: seen.wait_ns_per_s,
                confined: shared.placed.confined.clone(),
            },
            Reason::Fits {
                need_milli: need(shared),
                domain: domain.name.clone(),
                left_milli: left,
            },
        ],
        candidates: choices
            .iter()
            .take(MAX_LISTED)
            .map(|(domain, left)| domain.candidate(*left, saves(domain.level) / 1000))
            .collect(),
        benefit,
        ..single(confine(shared, to), reason, gain)
    })
}
