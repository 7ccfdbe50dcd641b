//! States that cannot behave differently are made equal: otherwise counters alone would make the model endless.

use std::sync::Arc;

use super::steps::Clock;
use super::world::{State, World, desk_now, machine_now};
use crate::epoch::control::{Record, Reply};
use crate::time::Time;

/// Versions are only asked whether they are equal, and a controller adds at most this much before it reads again.
const STEP: u64 = 3;

/// Takes out what can have no effect any more, and makes counters small.
pub(super) fn canonical(world: &World, state: &mut State) {
    forget_replies(world, state);
    renumber(state);
}

/// An answer that has told a machine everything changes nothing, now or later: tenures and layouts only grow.
fn forget_replies(world: &World, state: &mut State) {
    if world.setup.fault.is_some() {
        return;
    }
    for host in &mut state.hosts {
        let (boot, agent) = (host.boot, host.agent.as_ref());
        let known = agent.and_then(|agent| agent.layout()).map(|layout| layout.epoch());
        let is_over = |reply: &Reply| {
            let has_tenure = agent.is_some_and(|agent| agent.granting_until() >= reply.sent + reply.tenure);
            // The layout that comes along is of the same epoch.
            reply.boot < boot || (known >= Some(reply.epoch) && has_tenure)
        };
        if host.replies.iter().any(is_over) {
            let stays: Vec<_> = host.replies.iter().filter(|reply| !is_over(reply)).cloned().collect();
            Arc::make_mut(host).replies = stays;
        }
    }
}

fn renumber(state: &mut State) {
    let of_record =
        |record: &Record| -> Vec<u64> { record.renewals.values().copied().chain([record.version]).collect() };
    let mut versions = of_record(&state.store);
    for desk in &state.desks {
        versions.push(desk.base);
        versions.extend(of_record(&desk.controller.record));
        versions.extend(desk.controller.renewals.values().map(|(version, _)| *version));
    }
    versions.sort_unstable();
    versions.dedup();
    // 0 says never.
    let (mut last, mut next) = (0, 0);
    let mut small = vec![(0, 0)];
    for version in versions {
        next += (version - last).min(STEP);
        last = version;
        small.push((version, next));
    }
    if last == next {
        return;
    }
    let change = |version: &mut u64| {
        let at = small.partition_point(|(large, _)| large < version);
        *version = small[at].1;
    };
    let change_record = |record: &mut Record| {
        change(&mut record.version);
        record.renewals.values_mut().for_each(change);
    };
    change_record(&mut state.store);
    for desk in &mut state.desks {
        let desk = Arc::make_mut(desk);
        change(&mut desk.base);
        change_record(&mut desk.controller.record);
        desk.controller.renewals.values_mut().for_each(|(version, _)| change(version));
    }
}

/// A tick later on every clock except one: what clocks are compared with goes back, as far as anybody can tell the
/// difference.
pub(super) fn age(world: &World, state: &mut State, but: Option<Clock>) {
    let setup = &world.setup;
    for (m, host) in state.hosts.iter_mut().enumerate() {
        let host = Arc::make_mut(host);
        host.silent = (host.silent + 1).min(setup.tenure);
        if but == Some(Clock::Machine(m)) {
            continue;
        }
        if let Some(agent) = &mut host.agent {
            if agent.until > Time::ZERO {
                back(&mut agent.until, machine_now(m), 0);
            }
            if let Some((_, until)) = &mut agent.ahead {
                back(until, machine_now(m), 0);
            }
        }
        host.reports.iter_mut().for_each(|report| back(&mut report.sent, machine_now(m), setup.tenure));
        host.replies.iter_mut().for_each(|reply| back(&mut reply.sent, machine_now(m), setup.tenure));
    }
    for (c, desk) in state.desks.iter_mut().enumerate() {
        let desk = Arc::make_mut(desk);
        if let Some(pending) = &mut desk.pending {
            if let Some((_, ago)) = &mut pending.heard {
                *ago = (*ago + 1).min(setup.tenure);
            }
            if let Some(reply) = &mut pending.reply {
                let m = world.ids.iter().position(|id| *id == reply.machine).unwrap();
                if but != Some(Clock::Machine(m)) {
                    back(&mut reply.sent, machine_now(m), setup.tenure);
                }
            }
        }
        if but == Some(Clock::Controller(c)) {
            continue;
        }
        let longest = setup.tenure + setup.margin + setup.udp_rest;
        desk.controller.renewals.values_mut().for_each(|(_, seen)| back(&mut seen.at, desk_now(c), longest));
        let longest = setup.drain.max(setup.udp_rest);
        desk.controller.first_seen.values_mut().for_each(|seen| back(&mut seen.at, desk_now(c), longest));
    }
}

/// A tick further back, but not longer ago than `longest`: that is over for good.
fn back(time: &mut Time, now: Time, longest: u64) {
    *time = Time::from_millis((time.as_millis() - 1).max(now.as_millis() - longest));
}
