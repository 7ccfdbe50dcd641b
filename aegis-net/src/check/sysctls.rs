//! The sysctls that leases depend on, against the shares.

use std::time::Duration;

use aegis_core::net::PortRange;

use super::proc::{Proc, Unreadable};
use super::{Finding, Method, Request};
use crate::ranges::Ports;

/// Fewer ports than this are too few for the other programs of a host.
const FEW: u32 = 1_000;
/// The lowest port that programs without privilege may have.
const UNPRIVILEGED: u16 = 1_024;

/// What was read, for those who come after, and what is wrong with it.
#[derive(Default)]
pub(super) struct Sysctls {
    pub(super) timestamps: Option<bool>,
    pub(super) fin_timeout: Option<Duration>,
    pub(super) local: Option<PortRange>,
    pub(super) reserved: Ports,
    pub(super) findings: Vec<Finding>,
}

impl Sysctls {
    pub(super) fn read(proc: &Proc, request: &Request) -> Self {
        let mut this = Self::default();
        this.timestamps = this.noted(proc.number("net.ipv4.tcp_timestamps")).map(|value| value != 0);
        this.fin_timeout = this.noted(proc.number("net.ipv4.tcp_fin_timeout")).map(Duration::from_secs);
        this.local = this.noted(proc.local_ports());
        let reserved = this.noted(proc.reserved_ports());
        this.quarantine(request);
        if let (Some(local), Some(reserved)) = (this.local, reserved) {
            this.reserved = reserved;
            match request.method {
                Method::Explicit => this.explicit(request, local),
                Method::KernelRange => this.kernel_range(request, local),
            }
        }
        this
    }

    fn noted<T>(&mut self, read: Result<T, Unreadable>) -> Option<T> {
        let note = |Unreadable { path, error }| Finding::Unreadable { what: path, error };
        read.map_err(|unreadable| self.findings.push(note(unreadable))).ok()
    }

    /// Assuming timestamps off, or a longer timeout, holds tuples too long: that is safe.
    fn quarantine(&mut self, request: &Request) {
        if self.timestamps == Some(false) && request.timestamps {
            self.findings.push(Finding::TimestampsOff);
        }
        if let Some(actual) = self.fin_timeout.filter(|actual| *actual > request.fin_timeout) {
            self.findings.push(Finding::FinTimeoutTooLong { actual, assumed: request.fin_timeout });
        }
    }

    /// IPv4 only: an IPv6 share is whole addresses that no other program is likely to use, and reserving all of its
    /// ports would leave the host none.
    fn explicit(&mut self, request: &Request, local: PortRange) {
        let shares: Ports =
            request.shares.iter().filter(|(ip, _)| ip.is_ipv4()).map(|(_, ports)| *ports).collect();
        let missing = shares.without(&self.reserved);
        let reserve: Ports = self.reserved.ranges().iter().chain(shares.ranges()).copied().collect();
        let chosen: Ports = [local].into_iter().collect();
        let (inside, outside) = (missing.within(&chosen), missing.without(&chosen));
        let list = |ports: &Ports| ports.ranges().to_vec();
        if !inside.is_empty() {
            let left: u32 = chosen.without(&reserve).ranges().iter().map(|range| range.len()).sum();
            let move_to = if left < FEW { roomiest(&reserve) } else { None };
            let (ports, reserve) = (list(&inside), list(&reserve));
            self.findings.push(Finding::KernelMayChoose { ports, local, reserve, move_to });
        }
        if !outside.is_empty() {
            let (ports, reserve) = (list(&outside), list(&reserve));
            self.findings.push(Finding::NotReserved { ports, reserve });
        }
    }

    fn kernel_range(&mut self, request: &Request, local: PortRange) {
        let shares: Ports = request.shares.iter().map(|(_, ports)| *ports).collect();
        let outside = shares.without(&[local].into_iter().collect());
        if let (Some(first), Some(last)) = (outside.ranges().first(), outside.ranges().last()) {
            // The sysctl takes no ports below; such a share stays a finding.
            let lo = local.lo().min(first.lo().max(UNPRIVILEGED));
            let set = PortRange::new(lo, local.hi().max(last.hi()));
            let set = set.expect("neither end is further inside than that of `local`");
            let ports = outside.ranges().to_vec();
            self.findings.push(Finding::OutsideLocalPortRange { ports, local, chosen: None, set });
        }
        let reserved = shares.within(&self.reserved);
        if !reserved.is_empty() {
            let keep = self.reserved.without(&shares).ranges().to_vec();
            let ports = reserved.ranges().to_vec();
            self.findings.push(Finding::ReservedFromKernel { ports, keep });
        }
    }
}

/// The longest run of ports for everybody that is not `taken`, if it is long enough.
fn roomiest(taken: &Ports) -> Option<PortRange> {
    let all = PortRange::new(UNPRIVILEGED, u16::MAX).expect("1024 is below 65535");
    let free = [all].into_iter().collect::<Ports>().without(taken);
    free.ranges().iter().copied().max_by_key(|range| range.len()).filter(|range| range.len() >= FEW)
}
