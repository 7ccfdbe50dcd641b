//! What must hold in every state, and what must come about in some.

use stateright::Property;

use super::world::{ADDRESS, Open, State, World};
use crate::epoch::{Departure, Layout};

pub(super) const ONE_GRANTS: &str = "at most one machine may grant a port";
pub(super) const NOT_OVER_OPEN: &str = "nobody may grant what is open elsewhere";
pub(super) const TWO_HOPS: &str = "a packet of a live connection comes to its machine in two hops";

pub(super) fn always() -> Vec<Property<World>> {
    vec![
        Property::always(ONE_GRANTS, one_grants),
        Property::always(NOT_OVER_OPEN, not_over_open),
        Property::always(TWO_HOPS, two_hops),
    ]
}

pub(super) const HANDED_OVER: &str = "a granule is handed over with nothing left behind";
pub(super) const LEFT_BEHIND: &str = "a granule is handed over and a port stays behind";
pub(super) const TAKEN_OVER: &str = "the granule of a dead machine is another's, who grants there";
pub(super) const PASSED_ON: &str = "a packet needs its second hop";
pub(super) const PASSED_BY_SECOND_OWNER: &str = "a packet is passed on to the second owner";

pub(super) fn sometimes() -> Vec<Property<World>> {
    vec![
        Property::sometimes(HANDED_OVER, |world: &World, state: &State| {
            let moving = state.store.layout().handovers();
            let is_over = moving.previous().iter().any(|p| p.departure == Departure::HandedOver);
            is_over
                && moving.holdouts().is_empty()
                && world.setup.ports.iter().any(|port| granter(state, *port) == Some(1))
        }),
        Property::sometimes(LEFT_BEHIND, |world: &World, state: &State| {
            let moving = state.store.layout().handovers();
            let stays = |port: &u16| moving.holdout_of(ADDRESS, *port).is_some();
            world.setup.ports.iter().any(stays)
        }),
        Property::sometimes(TAKEN_OVER, |world: &World, state: &State| {
            let previous = state.store.layout().handovers().previous();
            let died = previous.iter().any(|p| p.departure == Departure::Died);
            died && world.setup.ports.iter().any(|port| granter(state, *port) == Some(1))
        }),
        Property::sometimes(PASSED_ON, |world: &World, state: &State| {
            live(state).any(|(m, port, open)| matches!(way(world, state, m, port, open), Way::Passed { .. }))
        }),
        Property::sometimes(PASSED_BY_SECOND_OWNER, |world: &World, state: &State| {
            live(state).any(|(m, port, open)| {
                matches!(way(world, state, m, port, open), Way::Passed { is_second_owner: true })
            })
        }),
    ]
}

fn granter(state: &State, port: u16) -> Option<usize> {
    (0..state.hosts.len()).find(|m| state.may_grant(*m, port))
}

fn one_grants(world: &World, state: &State) -> bool {
    world
        .setup
        .ports
        .iter()
        .all(|port| (0..state.hosts.len()).filter(|m| state.may_grant(*m, *port)).count() <= 1)
}

/// Ports that somebody answers for.
fn kept(state: &State) -> impl Iterator<Item = (usize, u16, &Open)> {
    let open =
        state.hosts.iter().enumerate().flat_map(|(m, host)| host.open.iter().map(move |(p, o)| (m, *p, o)));
    open.filter(|(_, _, open)| !open.is_given_up)
}

fn live(state: &State) -> impl Iterator<Item = (usize, u16, &Open)> {
    kept(state).filter(|(_, _, open)| !open.is_held)
}

pub(super) fn not_over_open(_: &World, state: &State) -> bool {
    kept(state).all(|(m, port, _)| {
        let others = (0..state.hosts.len()).filter(|other| *other != m);
        others.into_iter().all(|other| {
            let is_open = state.hosts[other].open.get(&port).is_some_and(|open| !open.is_given_up);
            !is_open && !state.may_grant(other, port)
        })
    })
}

/// The way of a packet.
enum Way {
    Straight,
    Passed {
        is_second_owner: bool,
    },
    /// Nothing is promised as long as
    /// - the router's layout says that the granule is nobody's, and is older than the one that gives it to somebody: a
    ///   granule that nobody has is granted from before routers know it;
    /// - the machine that the router sends to is down, or has started anew and has no layout yet;
    /// - that machine's layout is older than the one that first meant the granule for where the connection is.
    ///
    /// Routers that the settings name are waited for without end, except where an owner dies while it drains: the last
    /// test in `mod.rs`.
    Excused,
    Lost,
}

pub(super) fn two_hops(world: &World, state: &State) -> bool {
    live(state).all(|(m, port, open)| !matches!(way(world, state, m, port, open), Way::Lost))
}

fn way(world: &World, state: &State, m: usize, port: u16, open: &Open) -> Way {
    let Some(router) = &state.router else { return Way::Excused };
    let Some(first) = world.owner(router, port) else {
        let has_heard = router.epoch() >= open.meant_since;
        return if has_heard { Way::Lost } else { Way::Excused };
    };
    if first == m {
        return Way::Straight;
    }
    // One hop more, and the packet bears a mark that it may not be passed on again.
    let layout = state.hosts[first].agent.as_ref().and_then(|agent| agent.layout());
    let Some(layout) = layout else { return Way::Excused };
    if layout.epoch() < open.meant_since {
        return Way::Excused;
    }
    let (second, is_second_owner) = pass_on(world, layout, first, port);
    if second == Some(m) { Way::Passed { is_second_owner } } else { Way::Lost }
}

/// Whom a machine that does not know a flow passes its packet on to.
fn pass_on(world: &World, layout: &Layout, me: usize, port: u16) -> (Option<usize>, bool) {
    let owner = world.owner(layout, port);
    if owner == Some(me) { (world.second_owner(layout, port), true) } else { (owner, false) }
}
