//! What holds after every step of a story, and at its end.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeSet;

use aegis_core::epoch::{Layout, NumberedMachine, Standing};

use super::parts::{address, owners};
use super::{MACHINES, PORTS, ROUTERS, Step, World};

impl World {
    /// Ports stay behind only after a drain has had its time.
    pub(super) fn check_deadlines(&mut self, Step { at, before, after, .. }: &Step) {
        for drain in after.handovers().draining() {
            self.began.entry((drain.address, drain.granule, drain.since)).or_insert(*at);
        }
        for behind in after.handovers().holdouts() {
            if before.handovers().holdout_of(behind.address, behind.port).is_none() {
                let granule = after.cut().granule_of(behind.port).expect("a usable port");
                let began = self.began[&(behind.address, granule, behind.since)];
                assert!(*at >= began + self.settings.drain, "{behind:?} did not have its time");
            }
        }
    }

    pub(super) fn check(&self) {
        let layout = self.stored.layout();
        assert_eq!(Layout::from_bytes(&layout.to_bytes()).as_ref(), Ok(&**layout));
        let mut places: BTreeSet<(IpAddr, u16)> =
            self.machines.iter().flat_map(|m| m.open.iter().copied()).collect();
        for a in 0..self.addresses {
            let ports = (0..=u16::MAX).step_by(usize::from(self.granule_ports));
            places.extend(ports.flat_map(|port| (port..port + PORTS).map(|port| (address(a).into(), port))));
        }
        for agent in self.machines.iter().filter_map(|machine| machine.agent.as_ref()) {
            let known = agent.layout().and_then(|layout| layout.v6_addresses_of(agent.machine(), 1).next());
            places.extend(known.map(|six| (IpAddr::V6(six), 80)));
        }
        for place @ (ip, port) in places {
            let granting: Vec<_> = self.machines.iter().filter(|m| m.may_grant(ip, port, self.now)).collect();
            let names: Vec<_> = granting.iter().map(|m| &m.id).collect();
            assert!(granting.len() < 2, "{names:?} may grant {ip} {port}");
            for machine in self.machines.iter().filter(|m| m.is_open(&place) && !m.lost.contains(&place)) {
                assert!(
                    names.iter().all(|id| **id == machine.id),
                    "{names:?} may grant {ip} {port}, open at {}",
                    machine.id
                );
                let owner = layout.owner(ip, port).map(|owner| &layout.machines()[owner.machine.get()].id);
                assert_eq!(owner, Some(&machine.id), "{ip} {port} is open there");
            }
        }
    }

    /// Everything closes, all that run report, and time passes.
    pub(super) fn become_quiet(&mut self) {
        self.messages.clear();
        (0..2).for_each(|c| self.write(c));
        (0..2).for_each(|c| self.reload(c));
        for machine in &mut self.machines {
            machine.received = None;
            machine.open.clear();
            machine.lost.clear();
        }
        for _ in 0..60 {
            self.now = self.now + Duration::from_secs(8);
            (0..ROUTERS).for_each(|n| self.router(0, n));
            (0..MACHINES).for_each(|n| self.round_trip(0, n));
            self.check();
        }
        let layout = self.stored.layout();
        assert!(layout.handovers().is_empty(), "still moving: {:?}", layout.handovers());
        let standing = |machine: &NumberedMachine| machine.standing;
        assert!(
            layout.machines().iter().map(standing).all(|s| s == Standing::Serving),
            "somebody is still leaving"
        );
        assert_eq!(layout.machines(), self.target.machines());
        assert_eq!(owners(layout), owners(&self.target));
    }
}
