//! What a change of the layout in force means for what is open, and what has been meant since when.

use std::sync::Arc;

use super::world::{ADDRESS, Event, State, World};
use crate::epoch::{Draining, Epoch, Layout};

impl World {
    /// Another layout is in force: what does that mean for what is open, and what has happened?
    pub(super) fn note(&self, state: &mut State, old: &Layout) {
        let new = Arc::clone(state.store.layout());
        for (granule, meant) in new.cut().granules().zip(&mut state.meant) {
            let whom = self.meant(&new, granule);
            if meant.last().is_none_or(|(_, last)| *last != whom) {
                meant.push((new.epoch(), whom));
            }
        }
        for (m, host) in state.hosts.iter_mut().enumerate() {
            // Its tenure is over by every clock that misses no more ticks than the margin has.
            let is_silent = host.silent >= self.setup.tenure;
            let gone = |port: &u16| self.owner(old, *port) == Some(m) && self.owner(&new, *port) != Some(m);
            let ports: Vec<u16> = host.open.keys().copied().filter(gone).collect();
            for port in ports.into_iter().filter(|_| is_silent) {
                self.saw(Event::GivenUp);
                Arc::make_mut(host).open.get_mut(&port).unwrap().is_given_up = true;
            }
        }
        let owner = |layout: &Layout, drain: &Draining| {
            let owner = layout.row(drain.address)?.owners()[usize::from(drain.granule)]?;
            Some(self.machine(layout, owner))
        };
        let is_cancelled = |drain: &Draining| {
            new.handovers().draining_of(drain.address, drain.granule).is_none()
                && owner(old, drain) == owner(&new, drain)
        };
        if old.handovers().draining().iter().any(is_cancelled) {
            self.saw(Event::Cancelled);
        }
        if new.handovers().holdouts().len() < old.handovers().holdouts().len() {
            self.saw(Event::CameAfter);
        }
        if new.machines().len() < old.machines().len() {
            self.saw(Event::Forgotten);
        }
    }

    /// To whom a granule belongs, or drains.
    pub(super) fn meant(&self, layout: &Layout, granule: u16) -> Option<usize> {
        let owner = layout.row(ADDRESS)?.owners()[usize::from(granule)];
        let drain = layout.handovers().draining_of(ADDRESS, granule);
        drain.map_or(owner, |drain| drain.to).map(|index| self.machine(layout, index))
    }

    /// Since which epoch the port's granule has been meant for this machine, as far as the machine has heard.
    pub(super) fn meant_since(&self, state: &State, m: usize, port: u16) -> Epoch {
        let Some(layout) = state.hosts[m].agent.as_ref().and_then(|agent| agent.layout()) else {
            return Epoch::new(0);
        };
        let Some(at) =
            layout.cut().granules().position(|granule| layout.cut().granule_of(port) == Some(granule))
        else {
            return Epoch::new(0);
        };
        let Some(meant) = state.meant.get(at) else { return Epoch::new(0) };
        meant
            .iter()
            .rev()
            .find(|(epoch, _)| *epoch <= layout.epoch())
            .map_or(Epoch::new(0), |(epoch, _)| *epoch)
    }
}
