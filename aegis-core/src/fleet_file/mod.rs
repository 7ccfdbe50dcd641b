//! What does the operator write down? The fleet file: data centers, machines, addresses and who uses them, in TOML.
//!
//! `examples/fleet.toml` explains the format. Each rule lives with the type it protects; this module only adds the
//! rules between fleet and inventory, and to every error the place: `fleet.toml:12:7: ...`.

use std::collections::BTreeMap;

use crate::bundle::Bundle;
use crate::epoch::{Epoch, Layout};
use crate::error::{Item, Refusal, Result, unique};
use crate::fleet::{Coordinates, DataCenter, Fleet, Machine};
use crate::id::{AccountId, HoldingId, MachineId, OriginId, PoolId};
use crate::inventory::{Holding, Inventory, Pool, Right};
use crate::net::Origin;
use crate::tenancy::{Account, Delegation, Registry, Tenancy, Zone, check_account};

mod data_centers;
mod policy;
mod rows;
mod source;

pub use policy::Policy;

use rows::{DataCenterRow, HoldingRow, MachineRow, OriginRow, PoolRow, Rows};
use source::Source;

/// What a fleet file says, checked: every name in it refers to something in it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct FleetFile {
    /// The data centers and machines. At least one data center.
    pub fleet: Fleet,
    /// The addresses. IPv4 holdings are announced only from data centers of the global partition.
    pub inventory: Inventory,
    /// Who uses them.
    pub tenancy: Tenancy,
    /// The customers' servers. An account names each only once.
    pub origins: BTreeMap<OriginId, NamedOrigin>,
    /// The settings of the whole fleet.
    pub policy: Policy,
}

/// A customer's server, with a name for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedOrigin {
    /// Unique in the fleet file.
    pub id: OriginId,
    /// The customer. Two customers may share a server.
    pub account: AccountId,
    /// Where it is.
    pub origin: Origin,
}

impl FleetFile {
    /// Reads a fleet file; `name` is what errors call it.
    ///
    /// ```
    /// let text = r#"
    /// [[data_center]]
    /// id = "fra"
    /// city = "Frankfurt"
    /// latitude = 50.11
    /// longitude = 8.68
    ///
    /// [[machine]]
    /// id = "fra-m01"
    /// data_center = "fra"
    /// weight = -1
    /// "#;
    /// let error = aegis_core::fleet_file::FleetFile::parse("fleet.toml", text).unwrap_err();
    /// assert!(error.message().starts_with("fleet.toml:11:10: machine \"fra-m01\", weight: "));
    /// ```
    ///
    /// # Errors
    /// The first thing that is wrong, as `name:line:column: message`, with the line of the second party if two are
    /// involved: TOML syntax; an unknown or missing key; what [`Fleet`], [`Inventory`], [`Tenancy`], [`Origin`] and
    /// [`Policy`] refuse; no data center at all; a holding in an unknown data center or in one outside the global
    /// partition, or with a list of data centers and wishes about them, or with one pinned and forbidden; an origin of an unknown account, or named twice by one account.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let source = Source::parse(name, text)?;
        let rows: Rows = source.read()?;
        if rows.data_center.is_empty() {
            return Err(source.error_at(0, "the fleet has no data center; add at least one [[data_center]]"));
        }
        Self::build(rows).map_err(|refusal| source.error(refusal))
    }

    /// The layout of `epoch` for this fleet; what can stay as in `previous` stays.
    ///
    /// # Errors
    /// As [`Layout::build`].
    pub fn layout(&self, previous: Option<&Layout>, epoch: Epoch) -> Result<Layout> {
        Layout::build(&self.fleet, &self.inventory, &self.policy.layout()?, previous, epoch)
    }

    /// What `machine` needs of `layout`, a layout of this fleet.
    ///
    /// # Errors
    /// As [`Bundle::new`].
    pub fn bundle(&self, machine: &MachineId, layout: &Layout) -> Result<Bundle> {
        let v6_addresses = self.policy.v6_addresses_per_machine;
        Bundle::new(machine.clone(), layout.clone(), &self.inventory, self.tenancy.grants(), v6_addresses)
    }

    /// Inventory and tenancy as the file says, ready to be changed.
    ///
    /// # Errors
    /// As [`Registry::new`], if a field of this file was changed.
    pub fn registry(&self) -> Result<Registry> {
        let max_data_centers = self.policy.data_centers_per_address;
        Registry::new(self.inventory.clone(), self.tenancy.clone(), max_data_centers)
    }

    fn build(rows: Rows) -> Result<Self, Refusal> {
        let policy = rows.policy;
        policy.check()?;

        // Ids come first: from here on an id means one row, and a refusal points at the right one.
        let data_centers = unique("data_center", rows.data_center, |row| &row.id)?;
        let holdings = unique("holding", rows.holding, |row| &row.id)?;
        let pools = unique("pool", rows.pool, |row| &row.id)?;
        let origins = unique("origin", rows.origin, |row| &row.id)?;
        let accounts = rows.account.into_iter().map(|row| Account { id: row.id, name: row.name });
        let accounts = unique("account", accounts, |account| &account.id)?;

        let machine =
            |row: MachineRow| Machine { id: row.id, data_center: row.data_center, weight: row.weight };
        let fleet = Fleet::build(
            data_centers.into_values().map(data_center).collect::<Result<Vec<_>, _>>()?,
            rows.machine.into_iter().map(machine),
        )?;
        for HoldingRow { id, account, .. } in holdings.values() {
            check_account(&accounts, Item::named("holding", id), "account", account)?;
        }
        for PoolRow { id, account, .. } in pools.values() {
            check_account(&accounts, Item::named("pool", id), "account", account)?;
        }
        for OriginRow { id, account, .. } in origins.values() {
            check_account(&accounts, Item::named("origin", id), "account", account)?;
        }
        let inventory = inventory(holdings, pools, &fleet, policy.data_centers_per_address)?;
        let tenancy = Tenancy::build(
            &inventory,
            accounts.into_values(),
            rows.zone.into_iter().map(|row| Zone {
                id: row.id,
                account: row.account,
                pool: row.pool,
                enabled_by: row.enabled_by,
            }),
            rows.delegation.into_iter().map(|row| Delegation {
                prefix: row.prefix.0,
                from: row.from,
                to: row.to,
            }),
        )?;
        Ok(Self { fleet, inventory, tenancy, origins: named_origins(origins)?, policy })
    }
}

fn data_center(row: DataCenterRow) -> Result<DataCenter, Refusal> {
    let refuse = |field, reason: String| Refusal::new(Item::named("data_center", &row.id), field, reason);
    let coordinates =
        Coordinates::checked(row.latitude, row.longitude).map_err(|(field, reason)| refuse(field, reason))?;
    let partition =
        row.partition.parse().map_err(|e: crate::Error| refuse("partition", e.message().into()))?;
    Ok(DataCenter { id: row.id, city: row.city, coordinates, partition })
}

fn inventory(
    holdings: BTreeMap<HoldingId, HoldingRow>,
    pools: BTreeMap<PoolId, PoolRow>,
    fleet: &Fleet,
    max_data_centers: u8,
) -> Result<Inventory, Refusal> {
    // A pool does not say by what right: that is the right of its holdings, and the first one will do, because the
    // inventory refuses a pool of both. (With no holding at all it refuses the pool for that.)
    let rights: Vec<_> = holdings.values().map(|row| (row.prefix.0, row.right)).collect();
    let right_of = |pool: &PoolRow| {
        let first = pool.prefixes.first()?.0;
        rights.iter().find(|(held, _)| held.contains(&first)).map(|&(_, right)| right)
    };
    let holding = |row: HoldingRow| {
        Ok(Holding {
            data_centers: data_centers::data_centers(&row, fleet)?,
            id: row.id,
            account: row.account,
            right: row.right,
            prefix: row.prefix.0,
            serves: row.serves,
            state: row.state,
        })
    };
    Inventory::build(
        holdings.into_values().map(holding).collect::<Result<Vec<_>, Refusal>>()?,
        pools.into_values().map(|row| Pool {
            right: right_of(&row).unwrap_or(Right::Leased),
            id: row.id,
            account: row.account,
            prefixes: row.prefixes.iter().map(|prefix| prefix.0).collect(),
        }),
        max_data_centers,
    )
}

fn named_origins(rows: BTreeMap<OriginId, OriginRow>) -> Result<BTreeMap<OriginId, NamedOrigin>, Refusal> {
    let mut origins = BTreeMap::new();
    let mut names = BTreeMap::new();
    for (id, OriginRow { account, protocol, address, .. }) in rows {
        let refuse = |reason: &str| Refusal::new(Item::named("origin", &id), "address", reason);
        let origin = Origin::new(protocol, address.0).map_err(|e| refuse(e.message()))?;
        if let Some(other) = names.insert((account.clone(), origin), id.clone()) {
            let reason = format!("{origin} of account \"{account}\" is named \"{other}\" already");
            return Err(refuse(&reason).against(Item::named("origin", other)));
        }
        origins.insert(id.clone(), NamedOrigin { id, account, origin });
    }
    Ok(origins)
}

#[cfg(test)]
mod tests;
