use core::time::Duration;
use std::collections::BTreeSet;

use crate::id::RouterId;

/// The times of a controller; every controller of a fleet has the same.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Settings {
    /// How long a machine may grant after it has reported. Machines report several times in that span.
    pub tenure: Duration,
    /// How much longer a controller waits before it calls a machine dead. At least the difference that two clocks can come
    /// to in a tenure, and the time for which a thread of the machine may stop between reading its clock and granting.
    pub margin: Duration,
    /// How long a granule drains before the ports that are still open stay behind.
    pub drain: Duration,
    /// How long UDP ports of a dead machine are given to nobody: late answers for it arrive as long.
    pub udp_rest: Duration,
    /// The routers that must have a layout before the owners before it are forgotten.
    pub routers: BTreeSet<RouterId>,
    /// How long to wait for them at most. Until then a granule that has just moved does not move again, not even from a dead
    /// owner: one router that never comes back holds up no more than that.
    pub routers_patience: Duration,
}

impl Default for Settings {
    /// 10 s tenure, 2 s margin, 10 minutes to drain, 120 s rest for UDP, no routers, and 10 minutes of patience.
    fn default() -> Self {
        Self {
            tenure: Duration::from_secs(10),
            margin: Duration::from_secs(2),
            drain: Duration::from_secs(600),
            udp_rest: Duration::from_secs(120),
            routers: BTreeSet::new(),
            routers_patience: Duration::from_secs(600),
        }
    }
}
