use core::iter::Peekable;
use std::sync::Arc;

use super::sites::{Sites, unknown};
use crate::error::{Error, ErrorKind, Result};
use crate::fleet::{DataCenter, Fleet, Latencies, Latency, Partition, Reach};
use crate::id::{DataCenterId, MachineId};

/// What makes one exit better than another. Of equal ones that with less total latency is better, then that with the
/// lower id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Criterion {
    /// From the ingress to the exit and from there to the origin in the shortest time: the fastest path.
    TotalLatency,
    /// The shortest way from the exit to the origin: where BGP would let it leave.
    NearestOrigin,
    /// The order in which a request is forwarded by a machine that should have served it and cannot: this data
    /// center, another of this location (the same city), the closest elsewhere.
    NearestIngress,
}

/// Where a request has come in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ingress {
    /// At this machine: where its data center is the exit and it has ports left, it serves the request itself.
    Machine(MachineId),
    /// At some machine of this data center: for planning.
    DataCenter(DataCenterId),
}

/// The sites of a pool, best first, for one ingress and one origin. Sites that do not reach the origin, or are out of
/// reach from the ingress, are left out; one at least is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ranking {
    pub(super) sites: Arc<Sites>,
    pub(super) order: Box<[Ranked]>,
    /// The site and, in its shares, the share of the machine where the request has come in.
    pub(super) own: Option<(usize, usize)>,
    pub(super) unrestricted: Path,
    unrestricted_at: DataCenterId,
}

/// A site in its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ranked {
    pub(super) site: usize,
    pub(super) path: Path,
}

/// From the ingress to an exit, and on to the origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Path {
    pub(super) hop: Latency,
    pub(super) total: Latency,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Nearness {
    SameDataCenter,
    SameLocation,
    Elsewhere,
}

impl Ranking {
    /// The order of `sites` for requests that come in at `ingress` and go to the origin that `reach` is about.
    ///
    /// # Errors
    /// [`ErrorKind::Input`]: the ingress is unknown. [`ErrorKind::NormalEgress`]: it is in a separate network.
    /// [`ErrorKind::OtherExit`]: the sites that reach the origin are out of reach from here, so somebody else must
    /// serve the request. [`ErrorKind::Wait`]: no site reaches the origin; the message names who else does.
    pub fn new(
        fleet: &Fleet,
        sites: &Arc<Sites>,
        ingress: &Ingress,
        reach: &Reach,
        latencies: &Latencies,
        criterion: Criterion,
    ) -> Result<Self> {
        let here = place(fleet, ingress)?;
        let row = latencies.position(&here.id);
        // All are in order of ids: to walk along costs less than to look up each.
        let mut columns = latencies.data_centers().iter().enumerate().map(|(to, id)| (id, to)).peekable();
        let mut places = fleet.data_centers().map(|place| (&place.id, place)).peekable();
        let mut path = |id: &DataCenterId, to_origin: Latency| {
            let place = walk_to(id, &mut places).filter(|place| place.partition == Partition::Global)?;
            // What the matrix does not know is out of reach, but nobody is out of reach of himself.
            let hop = match row.zip(walk_to(id, &mut columns)) {
                Some((from, to)) => latencies.at(from, to)?,
                None if *id == here.id => Latency::ZERO,
                None => return None,
            };
            let total = hop + to_origin;
            let key = match criterion {
                Criterion::TotalLatency => (Nearness::Elsewhere, total, total),
                Criterion::NearestOrigin => (Nearness::Elsewhere, to_origin, total),
                Criterion::NearestIngress if *id == here.id => (Nearness::SameDataCenter, hop, total),
                Criterion::NearestIngress if place.city == here.city => (Nearness::SameLocation, hop, total),
                Criterion::NearestIngress => (Nearness::Elsewhere, hop, total),
            };
            Some((key, Path { hop, total }))
        };

        let mut at_sites = sites.data_centers().enumerate().map(|(site, id)| (id, site)).peekable();
        let mut order = Vec::new();
        let mut best: Option<(_, Path, &DataCenterId)> = None;
        for (id, to_origin) in reach.iter() {
            let Some((key, path)) = path(id, to_origin) else { continue };
            if best.is_none_or(|(least, ..)| key < least) {
                best = Some((key, path, id));
            }
            order.extend(walk_to(id, &mut at_sites).map(|site| (key, Ranked { site, path })));
        }
        order.sort_unstable_by_key(|(key, ranked)| (*key, ranked.site));
        match (best, order.is_empty()) {
            (Some((_, unrestricted, at)), false) => Ok(Self {
                own: own(sites, ingress, &here.id),
                sites: Arc::clone(sites),
                order: order.into_iter().map(|(_, ranked)| ranked).collect(),
                unrestricted,
                unrestricted_at: at.clone(),
            }),
            (best, _) => Err(nowhere(sites, &here.id, reach, best.map(|(.., id)| id))),
        }
    }

    /// The same with the best site alone: enough for [`SpillOver::Never`](super::SpillOver::Never), and small, for who
    /// keeps many. Whether there are free ports elsewhere is then not known.
    pub(crate) fn only_best(self) -> Self {
        Self { order: [self.order[0]].into(), ..self }
    }

    /// The sites, best first, and the time to the origin by way of each.
    pub fn sites(&self) -> impl ExactSizeIterator<Item = (&DataCenterId, Latency)> {
        let sites = self.sites.sites();
        self.order.iter().map(|ranked| (&sites[ranked.site].data_center, ranked.path.total))
    }

    /// Where the request would leave by the same criterion if every data center of the global network had a slice, and
    /// the time to the origin by way of it.
    pub fn unrestricted(&self) -> (&DataCenterId, Latency) {
        (&self.unrestricted_at, self.unrestricted.total)
    }
}

/// What belongs to `id` in a list in order of ids, of which all that is before is dropped.
fn walk_to<'a, T>(
    id: &DataCenterId,
    list: &mut Peekable<impl Iterator<Item = (&'a DataCenterId, T)>>,
) -> Option<T> {
    while list.next_if(|(other, _)| *other < id).is_some() {}
    list.next_if(|(other, _)| *other == id).map(|(_, found)| found)
}

fn place<'a>(fleet: &'a Fleet, ingress: &Ingress) -> Result<&'a DataCenter> {
    let id = match ingress {
        Ingress::DataCenter(id) => id,
        Ingress::Machine(id) => {
            let machine = fleet.machine(id);
            &machine.ok_or_else(|| Error::input(format!("there is no machine {id}")))?.data_center
        }
    };
    let place = fleet.data_center(id).ok_or_else(|| unknown(id))?;
    match &place.partition {
        Partition::Global => Ok(place),
        Partition::Separate(network) => Err(Error::new(
            ErrorKind::NormalEgress,
            format!(
                "data center {id} is in the network {network}, which gets no global addresses; use its normal egress"
            ),
        )),
    }
}

fn own(sites: &Sites, ingress: &Ingress, here: &DataCenterId) -> Option<(usize, usize)> {
    let Ingress::Machine(machine) = ingress else { return None };
    let site = sites.sites().binary_search_by(|site| site.data_center.cmp(here)).ok()?;
    let share = sites.at(site).binary_search_by(|share| share.machine().cmp(machine)).ok()?;
    Some((site, share))
}

/// Why no site is of any use.
fn nowhere(sites: &Sites, here: &DataCenterId, reach: &Reach, best: Option<&DataCenterId>) -> Error {
    let list = |ids: Vec<&DataCenterId>| {
        let more = ids.len().saturating_sub(4);
        let some: Vec<_> = ids.iter().take(4).map(|id| id.as_str()).collect();
        some.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
    };
    let reaching: Vec<_> = sites.data_centers().filter(|id| reach.get(id).is_some()).collect();
    if reaching.is_empty() {
        let relief = best.map_or_else(
            || "nor does any other data center that this ingress reaches; wait until one does".to_owned(),
            |id| format!("wait until one does, or give a slice to {id}, which does"),
        );
        let message = format!(
            "no data center with a slice of the pool ({}) reaches the origin; {relief}",
            list(sites.data_centers().collect())
        );
        return Error::new(ErrorKind::Wait, message);
    }
    Error::new(
        ErrorKind::OtherExit,
        format!(
            "no latency from {here} to the data centers that have a slice of the pool and reach the origin ({}); let \
             another data center serve the request, or measure it",
            list(reaching)
        ),
    )
}
