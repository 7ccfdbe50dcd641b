//! The rules that every bundle keeps, built or read.

use core::net::Ipv4Addr;

use ipnet::IpNet;

use super::Bundle;
use crate::epoch::ascending;
use crate::limits::MAX_V6_ADDRESSES;

impl Bundle {
    /// Does every rule hold? If not: which one is broken, and where.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.layout.machine_index(&self.machine).is_none() {
            return Err(format!(
                "the layout of epoch {} does not know machine {}; build it from a fleet that has the machine in the \
                 global partition",
                self.epoch(),
                self.machine
            ));
        }
        if !(1..=MAX_V6_ADDRESSES).contains(&self.v6_addresses) {
            return Err(format!(
                "{} IPv6 addresses per machine; use 1 to {MAX_V6_ADDRESSES}",
                self.v6_addresses
            ));
        }
        ascending("pool", self.pools.iter().map(|p| &p.id))?;
        ascending("zone", self.grants.iter().map(|g| &g.zone))?;
        for grant in &self.grants {
            if self.pools.binary_search_by(|p| p.id.cmp(&grant.pool)).is_err() {
                return Err(format!(
                    "zone {} may leave from pool {}, which does not exist",
                    grant.zone, grant.pool
                ));
            }
        }
        disjoint("address states", self.addresses.iter().map(|(prefix, _)| *prefix))?;
        for pool in &self.pools {
            disjoint(&format!("pool {}", pool.id), pool.prefixes.iter().copied())?;
            for prefix in &pool.prefixes {
                self.check_pool_prefix(*prefix)
                    .map_err(|fault| format!("pool {}: {prefix} {fault}", pool.id))?;
            }
        }
        Ok(())
    }

    /// Is a prefix of a pool cut by the layout, and does it have a state?
    fn check_pool_prefix(&self, prefix: IpNet) -> Result<(), String> {
        let below = self.addresses.partition_point(|(known, _)| known.network() <= prefix.network());
        if !below.checked_sub(1).is_some_and(|last| self.addresses[last].0.contains(&prefix)) {
            return Err("has no address state".into());
        }
        let uncut = match prefix {
            // Stops at the first address that the layout does not have, however large a hostile prefix is.
            IpNet::V4(net) => (net.network().to_bits()..=net.broadcast().to_bits())
                .map(Ipv4Addr::from_bits)
                .find(|ip| self.layout.row(*ip).is_none())
                .map(|ip| ip.to_string()),
            IpNet::V6(net) => {
                let known = self.layout.v6_prefixes().iter().any(|known| known.contains(&net));
                (!known).then(|| net.to_string())
            }
        };
        match uncut {
            Some(address) => Err(format!(
                "has {address}, which the layout of epoch {} does not cut; build both from one inventory",
                self.epoch()
            )),
            None => Ok(()),
        }
    }
}

/// Are prefixes in order, disjoint and without host bits?
fn disjoint(what: &str, prefixes: impl IntoIterator<Item = IpNet>) -> Result<(), String> {
    let mut last: Option<IpNet> = None;
    for prefix in prefixes {
        if prefix.trunc() != prefix {
            return Err(format!("{what}: {prefix} has host bits; write {}", prefix.trunc()));
        }
        if let Some(last) = last {
            if prefix <= last {
                return Err(format!("{what}: {prefix} is out of order (after {last})"));
            }
            if last.contains(&prefix) {
                return Err(format!("{what}: {last} contains {prefix}; write one of them"));
            }
        }
        last = Some(prefix);
    }
    Ok(())
}
