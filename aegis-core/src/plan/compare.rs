//! IPv4 beside IPv6 for the same fleet, and what else would help.

use core::fmt;

use super::run::Plan;
use crate::capacity::planned_ports;
use crate::error::{Error, Result};
use crate::fleet::{Fleet, Partition};
use crate::limits::RECOMMENDED_CONNECTIONS;

/// IPv6 of a pool, and what things cost, in any one currency and period.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Prices {
    /// IPv6 prefixes (`/64`) of the pool: two by default.
    pub v6_prefixes: u32,
    /// Addresses that a machine uses of each; 256 by default.
    pub v6_addresses_per_machine: u32,
    /// One leased IPv4 address.
    pub leased_v4: f64,
    /// One BYOIP `/24`.
    pub byoip_block: f64,
    /// One IPv6 prefix.
    pub v6_prefix: f64,
}

/// One side of the comparison.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Side {
    /// Addresses that there are.
    pub addresses: u128,
    /// Addresses times the places where each leaves: four data centers each for IPv4; every machine for IPv6.
    pub points_of_egress: u128,
    /// Ports towards one origin, all together: how many connections there can be.
    pub ports: u128,
    /// What it costs.
    pub cost: f64,
}

/// IPv4 as planned beside IPv6 on the same fleet. Its `Display` shows the arithmetic.
#[derive(Clone, PartialEq, Debug)]
pub struct Comparison {
    /// As planned.
    pub v4: Side,
    /// On all machines of the global partition.
    pub v6: Side,
    /// What would help, with numbers.
    pub advice: Vec<Advice>,
    sites: u128,
    machines: u128,
    per_machine: u128,
    granule: u128,
    cut: u128,
}

/// What would pay.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Advice {
    /// Serve the origins over IPv6: so much less is paid, and so many times the connections fit.
    Ipv6 {
        /// IPv4 cost less IPv6 cost.
        saves: f64,
        /// How many times the ports.
        times: f64,
    },
    /// Use connections again (HTTP/2, keep-alive): with twice the requests on each connection this many addresses are
    /// enough for the two rules.
    Reuse {
        /// Addresses then.
        addresses: u64,
    },
    /// Bring a `/24`: it costs less than the leased addresses, and has 256.
    Byoip {
        /// Leased cost less the block's.
        saves: f64,
    },
}

/// How many addresses an IPv6 `/64` has.
const PREFIX_64: u128 = 1 << 64;

impl Default for Prices {
    /// Two `/64`, 256 addresses of each for a machine; nothing costs anything.
    fn default() -> Self {
        Self {
            v6_prefixes: 2,
            v6_addresses_per_machine: crate::limits::DEFAULT_V6_ADDRESSES,
            leased_v4: 0.0,
            byoip_block: 0.0,
            v6_prefix: 0.0,
        }
    }
}

impl Plan {
    /// This plan beside IPv6 on the same fleet.
    ///
    /// # Errors
    /// A price that is negative or not a number.
    pub fn compare(&self, fleet: &Fleet, prices: &Prices) -> Result<Comparison> {
        for (field, price) in [
            ("leased_v4", prices.leased_v4),
            ("byoip_block", prices.byoip_block),
            ("v6_prefix", prices.v6_prefix),
        ] {
            if !(0.0..=1e12).contains(&price) {
                return Err(Error::input(format!("price {field}: {price} is not a number from 0 to 10^12")));
            }
        }
        let global = || fleet.data_centers().filter(|d| d.partition == Partition::Global);
        let in_use = |id| fleet.machines_in(id).filter(|machine| machine.weight > 0).count() as u128;
        let machines: u128 = global().map(|d| in_use(&d.id)).sum();
        let granule = u128::from(self.policy.cut.granule().ports());
        let cut = self.policy.cut.granules().count() as u128 * granule;
        let addresses = self.addresses.len() as u128;
        let v4 = Side {
            addresses,
            points_of_egress: self.addresses.iter().map(|sites| sites.len() as u128).sum(),
            ports: addresses * cut,
            cost: prices.leased_v4 * self.addresses.len() as f64,
        };
        let prefixes = u128::from(prices.v6_prefixes);
        let per_machine = prefixes * u128::from(prices.v6_addresses_per_machine);
        let v6 = Side {
            addresses: prefixes * PREFIX_64,
            points_of_egress: machines * per_machine,
            // A machine uses one granule of each of its addresses.
            ports: machines * per_machine * granule,
            cost: prices.v6_prefix * f64::from(prices.v6_prefixes),
        };
        let sites = global().filter(|d| in_use(&d.id) > 0).count() as u128;
        let advice = self.advice(&v4, &v6, prices);
        Ok(Comparison { v4, v6, advice, sites, machines, per_machine, granule, cut })
    }

    fn advice(&self, v4: &Side, v6: &Side, prices: &Prices) -> Vec<Advice> {
        let mut advice = Vec::new();
        if v6.ports > v4.ports && v6.cost <= v4.cost {
            advice.push(Advice::Ipv6 {
                saves: v4.cost - v6.cost,
                times: v6.ports as f64 / v4.ports.max(1) as f64,
            });
        }
        // Twice the requests on a connection are half the connections: what the rules then ask for.
        let halved = self.sizing.asks.iter().map(|ask| ask.addresses.div_ceil(2)).max().unwrap_or(0);
        if halved < self.addresses.len() as u64 {
            advice.push(Advice::Reuse { addresses: halved });
        }
        if v4.cost > prices.byoip_block && self.addresses.len() <= 256 && prices.byoip_block > 0.0 {
            advice.push(Advice::Byoip { saves: v4.cost - prices.byoip_block });
        }
        advice
    }
}

impl Comparison {
    /// How many times as many connections to one origin fit with IPv6.
    pub fn times(&self) -> f64 {
        self.v6.ports as f64 / self.v4.ports.max(1) as f64
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { v4, v6, sites, machines, per_machine, granule, cut, .. } = self;
        writeln!(f, "                     IPv4 | IPv6")?;
        writeln!(f, "addresses:           {} | {}", v4.addresses, v6.addresses)?;
        writeln!(
            f,
            "points of egress:    {} (each address at its data centers) | {} = {machines} machines in {sites} data centers x \
             {per_machine} addresses",
            v4.points_of_egress, v6.points_of_egress
        )?;
        writeln!(
            f,
            "ports to one origin: {} = {} addresses x {cut} | {} = {} points x {granule}: {:.0} times as many",
            v4.ports,
            v4.addresses,
            v6.ports,
            v6.points_of_egress,
            self.times()
        )?;
        let planned = |ports: u128| planned_ports(u64::try_from(ports).unwrap_or(u64::MAX));
        writeln!(
            f,
            "planned for:         {} (and {RECOMMENDED_CONNECTIONS} x {} = {}) | {}",
            planned(v4.ports),
            v4.addresses,
            u128::from(RECOMMENDED_CONNECTIONS) * v4.addresses,
            planned(v6.ports)
        )?;
        writeln!(f, "cost:                {} | {}", v4.cost, v6.cost)?;
        for advice in &self.advice {
            match advice {
                Advice::Ipv6 { saves, times } => {
                    writeln!(f, "IPv6 at the origin: {times:.0} times the ports, and {saves} less to pay")
                }
                Advice::Reuse { addresses } => {
                    writeln!(
                        f,
                        "HTTP/2: twice the requests on a connection need {addresses} addresses instead of {}",
                        v4.addresses
                    )
                }
                Advice::Byoip { saves } => {
                    writeln!(
                        f,
                        "BYOIP: a /24 has 256 addresses (all at the same data centers) and costs {saves} less"
                    )
                }
            }?;
        }
        Ok(())
    }
}
