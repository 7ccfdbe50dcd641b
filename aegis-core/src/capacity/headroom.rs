//! How much is left?

use core::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::load::{Dimension, Group, Load, sums};
use super::rules::Rules;

/// What bounds the number of connections, the hardest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The ports of the shares: there are no more.
    Provisioned,
    /// The fraction of them that plans are made with ([`Rules::planning_percent`]).
    Planned,
    /// The number recommended for each egress IP and origin ([`Rules::recommended_connections`]).
    Recommended,
}

/// What is used of a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Room {
    /// Connections that count against it.
    pub used: u64,
    /// How many may be.
    pub limit: u64,
}

impl Room {
    /// How many more may be; 0 if it is over its limit.
    pub const fn left(self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    /// By how much it is over its limit; 0 if it is not.
    pub const fn over(self) -> u64 {
        self.used.saturating_sub(self.limit)
    }

    /// What is used of the limit: 0 is empty, 1 is full. `None`: something is used where nothing may be.
    pub fn fraction(self) -> Option<f64> {
        match self {
            Self { used: 0, .. } => Some(0.0),
            Self { limit: 0, .. } => None,
            Self { used, limit } => Some(used as f64 / limit as f64),
        }
    }

    /// Orders by fraction, exactly; what has no fraction is fullest.
    fn compare(self, other: Self) -> Ordering {
        // Nothing of nothing is empty, as nothing of one is.
        let [a, b] = [self, other].map(|room| if room.used == 0 { Self { used: 0, limit: 1 } } else { room });
        (u128::from(a.used) * u128::from(b.limit)).cmp(&(u128::from(b.used) * u128::from(a.limit)))
    }
}

/// How full one group is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Headroom {
    /// Live and held connections of the group.
    pub in_use: u64,
    /// Ports provisioned, summed over origins: see the module's documentation.
    pub provisioned: u64,
    /// The planning fraction of that sum, rounded down once: groups may have one more than the sum of their parts.
    pub planned: u64,
    /// The recommended number for each egress IP and origin that the group has connections or ports for. What counts
    /// against it is what *all* loads that were given use of these, not this group's alone.
    pub recommended: Room,
    /// The egress IP and origin of the group that is fullest by ports, with what the group uses and has of it.
    pub fullest: Load,
}

impl Headroom {
    /// What is used of one limit.
    pub const fn room(&self, limit: Limit) -> Room {
        match limit {
            Limit::Provisioned => Room { used: self.in_use, limit: self.provisioned },
            Limit::Planned => Room { used: self.in_use, limit: self.planned },
            Limit::Recommended => self.recommended,
        }
    }

    /// The limit that is used by the largest fraction, so that it is reached first when everything grows alike. Of
    /// equal ones the hardest.
    pub fn binding(&self) -> Limit {
        // `max_by` takes the last of equal ones.
        [Limit::Recommended, Limit::Planned, Limit::Provisioned]
            .into_iter()
            .max_by(|a, b| self.room(*a).compare(self.room(*b)))
            .expect("there are three")
    }
}

/// How full each group is, for groups by any dimensions; by none, all is one group.
///
/// No connection may be in two of the loads. Loads without an egress IP or origin count against ports only.
pub fn headroom(
    loads: &[Load],
    by: impl IntoIterator<Item = Dimension>,
    rules: &Rules,
) -> BTreeMap<Group, Headroom> {
    let by: BTreeSet<Dimension> = by.into_iter().collect();
    let pair = [Dimension::EgressIp, Dimension::Origin].into();
    let all = Group::default();
    let everybodys = sums(loads, &all, &pair);
    let mut groups = BTreeMap::<Group, Headroom>::new();
    for (of, load) in sums(loads, &all, &by.union(&pair).copied().collect()) {
        let (group, of_pair) = (of.only(&by), of.only(&pair));
        let headroom = groups.entry(group).or_insert_with(|| Headroom {
            in_use: 0,
            provisioned: 0,
            planned: 0,
            recommended: Room { used: 0, limit: 0 },
            fullest: load.clone(),
        });
        headroom.in_use = headroom.in_use.saturating_add(load.in_use);
        headroom.provisioned = headroom.provisioned.saturating_add(load.provisioned);
        if of_pair.egress_ip.is_some() && of_pair.origin.is_some() {
            let Room { used, limit } = &mut headroom.recommended;
            *used = used.saturating_add(everybodys[&of_pair].in_use);
            *limit = limit.saturating_add(u64::from(rules.recommended_connections.get()));
        }
        if ports(&load).compare(ports(&headroom.fullest)).is_gt() {
            headroom.fullest = load;
        }
    }
    for headroom in groups.values_mut() {
        headroom.planned = rules.planning_percent.of(headroom.provisioned);
    }
    groups
}

fn ports(load: &Load) -> Room {
    Room { used: load.in_use, limit: load.provisioned }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;
    use crate::net::{Origin, Protocol};

    fn origin(port: u16) -> Origin {
        Origin::new(Protocol::Tcp, format!("203.0.113.150:{port}").parse().unwrap()).unwrap()
    }

    fn load(data_center: &str, port: u16, in_use: u64, provisioned: u64) -> Load {
        let egress_ip = Some(IpAddr::from([192, 0, 2, 1]));
        let data_center = Some(data_center.parse().unwrap());
        let of = Group { egress_ip, origin: Some(origin(port)), data_center, ..Group::default() };
        Load { of, in_use, peak: in_use, provisioned }
    }

    fn one(loads: &[Load], by: &[Dimension]) -> Headroom {
        let groups = headroom(loads, by.iter().copied(), &Rules::default());
        assert_eq!(groups.len(), 1);
        groups.into_values().next().unwrap()
    }

    #[test]
    fn two_origins_have_twice_the_ports_and_40_000_each() {
        let all = one(&[load("sjc", 443, 10_000, 63_488), load("sjc", 8443, 50_000, 63_488)], &[]);
        assert_eq!((all.provisioned, all.planned), (126_976, 101_580));
        assert_eq!(all.recommended, Room { used: 60_000, limit: 80_000 });
        assert_eq!(all.binding(), Limit::Recommended);
        assert_eq!(all.fullest.of.origin, Some(origin(8443)), "the sum hides which one is too full");
    }

    #[test]
    fn data_centers_share_the_recommended_number_but_not_ports() {
        let loads = [load("fra", 443, 100, 15_872), load("sjc", 443, 39_000, 47_616)];
        let by_data_center = headroom(&loads, [Dimension::DataCenter], &Rules::default());
        let [fra, sjc] = [0, 1].map(|i| by_data_center.values().nth(i).unwrap().clone());
        assert_eq!(fra.room(Limit::Planned).left(), 12_697 - 100);
        assert_eq!(fra.recommended.left(), 900, "the others have used the rest");
        assert_eq!(fra.binding(), Limit::Recommended);
        assert_eq!((sjc.recommended, sjc.binding()), (fra.recommended, Limit::Planned));
        let whole = one(&loads, &[Dimension::EgressIp, Dimension::Origin]);
        assert_eq!((whole.in_use, whole.provisioned, whole.recommended.left()), (39_100, 63_488, 900));
    }

    #[test]
    fn small_shares_bind_by_the_planning_fraction_and_whole_addresses_by_the_recommended_number() {
        assert_eq!(one(&[load("sjc", 443, 1, 49_999)], &[]).binding(), Limit::Planned);
        // 80 % of 50,000 are 40,000: equal, and the harder of the two is named.
        assert_eq!(one(&[load("sjc", 443, 1, 50_000)], &[]).binding(), Limit::Planned);
        assert_eq!(one(&[load("sjc", 443, 1, 50_002)], &[]).binding(), Limit::Recommended);
        assert_eq!(one(&[load("sjc", 443, 0, 0)], &[]).binding(), Limit::Provisioned);
    }

    #[test]
    fn use_without_ports_has_no_fraction_and_is_fullest() {
        let none = one(&[load("sjc", 443, 3, 0), load("sjc", 8443, 9, 10)], &[]);
        assert_eq!(none.fullest.of.origin, Some(origin(443)));
        let only = one(&[load("sjc", 443, 3, 0)], &[]);
        let room = only.room(Limit::Provisioned);
        assert_eq!((room.fraction(), room.left(), room.over()), (None, 0, 3));
        assert_eq!(only.binding(), Limit::Provisioned);
        let nothing = Room { used: 0, limit: 0 };
        assert_eq!((nothing.fraction(), nothing.over()), (Some(0.0), 0));
        assert_eq!(Room { used: 5, limit: 4 }.fraction(), Some(1.25));
        assert!(headroom(&[], [], &Rules::default()).is_empty());
    }

    #[test]
    fn ports_that_every_origin_loses_have_no_recommended_number() {
        let mut strangers = load("sjc", 443, 5, 2_048);
        strangers.of.origin = None;
        assert_eq!(one(&[strangers], &[]).recommended, Room { used: 0, limit: 0 });
    }
}
