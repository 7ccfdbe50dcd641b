//! Single rules of controllers, agents and records. Whole stories are in `scenario_tests`, random ones in
//! `aegis-core/tests/handover.rs`.

use core::net::Ipv4Addr;
use core::time::Duration;

use super::{Agent, Busy, Controller, Record, Report, RouterReport, Settings};
use crate::epoch::testing::World;
use crate::epoch::{Departure, Draining, Epoch, Layout, MachineIndex, Previous, Standing};
use crate::error::ErrorKind;
use crate::time::Time;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

fn seconds(seconds: u64) -> Time {
    Time::from_millis(seconds * 1_000)
}

/// Machines `d0-m0`, `d0-m1` and `d1-m0` with shares of one address.
fn fleet() -> World {
    World::new(&[&[1, 1], &[1]]).hold("192.0.2.1/32", &[0, 1]).hold("2001:db8::/64", &[])
}

/// The same without its first machine.
fn smaller_fleet() -> World {
    let mut world = fleet();
    world.machines.remove(0);
    world
}

fn controller(world: &World) -> Controller {
    Controller::new(Settings::default(), Record::new(world.build(1).unwrap()), Time::ZERO)
}

/// A report, its answer, and the layout in it.
fn exchange(controller: &mut Controller, agent: &mut Agent, now: Time, is_idle: bool) {
    let reply = controller.report(&agent.report(now, is_idle, |_, _| Vec::new()), now).unwrap();
    if let Some(layout) = agent.receive(&reply) {
        agent.applied(layout);
    }
}

/// A record in the middle of a handover.
fn moving() -> Record {
    let world = fleet();
    let mut controller = controller(&world);
    let target = smaller_fleet().build_after(Some(controller.record().layout()), 2).unwrap();
    controller.retarget(&target, Time::ZERO).unwrap();
    let mut agent = Agent::new("d0-m0".parse().unwrap(), 1);
    exchange(&mut controller, &mut agent, Time::ZERO, false);
    let first = controller.record().layout().handovers().draining()[0].granule;
    let busy = |_, range: crate::net::PortRange| {
        if range.lo() >> 11 == first { vec![range.lo()] } else { Vec::new() }
    };
    controller.report(&agent.report(seconds(1), false, busy), seconds(1)).unwrap();
    controller.report(&agent.report(seconds(601), false, busy), seconds(601)).unwrap();
    let moving = controller.record().layout().handovers();
    assert!(!moving.holdouts().is_empty() && !moving.previous().is_empty());
    controller.record().clone()
}

#[test]
fn a_record_reads_back_and_nothing_else_does() {
    let record = moving();
    let bytes = record.to_bytes();
    assert_eq!(Record::from_bytes(&bytes).unwrap(), record);
    for end in 0..bytes.len() {
        assert_eq!(Record::from_bytes(&bytes[..end]).unwrap_err().kind(), ErrorKind::Reload, "{end} bytes");
    }
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Record::from_bytes(&damaged).unwrap_err().kind(), ErrorKind::Reload, "bit {bit}");
    }
    assert!(Record::from_bytes(&[bytes, vec![0]].concat()).is_err());
    let layout = record.layout().to_bytes();
    assert!(Record::from_bytes(&layout).unwrap_err().message().contains("AEGL"), "a layout is no record");
}

#[test]
fn a_record_that_contradicts_itself_is_refused_by_name() {
    let fault = |change: fn(&mut Record)| {
        let mut record = moving();
        change(&mut record);
        Record::from_bytes(&record.to_bytes()).unwrap_err().to_string()
    };
    let e = fault(|record| record.renewals.extend([("z".parse().unwrap(), 0)]));
    assert!(e.contains("machine z has a tenure, but is not in the layout"), "{e}");
    let e = fault(|record| record.renewals.retain(|id, _| id.as_str() != "d0-m1"));
    assert!(e.contains("machine d0-m1 is in the layout, but no renewal of it is known"), "{e}");
    let e = fault(|record| record.version = 0);
    assert!(e.contains("machine d0-m0 has renewed with version"), "{e}");
}

/// What is refused, with words of the message; the controller stays as it was.
#[test]
fn what_is_refused_changes_nothing() {
    let world = fleet();
    let mut controller = controller(&world);
    let first = controller.record().layout().clone();
    let target = smaller_fleet().build_after(Some(&first), 5).unwrap();
    controller.retarget(&target, Time::ZERO).unwrap();
    let in_force = controller.record().layout().clone();

    let mut finer = fleet();
    finer.policy.cut = crate::slices::Cut::new(
        crate::slices::GranuleSize::new(1_024).unwrap(),
        crate::net::PortRange::ALL,
        ["0-2047".parse().unwrap()],
    )
    .unwrap();
    let mut elsewhere = fleet();
    elsewhere.machines[1].data_center = "d1".parse().unwrap();
    let moved = crate::epoch::control::retarget::towards(&first, &target).unwrap();
    let moving = Layout::try_from(crate::epoch::LayoutParts { epoch: Epoch::new(9), ..moved }).unwrap();
    let mut other_numbers = smaller_fleet();
    other_numbers.machines.remove(0);
    for (target, words) in [
        (world.build(4).unwrap(), "the new layout has epoch 4, the one in force 5"),
        (world.build(5).unwrap(), "the new layout has epoch 5, the one in force 5"),
        (world.build(u64::MAX).unwrap(), "has epoch 18446744073709551615, and hardly any is left"),
        (moving, "of epoch 9 is itself on the move"),
        (finer.build(6).unwrap(), "granules of 2048 ports, the new one into 1024"),
        (elsewhere.build(6).unwrap(), "machine d0-m1 would move from data center d0 to d1"),
        (smaller_fleet().build(6).unwrap(), "machine d0-m1 has number 2 in force, but 1 in the new layout"),
        (
            World { data_centers: vec![world.data_centers[1].clone()], ..World::new(&[]) }.build(6).unwrap(),
            "data center d1 has number 2 in force, but 1 in the new layout",
        ),
    ] {
        let before = controller.clone();
        let e = controller.retarget(&target, seconds(1)).unwrap_err();
        assert!(e.kind() == ErrorKind::Input && e.message().contains(words), "{words}: {e}");
        assert!(controller == before, "{words}");
    }

    let agent = Agent::new("d0-m0".parse().unwrap(), 1);
    let good = agent.report(seconds(1), false, |_, _| Vec::new());
    let drain = in_force.handovers().draining()[0];
    let busy = |port: u16| {
        vec![Busy { address: drain.address, granule: drain.granule, since: drain.since, ports: vec![port] }]
    };
    for (report, kind, words) in [
        (
            Report { machine: "d9-m9".parse().unwrap(), ..good.clone() },
            ErrorKind::Input,
            "machine d9-m9 reports, but the layout of epoch 5 does not have it",
        ),
        (
            Report { epoch: Some(Epoch::new(6)), ..good.clone() },
            ErrorKind::Reload,
            "machine d0-m0 has the layout of epoch 6, but the record is at 5",
        ),
        (Report { busy: busy(80), ..good }, ErrorKind::Input, "machine d0-m0 reports port 80 of 192.0.2.1"),
    ] {
        let before = controller.clone();
        let e = controller.report(&report, seconds(1)).unwrap_err();
        assert!(e.kind() == kind && e.message().contains(words), "{words}: {e}");
        assert!(controller == before, "{words}");
    }

    let before = controller.clone();
    let stranger = RouterReport { router: "r9".parse().unwrap(), epoch: Epoch::new(5) };
    let e = controller.router_report(&stranger, seconds(1)).unwrap_err();
    assert!(e.message().contains("router r9 reports, but is not in the settings"), "{e}");
    assert!(controller == before);
}

#[test]
fn a_tenure_counts_from_the_report_and_only_grows() {
    let world = fleet();
    let mut controller = controller(&world);
    let mut agent = Agent::new("d0-m0".parse().unwrap(), 1);
    let (port, first) = (2_048, agent.report(seconds(100), true, |_, _| Vec::new()));
    let late = controller.report(&first, seconds(3)).unwrap();
    let layout = agent.receive(&late).unwrap();
    assert_eq!(agent.granting_until(), Time::ZERO, "the layout is not applied yet");
    agent.applied(layout);
    assert_eq!(agent.granting_until(), seconds(110), "by the machine's clock, from the report on");
    assert!(agent.may_grant(ADDRESS.into(), port, Time::from_millis(109_999)));
    assert!(!agent.may_grant(ADDRESS.into(), port, seconds(110)));
    let second = controller.report(&agent.report(seconds(105), true, |_, _| Vec::new()), seconds(8)).unwrap();
    assert!(agent.receive(&second).is_none());
    assert!(agent.receive(&late).is_none(), "an answer comes again, late");
    assert_eq!(agent.granting_until(), seconds(115));
}

/// A controller that has slept while a machine left and came back must not take its first tenure for the last.
#[test]
fn a_machine_that_came_back_is_not_dead_for_a_controller_that_slept() {
    let world = fleet();
    let mut sleeper = controller(&world);
    let mut awake = sleeper.clone();
    let mut agent = Agent::new("d0-m0".parse().unwrap(), 1);
    let without = smaller_fleet().build_after(Some(awake.record().layout()), 2).unwrap();
    awake.retarget(&without, Time::ZERO).unwrap();
    for second in 1..6 {
        if awake.record().layout().machine_index(agent.machine()).is_some() {
            exchange(&mut awake, &mut agent, seconds(second), true);
        }
        awake.tick(seconds(second)).unwrap();
    }
    let gone = awake.record().layout().clone();
    assert_eq!(gone.machine_index(agent.machine()), None);
    awake.retarget(&world.build_after(Some(&gone), gone.epoch().get() + 1).unwrap(), seconds(20)).unwrap();
    sleeper.reload(awake.record().clone(), seconds(20));
    assert!(sleeper.dead(seconds(31)).all(|id| id != agent.machine()));
    assert!(sleeper.dead(seconds(32)).any(|id| id == agent.machine()));
}

/// A machine was idle when it should leave, then served again, and leaves again: it must say so again.
#[test]
fn an_old_word_of_being_idle_does_not_count() {
    let settings = Settings {
        routers: ["r".parse().unwrap()].into(),
        routers_patience: Duration::from_secs(1_000),
        ..Settings::default()
    };
    let (world, leaving) = (fleet(), smaller_fleet());
    let mut sleeper = Controller::new(settings, Record::new(world.build(1).unwrap()), Time::ZERO);
    let mut agent = Agent::new("d0-m0".parse().unwrap(), 1);
    let next = |world: &World, controller: &Controller| {
        let layout = controller.record().layout();
        world.build_after(Some(layout), layout.epoch().get() + 1).unwrap()
    };
    sleeper.retarget(&next(&leaving, &sleeper), Time::ZERO).unwrap();
    for second in 1..4 {
        exchange(&mut sleeper, &mut agent, seconds(second), true);
    }
    assert!(
        sleeper.record().layout().machine_index(agent.machine()).is_some(),
        "the router does not know yet"
    );
    let mut awake = sleeper.clone();
    awake.retarget(&next(&world, &awake), seconds(4)).unwrap();
    exchange(&mut awake, &mut agent, seconds(5), false);
    awake.retarget(&next(&leaving, &awake), seconds(6)).unwrap();
    sleeper.reload(awake.record().clone(), seconds(7));
    let epoch = sleeper.record().layout().epoch();
    sleeper.router_report(&RouterReport { router: "r".parse().unwrap(), epoch }, seconds(7)).unwrap();
    sleeper.tick(seconds(8)).unwrap();
    let layout = sleeper.record().layout();
    let index = layout.machine_index(agent.machine()).expect("IPv6 connections may be open there");
    assert_eq!(layout.machines()[index.get()].standing, Standing::Leaving);
}

#[test]
fn a_new_owner_hears_of_a_death_for_as_long_as_it_matters() {
    let mut controller = controller(&fleet());
    let mut other = Agent::new("d0-m1".parse().unwrap(), 1);
    exchange(&mut controller, &mut other, seconds(10), false);
    assert_eq!(controller.dead(seconds(12)).count(), 2, "two have never reported");
    let target = smaller_fleet().build_after(Some(controller.record().layout()), 2).unwrap();
    controller.retarget(&target, seconds(12)).unwrap();
    let moving = controller.record().layout().handovers();
    assert!(moving.draining().iter().all(|d| d.to.is_some()), "{moving:?}");
    assert!(
        !moving.previous().is_empty() && moving.previous().iter().all(|p| p.departure == Departure::Died)
    );
    let names_it = |controller: &Controller| {
        let layout = controller.record().layout();
        let index = layout.machine_index(&"d0-m0".parse().unwrap());
        layout.handovers().previous().iter().any(|p| Some(p.machine) == index)
    };
    controller.tick(Time::from_millis(131_999)).unwrap();
    assert!(names_it(&controller));
    controller.tick(seconds(132)).unwrap();
    assert!(!names_it(&controller));
}

/// Settings are shortened while machines hold longer tenures: nobody takes those for over.
#[test]
fn a_tenure_that_another_controller_gave_lasts_as_long_as_it_said() {
    let long = Settings { tenure: Duration::from_secs(60), ..Settings::default() };
    let mut first = Controller::new(long.clone(), Record::new(fleet().build(1).unwrap()), Time::ZERO);
    let mut agent = Agent::new("d0-m0".parse().unwrap(), 1);
    exchange(&mut first, &mut agent, Time::ZERO, false);
    exchange(&mut first, &mut agent, seconds(1), false);
    assert_eq!(agent.granting_until(), seconds(61));
    let record = Record::from_bytes(&first.record().to_bytes()).unwrap();
    let short = Settings { tenure: Duration::from_secs(5), ..long };
    let margin = short.margin;
    let second = Controller::new(short, record, seconds(1));
    let died = |now| second.dead(now).any(|id| id.as_str() == "d0-m0");
    assert!(!died(seconds(61)) && died(seconds(61) + margin));
}

/// Of two granules whose owner has nothing open any more, one had another owner just before.
#[test]
fn a_granule_waits_for_the_routers_also_if_another_one_is_handed_over_at_the_same_moment() {
    let world = fleet().hold("192.0.2.2/32", &[0, 1]);
    let mut parts = world.build(1).unwrap().parts();
    let second = Ipv4Addr::new(192, 0, 2, 2);
    let at = |machine| MachineIndex::new(machine).unwrap();
    let mut drains = Vec::new();
    for (row, address) in parts.rows.iter().zip([ADDRESS, second]) {
        let granule = row.owners.iter().position(|owner| *owner == Some(at(0))).unwrap();
        drains.push(Draining { address, granule: granule as u16, to: Some(at(1)), since: Epoch::new(1) });
    }
    let Draining { address, granule, since, .. } = drains[1];
    let previous = Previous { address, granule, machine: at(2), departure: Departure::HandedOver, since };
    parts.handovers.draining = drains.clone();
    parts.handovers.previous = vec![previous];
    let settings = Settings { routers: ["r1".parse().unwrap()].into(), ..Settings::default() };
    let record = Record::new(Layout::try_from(parts).unwrap());
    let mut controller = Controller::new(settings, record, Time::ZERO);
    let mut agent = Agent::new("d0-m0".parse().unwrap(), 1);
    exchange(&mut controller, &mut agent, Time::ZERO, false);
    exchange(&mut controller, &mut agent, seconds(1), false);
    let layout = controller.record().layout().clone();
    assert_eq!(layout.handovers().draining(), &drains[1..]);
    assert_eq!(layout.row(ADDRESS).unwrap().owners()[usize::from(drains[0].granule)], Some(at(1)));
    let report = RouterReport { router: "r1".parse().unwrap(), epoch: layout.epoch() };
    controller.router_report(&report, seconds(2)).unwrap();
    controller.tick(seconds(2)).unwrap();
    assert!(controller.record().layout().handovers().draining().is_empty());
}
