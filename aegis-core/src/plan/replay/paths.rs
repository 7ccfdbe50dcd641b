//! Where traffic comes in, where it goes to, and how far that is.

use crate::error::{Error, Result};
use crate::fleet::{Latencies, Reach};
use crate::id::DataCenterId;
use crate::net::Origin;

/// A data center where requests enter, by its position in one [`Paths`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ingress(pub(super) u16);

/// An origin, by its position in one [`Paths`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Target(pub(super) u16);

/// Round trips between data centers, and from there to every origin of a replay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Paths {
    latencies: Latencies,
    /// In order.
    origins: Vec<(Origin, Reach)>,
}

/// Most data centers, and most origins, of one replay.
const MOST: usize = 1 << 16;

/// Most pairs of them: each is remembered.
const MOST_PAIRS: usize = 1 << 24;

impl Paths {
    /// What is in reach of what.
    ///
    /// # Errors
    /// No data centers or no origins; more than 65,536 of either, or 16 million pairs; an origin that is there twice.
    pub fn new(latencies: Latencies, origins: impl IntoIterator<Item = (Origin, Reach)>) -> Result<Self> {
        let mut origins: Vec<(Origin, Reach)> = origins.into_iter().collect();
        origins.sort_unstable_by_key(|(origin, _)| *origin);
        if let Some(twice) = origins.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::input(format!("origin {} of a replay is there twice", twice[0].0)));
        }
        for (what, count) in [("data centers", latencies.data_centers().len()), ("origins", origins.len())] {
            if !(1..=MOST).contains(&count) {
                return Err(Error::input(format!("a replay with {count} {what}; expected 1 to {MOST}")));
            }
        }
        let pairs = latencies.data_centers().len() * origins.len();
        if pairs > MOST_PAIRS {
            return Err(Error::input(format!(
                "a replay with {pairs} pairs of data center and origin; at most {MOST_PAIRS}: add origins up"
            )));
        }
        Ok(Self { latencies, origins })
    }

    /// Requests that enter there; none for a data center without latencies.
    pub fn ingress(&self, id: &DataCenterId) -> Option<Ingress> {
        self.ingress_named(id.as_str())
    }

    pub(super) fn ingress_named(&self, name: &str) -> Option<Ingress> {
        let found = self.latencies.data_centers().binary_search_by(|id| id.as_str().cmp(name));
        found.ok().map(|position| Ingress(position as u16))
    }

    /// Requests that go there; none for an origin that is not in the replay.
    pub fn target(&self, origin: &Origin) -> Option<Target> {
        let found = self.origins.binary_search_by_key(origin, |(origin, _)| *origin);
        found.ok().map(|position| Target(position as u16))
    }

    /// The data centers, in order.
    pub(super) fn data_centers(&self) -> &[DataCenterId] {
        self.latencies.data_centers()
    }

    /// The origins, in order.
    pub(super) fn origins(&self) -> impl ExactSizeIterator<Item = Origin> {
        self.origins.iter().map(|(origin, _)| *origin)
    }

    pub(super) fn origin(&self, target: Target) -> Option<Origin> {
        self.origins.get(usize::from(target.0)).map(|(origin, _)| *origin)
    }

    pub(super) fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// Round trips to an origin.
    pub(super) fn reach(&self, target: Target) -> &Reach {
        &self.origins[usize::from(target.0)].1
    }
}
