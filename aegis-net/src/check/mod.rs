//! Is this machine fit to lease from its shares? To be asked once at the start.
//!
//! A wrong sysctl or a missing route does not fail loudly: connections leave from another machine's ports, or break
//! connections that still exist. So the machine is checked first, and what is wrong is a [`Finding`], with a severity and
//! the command that mends it. A machine that is fine has none.
//!
//! ```no_run
//! use std::time::Duration;
//! use aegis_net::check::{Method, Request, Severity, check};
//!
//! let request = Request::new([("198.51.100.7".parse()?, "20480-22527".parse()?)])
//!     .method(Method::Explicit)
//!     .assuming(true, Duration::from_secs(60));
//! let findings = check(&request)?;
//! for finding in &findings {
//!     eprintln!("{}: {finding}\n  {}", finding.severity(), finding.remedy());
//! }
//! if findings.iter().any(|finding| finding.severity() == Severity::Blocks) {
//!     return Err("this machine is not fit for egress".into());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | question | rests on |
//! |---|---|
//! | does the kernel behave as the defaults expect? | a self-test with real sockets on a random address of 127/8 (and on `::1` for IPv6 shares) and ports that the kernel chooses. It takes milliseconds, touches no port of the shares except, for [`Method::KernelRange`], on that address, and resets its connections, so that nothing is left |
//! | do the sysctls fit the shares and the quarantine? | `/proc/sys/net` |
//! | does the host take packets for the addresses? | `RTM_GETROUTE`, and for IPv4 a `bind` to no port |
//! | who else is in the shares? | [`sock_diag`](crate::sock_diag) |
//! | may something rewrite source ports? | the count of tracked flows, after the self-test has made some; tables and modules for NAT |
//!
//! All of it is about the network namespace of the calling thread, and needs no privilege.

mod finding;
mod proc;
mod route;
mod self_test;
mod strangers;
mod sysctls;

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use aegis_core::lease::DEFAULT_FIN_TIMEOUT;
use aegis_core::net::{PortRange, canonical_ip};

pub use finding::{Finding, Rule, Severity};

use crate::ranges::Ports;
use crate::sock_diag::SockDiag;
use proc::Proc;
use self_test::SelfTest;
use sysctls::Sysctls;

/// Who chooses the port of a connection. One method per network namespace: the kernel never chooses a port that an
/// explicit socket has on any address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Method {
    /// We do, and `bind` to it. What [`Dialer`](crate::Dialer) does.
    #[default]
    Explicit,
    /// The kernel does, inside `IP_LOCAL_PORT_RANGE` (a range of one port included).
    KernelRange,
}

/// What the machine is to be fit for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    shares: Vec<(IpAddr, PortRange)>,
    method: Method,
    timestamps: bool,
    fin_timeout: Duration,
}

impl Request {
    /// Leases from these shares, by explicit binds, with the default quarantine.
    pub fn new(shares: impl IntoIterator<Item = (IpAddr, PortRange)>) -> Self {
        let mut shares: Vec<_> = shares.into_iter().map(|(ip, ports)| (canonical_ip(ip), ports)).collect();
        shares.sort_unstable();
        shares.dedup();
        Self { shares, method: Method::Explicit, timestamps: true, fin_timeout: DEFAULT_FIN_TIMEOUT }
    }

    /// By this method instead.
    #[must_use]
    pub fn method(self, method: Method) -> Self {
        Self { method, ..self }
    }

    /// With a quarantine that assumes this of the machine: the arguments of
    /// [`Spans::linux`](aegis_core::lease::Spans::linux).
    #[must_use]
    pub fn assuming(self, timestamps: bool, fin_timeout: Duration) -> Self {
        Self { timestamps, fin_timeout, ..self }
    }

    fn ips(&self) -> Vec<IpAddr> {
        let mut ips: Vec<_> = self.shares.iter().map(|(ip, _)| *ip).collect();
        ips.dedup();
        ips
    }
}

/// Checks this machine; the worst findings come first.
///
/// It blocks for milliseconds; if loopback does not work, for a few seconds.
///
/// # Errors
/// The operating system's, if it gives no sockets or no routes at all. What can be told as a finding is one.
pub fn check(request: &Request) -> io::Result<Vec<Finding>> {
    check_at(request, &Proc::at("/proc"))
}

fn check_at(request: &Request, proc: &Proc) -> io::Result<Vec<Finding>> {
    let mut sysctls = Sysctls::read(proc, request);
    let mut findings = std::mem::take(&mut sysctls.findings);
    let mut kernel = SockDiag::new();
    test_kernel(request, &sysctls, kernel.as_mut().ok(), &mut findings)?;

    let ips = request.ips();
    let mut routes = route::Routes::new()?;
    for ip in &ips {
        if !routes.is_local(*ip)? {
            findings.push(Finding::AddressNotLocal { ip: *ip });
        }
    }
    let kernel = kernel.as_mut().map_err(|error| io::Error::new(error.kind(), error.to_string()));
    strangers::find(kernel, &request.shares, &mut findings);
    // Last, because the connections of the self-test are counted if any are.
    if let Some(flows) = proc.tracked_flows().filter(|flows| *flows > 0) {
        findings.push(Finding::ConnectionTracking { flows, nat: proc.sign_of_nat(), ips });
    }
    findings.sort_by_key(Finding::severity);
    Ok(findings)
}

/// Tries what the defaults rely on, and adds what the kernel does where a range is outside the sysctl.
fn test_kernel(
    request: &Request,
    sysctls: &Sysctls,
    mut kernel: Option<&mut SockDiag>,
    findings: &mut Vec<Finding>,
) -> io::Result<()> {
    let ips = request.ips();
    let mut addresses = vec![self_test::loopback(&ips)?];
    if ips.iter().any(IpAddr::is_ipv6) {
        addresses.push(Ipv6Addr::LOCALHOST.into());
    }
    let by_range = request.method == Method::KernelRange;
    let shares: Ports = request.shares.iter().map(|(_, ports)| *ports).collect();
    let usable = sysctls.local.map(|local| shares.within(&[local].into_iter().collect()));
    let usable = usable.map(|ports| ports.without(&sysctls.reserved)).unwrap_or_default();
    let range = usable.ranges().first().copied().filter(|_| by_range);
    for ip in addresses {
        let mut test = SelfTest {
            ip,
            time_wait: request.timestamps && sysctls.timestamps == Some(true),
            half_closed: sysctls.fin_timeout,
            range,
            kernel: kernel.as_deref_mut(),
            findings,
        };
        if let Err(error) = test.run() {
            findings.push(Finding::NotTested { ip, error: error.to_string() });
        }
        for finding in findings.iter_mut() {
            if let Finding::OutsideLocalPortRange { ports, chosen: chosen @ None, .. } = finding {
                *chosen = self_test::chosen_outside(ip, ports);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
