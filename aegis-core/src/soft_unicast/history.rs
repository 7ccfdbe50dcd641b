//! "Who held ip:port at time t?", from the layouts alone, without a log line per connection.

use core::net::{IpAddr, Ipv4Addr};
use std::collections::BTreeMap;

use super::v6;
use crate::epoch::{Departure, Epoch, Layout, MachineIndex};
use crate::error::{Error, Result};
use crate::id::{DataCenterId, MachineId};
use crate::net::canonical_ip;
use crate::slices::{Cut, V6Fields};
use crate::time::Time;

/// The layouts of a span of time, of which only the changes are kept: an epoch costs what has moved in it (12 bytes a
/// granule), not a table.
///
/// Times are those at which a layout came into force, by the clock of whoever writes the history; a machine or a router
/// may have had it a moment later.
#[derive(Debug, Default)]
pub struct History {
    layouts: Vec<(Time, Epoch)>,
    /// IPv4 under one cut. A new cut begins a new one, because granules are others then.
    eras: Vec<Era>,
    /// What can be said of a granule; the first is *nobody*.
    states: Numbered<State>,
    machines: Numbered<(MachineId, DataCenterId)>,
    /// The prefixes from a layout on.
    v6_prefixes: Vec<(u32, Runs)>,
    /// By data center number and machine number: whose it is from a layout on.
    v6_machines: BTreeMap<u32, Vec<(u32, Option<u32>)>>,
}

/// IPv6 prefixes, as [`v6::runs`] gives them.
type Runs = Box<[(u64, u64)]>;

/// What the layout of a moment says of a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// The epoch in force.
    pub epoch: Epoch,
    /// Since when it was.
    pub since: Time,
    /// Who may have had a connection there, the likeliest first; empty if nobody.
    pub holders: Vec<Holder>,
}

/// A machine that may have had a connection from a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// The machine.
    pub machine: MachineId,
    /// Where it was.
    pub data_center: DataCenterId,
    /// By what right.
    pub role: Role,
}

/// Why a machine may have had a connection from a port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// The port was its own, to grant.
    Owner,
    /// The port was its own and was leaving it: older connections, and no new ones.
    Draining,
    /// The port stayed behind there after a handover: the granule's new owner did not have it.
    Holdout,
    /// It was the owner before, and had said what was still open there: only until it had the news.
    HandedOver,
    /// It was the owner before, and was taken for dead.
    Died,
}

#[derive(Debug)]
struct Era {
    first_layout: u32,
    cut: Cut,
    rows: BTreeMap<Ipv4Addr, Row>,
}

#[derive(Debug)]
struct Row {
    /// The state of each granule in the last layout.
    now: Box<[u32]>,
    /// Ascending by layout. Before the first one of a granule it is nobody's.
    changes: Vec<Change>,
}

/// From this layout on, a granule is in this state.
#[derive(Clone, Copy, Debug)]
struct Change {
    layout: u32,
    state: u32,
    granule: u16,
}

/// What a layout says of one granule; machines by number.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
struct State {
    owner: Option<(u32, Role)>,
    previous: Option<(u32, Role)>,
    holdouts: Box<[(u16, u32)]>,
}

/// Values that come again and again, each kept once.
#[derive(Debug)]
struct Numbered<T> {
    numbers: BTreeMap<T, u32>,
    values: Vec<T>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { numbers: BTreeMap::new(), values: Vec::new() }
    }
}

impl<T: Ord + Clone> Numbered<T> {
    fn number(&mut self, value: &T) -> u32 {
        if let Some(number) = self.numbers.get(value) {
            return *number;
        }
        let number = u32::try_from(self.values.len()).expect("more values than memory");
        self.numbers.insert(value.clone(), number);
        self.values.push(value.clone());
        number
    }
}

impl History {
    /// A history that begins with its first layout.
    pub fn new() -> Self {
        Self::default()
    }

    /// From `at` on, `layout` was in force. Epochs may be missing in between.
    ///
    /// # Errors
    /// Time or epoch does not come after the last one; nothing changes.
    pub fn push(&mut self, at: Time, layout: &Layout) -> Result<()> {
        let epoch = layout.epoch();
        if let Some((last_at, last)) =
            self.layouts.last().copied().filter(|last| at <= last.0 || epoch <= last.1)
        {
            return Err(Error::input(format!(
                "epoch {epoch} from {at} on does not come after epoch {last} from {last_at} on; both must be later"
            )));
        }
        let nth = u32::try_from(self.layouts.len()).expect("more layouts than memory");
        self.layouts.push((at, epoch));
        let machines: Vec<u32> = layout
            .machines()
            .iter()
            .map(|m| {
                let data_center = &layout.data_centers()[m.data_center.get()].id;
                self.machines.number(&(m.id.clone(), data_center.clone()))
            })
            .collect();
        self.push_v4(nth, layout, &machines);
        self.push_v6(nth, layout, &machines);
        Ok(())
    }

    /// The layouts of the history: from when on, and which epoch.
    pub fn layouts(&self) -> &[(Time, Epoch)] {
        &self.layouts
    }

    /// Who held `port` of `ip` at that time, as far as the layout then in force says.
    ///
    /// # Errors
    /// The history begins later: nothing is known of that time, which is another thing than *nobody*.
    pub fn who_held(&self, ip: IpAddr, port: u16, at: Time) -> Result<Held> {
        let count = self.layouts.partition_point(|(since, _)| *since <= at);
        let Some(nth) = count.checked_sub(1) else {
            let begin = self.layouts.first().map_or("empty".into(), |(at, _)| format!("from {at} on"));
            return Err(Error::input(format!("nothing is known of {at}: the history is {begin}")));
        };
        let (since, epoch) = self.layouts[nth];
        let holders = match canonical_ip(ip) {
            IpAddr::V4(ip) => self.state(nth as u32, ip, port).map(|state| state.holders(port)),
            IpAddr::V6(ip) => {
                self.v6_machine(nth as u32, ip, port).map(|machine| vec![(machine, Role::Owner)])
            }
        };
        let holder = |(machine, role): (u32, Role)| {
            let (machine, data_center) = self.machines.values[machine as usize].clone();
            Holder { machine, data_center, role }
        };
        Ok(Held { epoch, since, holders: holders.into_iter().flatten().map(holder).collect() })
    }

    fn push_v4(&mut self, nth: u32, layout: &Layout, machines: &[u32]) {
        let nobody = self.states.number(&State::default());
        let granules = usize::from(layout.cut().granule().granules_per_address());
        if self.eras.last().is_none_or(|era| era.cut != *layout.cut()) {
            let era = Era { first_layout: nth, cut: layout.cut().clone(), rows: BTreeMap::new() };
            self.eras.push(era);
        }
        let era = self.eras.last_mut().expect("there is one now");
        let usable: Vec<u16> = era.cut.granules().collect();
        for (address, row) in &mut era.rows {
            if layout.row(*address).is_none() {
                row.set(nth, &usable, |_| nobody);
            }
        }
        for owners in layout.rows() {
            let address = owners.address();
            let row = era
                .rows
                .entry(address)
                .or_insert_with(|| Row { now: vec![nobody; granules].into(), changes: Vec::new() });
            let now = row.now.clone();
            row.set(nth, &usable, |granule| {
                let owner = owners.owners()[usize::from(granule)];
                let state = State::of(layout, address, granule, owner, machines);
                // Most have not changed, and comparing is faster than looking for a number.
                let same = now[usize::from(granule)];
                if self.states.values[same as usize] == state { same } else { self.states.number(&state) }
            });
        }
    }

    fn push_v6(&mut self, nth: u32, layout: &Layout, machines: &[u32]) {
        let runs = v6::runs(layout.v6_prefixes());
        if self.v6_prefixes.last().is_none_or(|(_, last)| **last != *runs) {
            self.v6_prefixes.push((nth, runs.into()));
        }
        let numbers: BTreeMap<u32, usize> = v6::numbers(layout).into_iter().collect();
        for (number, changes) in &mut self.v6_machines {
            if !numbers.contains_key(number) && changes.last().is_some_and(|(_, machine)| machine.is_some()) {
                changes.push((nth, None));
            }
        }
        for (number, position) in numbers {
            let (changes, machine) = (self.v6_machines.entry(number).or_default(), Some(machines[position]));
            if changes.last().is_none_or(|(_, last)| *last != machine) {
                changes.push((nth, machine));
            }
        }
    }

    /// The state of a port's granule in the layout `nth`.
    fn state(&self, nth: u32, ip: Ipv4Addr, port: u16) -> Option<&State> {
        let era = latest(&self.eras, nth, |era| era.first_layout)?;
        let changes = &era.rows.get(&ip)?.changes;
        let granule = port >> era.cut.granule().shift();
        let until = changes.partition_point(|change| change.layout <= nth);
        let change = changes[..until].iter().rev().find(|change| change.granule == granule)?;
        Some(&self.states.values[change.state as usize])
    }

    fn v6_machine(&self, nth: u32, ip: core::net::Ipv6Addr, port: u16) -> Option<u32> {
        let fields = V6Fields::parse(ip).filter(|_| port != 0)?;
        let (_, runs) = latest(&self.v6_prefixes, nth, |(first, _)| *first)?;
        let number = v6::number(fields.data_center.get(), fields.machine.get());
        let (_, machine) = latest(self.v6_machines.get(&number)?, nth, |(first, _)| *first)?;
        machine.filter(|_| v6::is_inside(runs, (ip.to_bits() >> 64) as u64))
    }
}

/// The last item that begins with layout `nth` or before.
fn latest<T>(items: &[T], nth: u32, first: impl Fn(&T) -> u32) -> Option<&T> {
    items[..items.partition_point(|item| first(item) <= nth)].last()
}

impl Row {
    /// Writes down the granules whose state is another one from layout `nth` on.
    fn set(&mut self, nth: u32, usable: &[u16], mut state: impl FnMut(u16) -> u32) {
        for granule in usable {
            let (state, now) = (state(*granule), &mut self.now[usize::from(*granule)]);
            if *now != state {
                *now = state;
                self.changes.push(Change { layout: nth, state, granule: *granule });
            }
        }
    }
}

impl State {
    fn of(
        layout: &Layout,
        address: Ipv4Addr,
        granule: u16,
        owner: Option<MachineIndex>,
        machines: &[u32],
    ) -> Self {
        let number = |machine: MachineIndex| machines[machine.get()];
        let moving = layout.handovers();
        if moving.is_empty() {
            return Self { owner: owner.map(|owner| (number(owner), Role::Owner)), ..Self::default() };
        }
        let role = match moving.draining_of(address, granule) {
            Some(_) => Role::Draining,
            None => Role::Owner,
        };
        let previous = moving.previous_of(address, granule).map(|previous| {
            let role = match previous.departure {
                Departure::HandedOver => Role::HandedOver,
                Departure::Died => Role::Died,
            };
            (number(previous.machine), role)
        });
        let range = layout.cut().range(granule).expect("only usable granules are asked for");
        let holdouts = moving.holdouts();
        let first = holdouts.partition_point(|h| (h.address, h.port) < (address, range.lo()));
        let after = holdouts.partition_point(|h| (h.address, h.port) <= (address, range.hi()));
        Self {
            owner: owner.map(|owner| (number(owner), role)),
            previous,
            holdouts: holdouts[first..after].iter().map(|h| (h.port, number(h.machine))).collect(),
        }
    }

    /// Who may have had a connection from a port of the granule.
    fn holders(&self, port: u16) -> Vec<(u32, Role)> {
        let at = self.holdouts.binary_search_by_key(&port, |(port, _)| *port).ok();
        let first = at.map(|at| (self.holdouts[at].1, Role::Holdout)).or(self.owner);
        let previous = self.previous.filter(|previous| first.is_none_or(|first| first.0 != previous.0));
        first.into_iter().chain(previous).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::Epoch;
    use crate::epoch::testing::{World, any_world};
    use crate::epoch::testing_handovers::{any_moves, with_moves};
    use proptest::prelude::*;

    fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    #[test]
    fn time_and_epoch_only_go_on_and_before_the_first_layout_nothing_is_known() {
        let world = World::new(&[&[1]]).hold("192.0.2.1/32", &[0]);
        let ip = "192.0.2.1".parse().unwrap();
        let mut history = History::new();
        let e = history.who_held(ip, 4_096, at(5)).unwrap_err();
        assert!(e.message().contains("nothing is known of 0.005s: the history is empty"), "{e}");
        history.push(at(10), &world.build(3).unwrap()).unwrap();
        for (ms, epoch) in [(10, 4), (11, 3), (9, 2)] {
            let e = history.push(at(ms), &world.build(epoch).unwrap()).unwrap_err();
            assert!(e.message().contains(&format!("epoch {epoch} from 0.0")), "{e}");
            assert!(e.message().contains("epoch 3 from 0.010s on"), "{e}");
        }
        let e = history.who_held(ip, 4_096, at(9)).unwrap_err();
        assert!(e.message().contains("from 0.010s on"), "{e}");
        let held = history.who_held(ip, 4_096, at(u64::MAX)).unwrap();
        assert_eq!((held.epoch, held.since, held.holders.len()), (Epoch::new(3), at(10), 1));
        assert_eq!(held.holders[0].machine.as_str(), "d0-m0");
        assert_eq!(history.who_held(ip, 0, at(10)).unwrap().holders, [], "nobody's, and that is known");
    }

    /// 1,000 epochs of 256 addresses, of which each moves a few granules.
    #[test]
    fn an_epoch_costs_what_has_moved_in_it() {
        let world = World::new(&[&[1; 31]]).hold("192.0.2.0/24", &[0]);
        let mut history = History::new();
        let first = world.build(1).unwrap();
        history.push(at(1), &first).unwrap();
        let epochs = if cfg!(miri) { 10 } else { 1_000_u64 };
        for epoch in 2..=epochs {
            let n = epoch as u16;
            let moves = vec![(n, n, 4, n, n), (n, n / 3, 0, n, n), (n, n / 5, 2, n, n)];
            let layout = with_moves(&first.clone().at_epoch(epoch), &moves);
            history.push(at(epoch), &layout).unwrap();
        }
        let rows = history.eras.iter().flat_map(|era| era.rows.values());
        let changes: usize = rows.map(|row| row.changes.len()).sum();
        let bytes =
            changes * size_of::<Change>() + history.states.values.len() * 2 * (size_of::<State>() + 8);
        assert!(changes <= 256 * 31 + epochs as usize * 6, "{changes} changes");
        assert!(bytes < 20 * 256 * 32 * 4, "{bytes} bytes: 20 tables, not {epochs}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Machines, addresses, cuts, prefixes: all of them may change from one layout to the next.
        #[test]
        fn every_moment_is_answered_by_the_layout_in_force(
            worlds in prop::collection::vec((any_world(), any_moves(), any::<bool>()), 1..6),
            probe in any::<u16>(),
        ) {
            let mut history = History::new();
            let mut layouts: Vec<Layout> = Vec::new();
            for (nth, (world, moves, same)) in (0..).zip(&worlds) {
                // Half of the layouts differ from the one before only in what moves.
                let layout = match layouts.last().filter(|_| *same) {
                    Some(last) => last.clone().at_epoch(10 + 3 * nth),
                    None => world.build(10 + 3 * nth).unwrap(),
                };
                let layout = if *same && nth > 0 { layout } else { with_moves(&layout, moves) };
                history.push(at(100 * nth + 50), &layout).unwrap();
                layouts.push(layout);
            }
            let ports = || (0..=u16::MAX).step_by(97).chain([0, 1, probe, u16::MAX]);
            let v4: Vec<Ipv4Addr> = layouts.iter().flat_map(|l| l.rows()).map(|row| row.address()).collect();
            let v6 = ["2001:db8:0:1:1:1:0:1", "2001:db8:1:7:2:3:0:1", "2001:db8:2:0:1:1:0:1"];
            let ips: Vec<IpAddr> = v4.into_iter().map(IpAddr::V4).chain(v6.map(|ip| ip.parse().unwrap())).collect();
            for (layout, nth) in layouts.iter().zip(0..) {
                for ms in [100 * nth + 50, 100 * nth + 149] {
                    for ip in &ips {
                        let held_out = layout.handovers().holdouts().iter().map(|h| h.port);
                        for port in ports().chain(held_out) {
                            let held = history.who_held(*ip, port, at(ms)).unwrap();
                            prop_assert_eq!((held.epoch, held.since), (layout.epoch(), at(100 * nth + 50)));
                            prop_assert_eq!(held.holders, naive(layout, *ip, port), "{} {} {}", ip, port, ms);
                        }
                    }
                }
            }
        }
    }

    fn naive(layout: &Layout, ip: IpAddr, port: u16) -> Vec<Holder> {
        let holder = |machine: MachineIndex, role| {
            let machine = &layout.machines()[machine.get()];
            let data_center = layout.data_centers()[machine.data_center.get()].id.clone();
            Holder { machine: machine.id.clone(), data_center, role }
        };
        let moving = layout.handovers();
        let owner = layout.owner(ip, port).map(|owner| owner.machine);
        let (IpAddr::V4(ip), Some(granule)) = (ip, layout.cut().granule_of(port)) else {
            return owner.map(|owner| holder(owner, Role::Owner)).into_iter().collect();
        };
        let role = match (moving.holdout_of(ip, port), moving.draining_of(ip, granule)) {
            (Some(_), _) => Role::Holdout,
            (None, Some(_)) => Role::Draining,
            (None, None) => Role::Owner,
        };
        let previous = moving.previous_of(ip, granule).filter(|p| Some(p.machine) != owner).map(|p| {
            let role = if p.departure == Departure::Died { Role::Died } else { Role::HandedOver };
            holder(p.machine, role)
        });
        owner.map(|owner| holder(owner, role)).into_iter().chain(previous).collect()
    }
}
