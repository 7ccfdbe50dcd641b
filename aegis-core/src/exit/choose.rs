use core::fmt;

use super::ranking::{Ranked, Ranking};
use super::sites::{Share, draw};
use crate::error::{Error, ErrorKind, Result};
use crate::fleet::Latency;
use crate::id::{DataCenterId, MachineId};

/// When to leave the best site for the next one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum SpillOver {
    /// Never, not even when it is full: then the answer is [`Full`].
    #[default]
    Never,
    /// When so much of a site is in use. A threshold only moves requests and refuses none: where all sites have
    /// reached theirs, the best one that has a free port is taken.
    At(Threshold),
}

/// A part of a site's ports in whole percent, 1 to 100.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Threshold(u8);

impl Threshold {
    /// All ports: a request goes elsewhere only when no port is left.
    pub const FULL: Self = Self(100);

    /// So many percent.
    ///
    /// # Errors
    /// Less than 1 or more than 100.
    pub fn percent(percent: u8) -> Result<Self> {
        match percent {
            1..=100 => Ok(Self(percent)),
            _ => Err(Error::input(format!("a threshold of {percent} %; expected 1 to 100"))),
        }
    }
}

/// Why this exit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// It is at the best site.
    Best,
    /// All better sites have reached their threshold, and this one has not.
    SpilledOver,
    /// All sites have reached their threshold; this is the best one that has a free port.
    AllBusy,
}

/// A machine for a request to leave from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit<'a> {
    share: &'a Share,
    reason: Reason,
    ranked: Ranked,
    unrestricted: Latency,
    /// In the shares of the site.
    nth: usize,
    number: u64,
}

impl<'a> Exit<'a> {
    /// The machine.
    pub fn machine(&self) -> &'a MachineId {
        self.share.machine()
    }

    /// Its data center.
    pub fn data_center(&self) -> &'a DataCenterId {
        self.share.data_center()
    }

    /// What it has of the pool.
    pub fn share(&self) -> &'a Share {
        self.share
    }

    /// Why there.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The round trip from the ingress to the exit.
    pub fn hop(&self) -> Latency {
        self.ranked.path.hop
    }

    /// The round trip from the ingress by way of the exit to the origin.
    pub fn total(&self) -> Latency {
        self.ranked.path.total
    }

    /// How much longer that takes than by way of [`Ranking::unrestricted`]: what it costs that not every data center
    /// has a slice, and to spill over. 0 if it is not longer, which happens where the criterion is not the total.
    pub fn extra_hop(&self) -> Latency {
        self.total().beyond(self.unrestricted)
    }
}

/// There is no free port towards this origin where the request may leave.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Full {
    /// The best site.
    pub best: DataCenterId,
    /// The next best one that has a free port, if only spill-over were allowed.
    pub elsewhere: Option<DataCenterId>,
}

impl Full {
    /// What the caller can do: wait.
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Wait
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { best, elsewhere } = self;
        match elsewhere {
            Some(elsewhere) => write!(
                f,
                "all ports of the pool at {best} are in use towards this origin; wait, or allow it to spill over: \
                 {elsewhere} has free ports"
            ),
            None => write!(
                f,
                "all ports of the pool are in use towards this origin, at {best} and at every other data center that \
                 has some; wait"
            ),
        }
    }
}

impl Ranking {
    /// The exit for one request.
    ///
    /// `in_use` says how many ports (live and held) of a share are in use towards this origin. What is unknown counts
    /// as free: that machine itself knows better, and if it refuses, there are [`Ranking::others`]. Of a machine that
    /// must not get requests now, say `Some(u64::MAX)`.
    ///
    /// At the site that is chosen the machine where the request has come in serves it if it has a free port. Otherwise
    /// `number` draws two machines by their ports, and the one with the larger free part is taken: nearly as even as
    /// to look at all of them, for the price of two. Give a random number to spread requests, or a hash of what they
    /// may share a connection by (pool key and origin): then they come to one of the same two machines each time, and
    /// find the connections that are open there.
    ///
    /// # Errors
    /// [`Full`].
    pub fn choose(
        &self,
        in_use: impl Fn(&Share) -> Option<u64>,
        spill_over: SpillOver,
        number: u64,
    ) -> Result<Exit<'_>, Full> {
        let in_use = |share: &Share| in_use(share).unwrap_or(0).min(share.ports());
        let free = |ranked: &Ranked| self.free(*ranked, in_use, number);
        let exit = |ranked: &Ranked, nth: usize, reason: Reason| Exit {
            share: &self.sites.at(ranked.site)[nth],
            reason,
            ranked: *ranked,
            unrestricted: self.unrestricted.total,
            nth,
            number,
        };
        let full = |elsewhere: Option<&Ranked>| {
            let id = |ranked: &Ranked| self.sites.sites()[ranked.site].data_center.clone();
            Full { best: id(&self.order[0]), elsewhere: elsewhere.map(id) }
        };
        let threshold = match spill_over {
            SpillOver::At(threshold) => threshold,
            SpillOver::Never => {
                let best = &self.order[0];
                return free(best)
                    .map(|nth| exit(best, nth, Reason::Best))
                    .ok_or_else(|| full(self.order.iter().find(|ranked| free(ranked).is_some())));
            }
        };
        let mut busy = None;
        for (place, ranked) in self.order.iter().enumerate() {
            if self.reached(*ranked, threshold, in_use) {
                busy = busy.or_else(|| Some(exit(ranked, free(ranked)?, Reason::AllBusy)));
            } else if let Some(nth) = free(ranked) {
                return Ok(exit(ranked, nth, if place == 0 { Reason::Best } else { Reason::SpilledOver }));
            }
        }
        busy.ok_or_else(|| full(None))
    }

    /// Whom to ask, one after the other, if the machine of `exit` refuses: the other machines of that data center, the
    /// machines of other data centers of that location, and those of the other sites, best first. Without spill-over
    /// only the first of these. No machine comes twice, and where the machine where the request has come in is one of
    /// them, it is the first of its data center.
    pub fn others<'a>(
        &'a self,
        exit: &Exit<'a>,
        spill_over: SpillOver,
    ) -> impl Iterator<Item = &'a Share> + use<'a> {
        let (from, chosen, number) = (exit.ranked.site, exit.nth, exit.number);
        let spills = spill_over != SpillOver::Never;
        let sites = self.sites.sites();
        let city = &sites[from].city;
        let elsewhere = move |same: bool| {
            self.order
                .iter()
                .map(|ranked| ranked.site)
                .filter(move |&site| spills && site != from && (sites[site].city == *city) == same)
        };
        core::iter::once(from).chain(elsewhere(true)).chain(elsewhere(false)).flat_map(move |site| {
            let shares = self.sites.at(site);
            let own = self.own.filter(|own| own.0 == site).map(|own| own.1);
            let (first, _) = draw(shares, number);
            let around = (first..shares.len()).chain(0..first);
            let all = own.into_iter().chain(around.filter(move |nth| Some(*nth) != own));
            all.filter(move |nth| site != from || *nth != chosen).map(move |nth| &shares[nth])
        })
    }

    /// Has so much of the site's ports in use?
    fn reached(&self, ranked: Ranked, threshold: Threshold, in_use: impl Fn(&Share) -> u64) -> bool {
        if threshold == Threshold::FULL {
            return false; // Who looks for a free port finds out, mostly without looking at all machines.
        }
        let shares = self.sites.at(ranked.site);
        let used: u128 = shares.iter().map(|share| u128::from(in_use(share))).sum();
        used * 100 >= u128::from(shares[0].site_ports()) * u128::from(threshold.0)
    }

    /// A machine of the site that has a free port; none if all are full.
    fn free(&self, ranked: Ranked, in_use: impl Fn(&Share) -> u64, number: u64) -> Option<usize> {
        let shares = self.sites.at(ranked.site);
        let left = |nth: usize| shares[nth].ports() - in_use(&shares[nth]);
        if let Some((_, own)) = self.own.filter(|own| own.0 == ranked.site) {
            if left(own) > 0 {
                return Some(own);
            }
        }
        let (a, b) = draw(shares, number);
        let [left_a, left_b] = [a, b].map(left);
        if left_a.max(left_b) == 0 {
            // Rare: the most ports that are left anywhere; of equal ones the first.
            let most = (0..shares.len()).rev().max_by_key(|&nth| left(nth))?;
            return (left(most) > 0).then_some(most);
        }
        let part = |left: u64, of: usize| u128::from(left) * u128::from(shares[of].ports());
        Some(if part(left_b, a) > part(left_a, b) { b } else { a })
    }
}
