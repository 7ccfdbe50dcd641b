//! What a plan must respect.

use crate::epoch::LayoutPolicy;
use crate::inventory::Choice;

use super::blocking::{Imbalance, Refusals};
use super::placement::{Cities, Loss};

/// What a plan must respect.
#[derive(Clone, PartialEq, Debug)]
pub struct Constraints {
    /// How addresses are cut, and how far one may spread.
    pub policy: LayoutPolicy,
    /// Which data centers are pinned and forbidden, and how many announce each address (none: as many as may).
    pub wishes: Choice,
    /// In how many cities one address may be.
    pub cities: Cities,
    /// What the loss of any one data center may do.
    pub loss: Loss,
    /// Exactly so many addresses; none: as few as the demand needs.
    pub addresses: Option<u32>,
    /// How unevenly connections reach the machines of a data center.
    pub imbalance: Imbalance,
    /// How many connections may be refused because the ports of their machine are all in use.
    pub refusals: Refusals,
}

impl Default for Constraints {
    /// No wishes: the default layout policy, any cities, a loss is survived, as few addresses as possible, the busiest
    /// machine has a tenth more than its part, one connection in 10,000 may be refused.
    fn default() -> Self {
        Self {
            policy: LayoutPolicy::default(),
            wishes: Choice::default(),
            cities: Cities::Any,
            loss: Loss::Survived,
            addresses: None,
            imbalance: Imbalance::new(1.1).expect("1.1 is above 1"),
            refusals: Refusals::new(1e-4).expect("it is between 0 and 1"),
        }
    }
}
