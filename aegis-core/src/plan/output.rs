//! What a plan becomes: holdings and a pool, a section of a fleet file, a layout.

use core::fmt::Write;
use core::net::Ipv4Addr;
use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv4Net};

use super::Shares;
use super::run::Plan;
use crate::epoch::{Epoch, Layout, LayoutPolicy};
use crate::error::{Error, Result};
use crate::fleet::Fleet;
use crate::id::{AccountId, DataCenterId, PoolId};
use crate::inventory::{AddressState, DataCenters, Direction, Holding, Inventory, Pool, Right};

/// The addresses that a plan is carried out with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rented {
    /// Who rents them.
    pub account: AccountId,
    /// The pool that they make; their holdings are called `pool-1`, `pool-2` and so on.
    pub pool: PoolId,
    /// At least as many as the plan has, in any order; the lowest are taken.
    pub addresses: Vec<Ipv4Addr>,
}

impl Plan {
    /// The holdings, one for each address, and the pool of them. They are leased and *allocated*: to be announced and
    /// allowlisted before they are used. (A BYOIP block is one holding of 256 addresses or more at the same data
    /// centers.)
    ///
    /// # Errors
    /// Fewer addresses than the plan has, or one twice; a name that is too long.
    pub fn holdings(&self, rented: &Rented) -> Result<(Vec<Holding>, Pool)> {
        let distinct: BTreeSet<Ipv4Addr> = rented.addresses.iter().copied().collect();
        if distinct.len() < self.addresses.len() || distinct.len() < rented.addresses.len() {
            return Err(Error::input(format!(
                "the plan is for {} addresses; {} different ones of {} are given",
                self.addresses.len(),
                distinct.len(),
                rented.addresses.len()
            )));
        }
        holdings(&self.addresses, rented, distinct.into_iter())
    }

    /// The `[[holding]]` and `[[pool]]` tables of these addresses: to be appended to a fleet file that has the account and
    /// the data centers.
    ///
    /// # Errors
    /// As [`Plan::holdings`].
    pub fn to_toml(&self, rented: &Rented) -> Result<String> {
        let (holdings, pool) = self.holdings(rented)?;
        let mut text = String::new();
        let quoted =
            |list: Vec<String>| list.iter().map(|item| format!("\"{item}\"")).collect::<Vec<_>>().join(", ");
        for Holding { id, account, right, prefix, data_centers, state, .. } in &holdings {
            let DataCenters::Listed(list) = data_centers else { continue };
            let list = quoted(list.iter().map(ToString::to_string).collect());
            let _ = write!(
                text,
                "\n[[holding]]\nid = \"{id}\"\naccount = \"{account}\"\nright = \"{right}\"\nprefix = \"{prefix}\"\n\
                 data_centers = [{list}]\nstate = \"{state}\"\n"
            );
        }
        let prefixes = quoted(pool.prefixes.iter().map(ToString::to_string).collect());
        let Pool { id, account, .. } = &pool;
        let _ = write!(text, "\n[[pool]]\nid = \"{id}\"\naccount = \"{account}\"\nprefixes = [{prefixes}]\n");
        Ok(text)
    }

    /// The layout of `epoch` with these addresses, for the fleet that the plan was made for.
    ///
    /// # Errors
    /// As [`Plan::holdings`] and [`Layout::build`].
    pub fn layout(
        &self,
        fleet: &Fleet,
        rented: &Rented,
        previous: Option<&Layout>,
        epoch: Epoch,
    ) -> Result<Layout> {
        let (holdings, pool) = self.holdings(rented)?;
        let inventory = Inventory::new(holdings, [pool], self.policy.data_centers_per_address)?;
        Layout::build(fleet, &inventory, &self.policy, previous, epoch)
    }
}

fn holdings(
    sets: &[Vec<DataCenterId>],
    rented: &Rented,
    addresses: impl Iterator<Item = Ipv4Addr>,
) -> Result<(Vec<Holding>, Pool)> {
    let Rented { account, pool, .. } = rented;
    let mut holdings = Vec::with_capacity(sets.len());
    for ((nth, sites), address) in (1..).zip(sets).zip(addresses) {
        holdings.push(Holding {
            id: format!("{pool}-{nth}").parse()?,
            account: account.clone(),
            right: Right::Leased,
            prefix: IpNet::V4(Ipv4Net::from(address)),
            data_centers: DataCenters::Listed(sites.clone()),
            serves: Direction::Egress,
            state: AddressState::Allocated,
        });
    }
    let prefixes = holdings.iter().map(|holding| holding.prefix).collect();
    let pool = Pool { id: pool.clone(), account: account.clone(), right: Right::Leased, prefixes };
    Ok((holdings, pool))
}

/// The layout of a plan whose addresses nobody has rented yet. Which machine gets how many ports follows from the order
/// of the addresses alone.
pub(super) fn trial_layout(
    fleet: &Fleet,
    sets: &[Vec<DataCenterId>],
    policy: &LayoutPolicy,
) -> Result<Layout> {
    let rented = Rented { account: "plan".parse()?, pool: "plan".parse()?, addresses: Vec::new() };
    let first = u32::from(Ipv4Addr::new(10, 0, 0, 0));
    let (holdings, pool) = holdings(sets, &rented, (first..).map(Ipv4Addr::from))?;
    let inventory = Inventory::new(holdings, [pool], policy.data_centers_per_address)?;
    Layout::build(fleet, &inventory, policy, None, Epoch::new(1))
}

/// The shares of each of these data centers.
pub(super) fn shares<'a>(
    layout: &Layout,
    data_centers: impl Iterator<Item = &'a DataCenterId>,
) -> Vec<Shares> {
    let mut ports = vec![0_u32; layout.machines().len()];
    for owner in layout.rows().iter().flat_map(|row| row.owners()).flatten() {
        ports[owner.get()] = ports[owner.get()].saturating_add(layout.cut().granule().ports());
    }
    let mut by_site = vec![Vec::new(); layout.data_centers().len()];
    for (machine, ports) in layout.machines().iter().zip(ports) {
        by_site[machine.data_center.get()].push(ports);
    }
    let of = |id| layout.data_center_index(id).map(|index| by_site[index.get()].iter().copied().collect());
    data_centers.map(|id| of(id).unwrap_or_default()).collect()
}
