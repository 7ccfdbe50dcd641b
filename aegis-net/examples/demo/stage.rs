//! Which machines and addresses of a fleet file the demo plays with, and where on loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use aegis_core::epoch::{Epoch, Layout};
use aegis_core::fleet_file::FleetFile;
use aegis_core::id::{AccountId, DataCenterId, MachineId, ZoneId};
use aegis_core::inventory::{AddressState, DataCenters, Holding, Inventory, Pool};
use aegis_core::net::{PortRange, Protocol};
use aegis_core::slices::{Cut, GranuleSize};
use aegis_core::tenancy::{Delegation, EnabledBy, Tenancy, Zone};
use ipnet::{IpNet, Ipv4Net};

use crate::Result;

const DATA_CENTERS: usize = 2;
const MACHINES_EACH: usize = 3;
const UDP_FLOWS: u32 = 100;
/// Granules of one address for each machine, on the average: enough that a part of a share can move.
const GRANULES_EACH: usize = 4;
/// Their size at most, and at least: full shares are shown, so they are small.
const GRANULE_PORTS: u32 = 512;
const MIN_GRANULE_PORTS: u32 = 64;

/// What is played.
pub(crate) struct Stage {
    pub(crate) file: FleetFile,
    pub(crate) layout: Layout,
    pub(crate) cast: Vec<Actor>,
    /// The zone whose shares are filled with TCP connections.
    pub(crate) zone: ZoneId,
    /// The zone that sends UDP: of another customer if there is one.
    pub(crate) udp_zone: ZoneId,
    /// UDP flows of each machine.
    pub(crate) udp_flows: u32,
    /// The servers that the demo starts: two for TCP, one for UDP.
    pub(crate) servers: [Server; 3],
    /// The prefixes of that first zone's pool.
    filled: Vec<IpNet>,
    name: String,
    /// Real prefix, prefix in the demo.
    mapping: Vec<(Ipv4Net, Ipv4Net)>,
    left_out: Vec<String>,
    machines_in_file: usize,
}

/// An origin that gets a process.
pub(crate) struct Server {
    pub(crate) protocol: Protocol,
    /// Whose place it takes.
    pub(crate) name: String,
}

/// A machine that gets a process.
pub(crate) struct Actor {
    pub(crate) id: MachineId,
    pub(crate) data_center: DataCenterId,
}

impl Stage {
    /// Sets the stage for the fleet file `text`; a process may have `descriptors` file descriptors.
    pub(crate) fn set(name: &str, text: &str, descriptors: u64) -> Result<Self> {
        let file = FleetFile::parse(name, text)?;
        let mut granule_ports = file.policy.granule_ports.min(GRANULE_PORTS);
        loop {
            let (stage, needed) = Self::with_granules(name, file.clone(), granule_ports)?;
            if needed <= descriptors {
                return Ok(stage);
            }
            if granule_ports == MIN_GRANULE_PORTS {
                return Err(format!(
                    "the demo needs {needed} file descriptors in a process and may have {descriptors}; raise the hard \
                     limit (ulimit -Hn, as root), or take a fleet file where fewer addresses and machines make a pool \
                     (FLEET=file)"
                )
                .into());
            }
            granule_ports /= 2;
        }
    }

    /// The stage with granules of that size, and how many file descriptors a process needs then.
    fn with_granules(name: &str, mut file: FleetFile, granule_ports: u32) -> Result<(Self, u64)> {
        let mut left_out = Vec::new();
        cut_small(&mut file, granule_ports)?;
        let mapping = to_loopback(&mut file, &mut left_out)?;
        let layout = file.layout(None, Epoch::new(1))?;
        let capacity = capacities(&file, &layout);
        let (zone, machines) = smallest_shares(&file, &capacity).ok_or_else(|| {
            format!(
                "{name}: no zone has active IPv4 ports in {DATA_CENTERS} data centers; the demo needs a pool whose \
                 addresses are announced from two"
            )
        })?;
        let account = file.tenancy.zone(&zone).map(|zone| zone.account.clone());
        let of_another = |id: &&ZoneId| file.tenancy.zone(id).map(|zone| &zone.account) != account.as_ref();
        let serves_all = |id: &&ZoneId| machines.iter().all(|m| capacity[*id].contains_key(m));
        let udp_zone = capacity.keys().filter(serves_all).find(of_another).unwrap_or(&zone).clone();

        let udp_account = file.tenancy.zone(&udp_zone).map(|zone| zone.account.clone());
        let servers = servers(&file, account.as_ref(), udp_account.as_ref());
        let udp_capacity = machines.iter().map(|m| capacity[&udp_zone][m]).min().unwrap_or(0);

        // An origin sees what all have open, a machine fills its share towards two origins. One share more comes when a
        // machine joins; shares grow when two go, at most to the double where two stay.
        let all: u64 = capacity[&zone].values().map(|ports| u64::from(*ports)).sum();
        let ports: u64 = machines.iter().map(|machine| u64::from(capacity[&zone][machine])).sum();
        let largest = machines.iter().map(|m| u64::from(capacity[&zone][m])).max().unwrap_or(0);
        let needed = (2 * all.min(2 * largest)).max(all.min(ports + 2 * largest)) + 500;
        let cast = machines.iter().map(|id| {
            let data_center = file.fleet.machine(id).expect("it is in the layout").data_center.clone();
            Ok(Actor { id: id.clone(), data_center })
        });
        let pool = file.tenancy.grant(&zone).map(|grant| file.inventory.pool(grant.pool()).cloned());
        let filled = pool.ok().flatten().map(|pool| pool.prefixes).unwrap_or_default();
        let stage = Self {
            filled,
            cast: cast.collect::<Result<_>>()?,
            machines_in_file: file.fleet.machines().count(),
            file: file.clone(),
            zone,
            udp_zone,
            udp_flows: UDP_FLOWS.min(udp_capacity),
            servers,
            name: name.to_owned(),
            mapping,
            left_out,
            layout,
        };
        Ok((stage, needed))
    }

    /// Is it an address whose shares are filled?
    pub(crate) fn is_filled(&self, ip: Ipv4Addr) -> bool {
        self.filled.iter().any(|prefix| prefix.contains(&IpAddr::V4(ip)))
    }

    /// Ports of a machine's share in `layout` that are filled.
    pub(crate) fn ports(&self, layout: &Layout, id: &MachineId) -> u32 {
        layout.shares_of(id).filter(|(ip, _)| self.is_filled(*ip)).map(|(_, ports)| ports.len()).sum()
    }

    /// Says what will be played.
    pub(crate) fn describe(&self) {
        let places: BTreeSet<_> = self.cast.iter().map(|actor| &actor.data_center).collect();
        println!(
            "{}: {} of {} machines play, in {} data centers; granules of {} ports; epoch {}",
            self.name,
            self.cast.len(),
            self.machines_in_file,
            places.len(),
            self.layout.cut().granule(),
            self.layout.epoch()
        );
        for (real, mapped) in &self.mapping {
            println!("  {real} plays as {mapped}");
        }
        for reason in &self.left_out {
            println!("  left out: {reason}");
        }
        println!("Who owns which ports (zone {}):", self.zone);
        for actor in &self.cast {
            let mut runs: Vec<(Ipv4Addr, u16, u16)> = Vec::new();
            for (ip, ports) in self.layout.shares_of(&actor.id) {
                match runs.last_mut() {
                    Some((same, _, hi)) if *same == ip && ports.lo().checked_sub(1) == Some(*hi) => {
                        *hi = ports.hi();
                    }
                    _ => runs.push((ip, ports.lo(), ports.hi())),
                }
            }
            let runs = runs.iter().map(|(ip, lo, hi)| format!("{ip} {lo}-{hi}"));
            println!("  {:<10} {:<4} {}", actor.id, actor.data_center, runs.collect::<Vec<_>>().join(", "));
        }
    }
}

/// The first origins of the customers in the file; where it has too few, the demo's own.
fn servers(file: &FleetFile, account: Option<&AccountId>, udp_account: Option<&AccountId>) -> [Server; 3] {
    let of = |protocol: Protocol, account: Option<&AccountId>| {
        let all = file.origins.values().filter(move |named| named.origin.protocol() == protocol);
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|named| Some(&named.account) != account);
        all.into_iter().map(|named| format!("{} ({})", named.id, named.origin))
    };
    let mut tcp = of(Protocol::Tcp, account).chain((1..).map(|n| format!("the demo's own TCP server {n}")));
    let mut udp = of(Protocol::Udp, udp_account).chain(["the demo's own UDP server".to_owned()]);
    let mut server = |protocol| {
        let names: &mut dyn Iterator<Item = String> =
            if protocol == Protocol::Tcp { &mut tcp } else { &mut udp };
        Server { protocol, name: names.next().expect("the demo's own follow") }
    };
    [server(Protocol::Tcp), server(Protocol::Tcp), server(Protocol::Udp)]
}

/// Leaves only as many usable granules, and so small ones, that every machine gets a few and nothing is left over: what a
/// new machine gets must come from others.
fn cut_small(file: &mut FleetFile, granule_ports: u32) -> Result<()> {
    let policy = &mut file.policy;
    policy.max_granules_per_machine = None;
    policy.granule_ports = granule_ports;
    let granules_for = |holding: &Holding| {
        let announces = |id: &DataCenterId| match &holding.data_centers {
            DataCenters::Listed(list) => list.contains(id),
            DataCenters::Chosen(choice) => choice.allows(id),
            DataCenters::Global => true,
        };
        let machines = file.fleet.machines().filter(|m| m.weight > 0 && announces(&m.data_center));
        let weights: Vec<usize> = machines.map(|m| m.weight as usize).collect();
        // The lightest machine gets one, too.
        let lightest = weights.iter().min().copied().unwrap_or(1);
        (GRANULES_EACH * weights.len()).max(weights.iter().sum::<usize>().div_ceil(lightest))
    };
    let wanted = file.inventory.egress_v4().map(|(_, holding)| granules_for(holding)).max().unwrap_or(1);
    let granule = GranuleSize::new(policy.granule_ports)?;
    let cut = Cut::new(granule, policy.usable, policy.reserved.iter().copied())?;
    let granules: Vec<u16> = cut.granules().take(wanted.max(1)).collect();
    let range = |index: Option<&u16>| index.and_then(|index| cut.range(*index)).expect("a cut has a granule");
    policy.usable = PortRange::new(range(granules.first()).lo(), range(granules.last()).hi())?;
    Ok(())
}

/// Maps the IPv4 holdings of the file into 127.64.0.0/10, each to a block of its own size, and leaves out IPv6 (one
/// loopback address is not enough for it). Addresses in 127.0.0.0/8 stay.
fn to_loopback(file: &mut FleetFile, left_out: &mut Vec<String>) -> Result<Vec<(Ipv4Net, Ipv4Net)>> {
    let mut mapping = Vec::new();
    let mut next = u32::from(Ipv4Addr::new(127, 66, 0, 1));
    let mut holdings: Vec<Holding> = Vec::new();
    for holding in file.inventory.holdings() {
        let IpNet::V4(real) = holding.prefix else {
            left_out.push(format!("holding {} ({}): IPv6", holding.id, holding.prefix));
            continue;
        };
        if holding.state != AddressState::Active {
            left_out.push(format!("holding {} ({real}): not active, grants nothing", holding.id));
        }
        let mapped = if real.addr().is_loopback() {
            real
        } else {
            let size = 1u32 << (32 - real.prefix_len());
            let start = next.next_multiple_of(size);
            next = start + size;
            if next > u32::from(Ipv4Addr::new(127, 128, 0, 0)) {
                return Err(format!("holding {} ({real}) does not fit into loopback", holding.id).into());
            }
            let mapped = Ipv4Net::new(start.into(), real.prefix_len())?;
            mapping.push((real, mapped));
            mapped
        };
        holdings.push(Holding { prefix: mapped.into(), ..holding.clone() });
    }
    let map = |prefix: &IpNet| match prefix {
        IpNet::V6(_) => None,
        IpNet::V4(prefix) => {
            let found = mapping.iter().find(|(real, _)| real.contains(prefix));
            Some(IpNet::V4(found.map_or(*prefix, |(real, mapped)| {
                let offset = u32::from(prefix.addr()) - u32::from(real.network());
                let ip = Ipv4Addr::from(u32::from(mapped.network()) + offset);
                Ipv4Net::new(ip, prefix.prefix_len()).expect("the length was valid")
            })))
        }
    };
    let pools = file.inventory.pools().filter_map(|pool| {
        let prefixes: Vec<_> = pool.prefixes.iter().filter_map(map).collect();
        (!prefixes.is_empty()).then(|| Pool { prefixes, ..pool.clone() })
    });
    let inventory =
        Inventory::new(holdings.clone(), pools.collect::<Vec<_>>(), file.policy.data_centers_per_address)?;
    let zones: Vec<_> = file
        .tenancy
        .zones()
        .map(|zone| {
            let mut zone = zone.clone();
            if zone.pool.as_ref().is_some_and(|pool| inventory.pool(pool).is_none()) {
                zone = Zone { pool: None, enabled_by: EnabledBy::Account, ..zone };
            }
            zone
        })
        .collect();
    let delegations: Vec<_> = file
        .tenancy
        .delegations()
        .iter()
        .filter_map(|delegation| Some(Delegation { prefix: map(&delegation.prefix)?, ..delegation.clone() }))
        .collect();
    file.tenancy =
        Tenancy::new(&inventory, file.tenancy.accounts().cloned().collect::<Vec<_>>(), zones, delegations)?;
    file.inventory = inventory;
    Ok(mapping)
}

/// Active IPv4 ports of every zone on every machine that has any.
fn capacities(file: &FleetFile, layout: &Layout) -> BTreeMap<ZoneId, BTreeMap<MachineId, u32>> {
    let active = |ip: Ipv4Addr| {
        file.inventory.holding_of(IpAddr::V4(ip)).is_some_and(|holding| holding.state == AddressState::Active)
    };
    let grants: Vec<_> = file.tenancy.grants().collect();
    let mut capacity = BTreeMap::<ZoneId, BTreeMap<MachineId, u32>>::new();
    for machine in layout.machines() {
        for (ip, ports) in layout.shares_of(&machine.id).filter(|(ip, _)| active(*ip)) {
            for grant in &grants {
                let pool = file.inventory.pool(grant.pool()).expect("a grant names a pool of the inventory");
                if pool.prefixes.iter().any(|prefix| prefix.contains(&IpAddr::V4(ip))) {
                    let zone = capacity.entry(grant.zone().clone()).or_default();
                    *zone.entry(machine.id.clone()).or_default() += ports.len();
                }
            }
        }
    }
    capacity
}

/// The zone with the smallest shares (the demo fills them) that enough data centers have, and the machines that play.
fn smallest_shares(
    file: &FleetFile,
    capacity: &BTreeMap<ZoneId, BTreeMap<MachineId, u32>>,
) -> Option<(ZoneId, Vec<MachineId>)> {
    let candidates = capacity.iter().filter_map(|(zone, machines)| {
        let mut places = BTreeMap::<&DataCenterId, Vec<&MachineId>>::new();
        for id in machines.keys() {
            places.entry(&file.fleet.machine(id)?.data_center).or_default().push(id);
        }
        // Data centers with many machines first: they show most.
        let mut places: Vec<_> = places.into_values().collect();
        places.sort_by_key(|all| MACHINES_EACH.saturating_sub(all.len()));
        places.truncate(DATA_CENTERS);
        let enough = places.len() == DATA_CENTERS;
        let cast: Vec<_> =
            places.into_iter().flat_map(|all| all.into_iter().take(MACHINES_EACH)).cloned().collect();
        let ports: u32 = cast.iter().map(|machine| machines[machine]).sum();
        enough.then_some((ports, zone, cast))
    });
    let (_, zone, cast) = candidates.min_by_key(|(ports, zone, cast)| (ports / cast.len() as u32, *zone))?;
    Some((zone.clone(), cast))
}
