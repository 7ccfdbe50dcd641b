//! Whose sockets are in the shares?

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use aegis_core::net::{PortRange, Protocol};

use super::Finding;
use crate::sock_diag::{Filter, SockDiag, Socket, State};

/// A finding for every port that is taken, and one for every share with connections.
pub(super) fn find(
    kernel: std::io::Result<&mut SockDiag>,
    shares: &[(IpAddr, PortRange)],
    findings: &mut Vec<Finding>,
) {
    let filter = Filter::new(shares.iter().map(|(_, ports)| *ports));
    match kernel.and_then(|kernel| kernel.list(&filter)) {
        Ok(sockets) => judge(&sockets, shares, findings),
        Err(error) => {
            let what = PathBuf::from("the kernel's list of sockets");
            findings.push(Finding::Unreadable { what, error: error.to_string() });
        }
    }
}

fn judge(sockets: &[Socket], shares: &[(IpAddr, PortRange)], findings: &mut Vec<Finding>) {
    let mut by_ip: BTreeMap<IpAddr, Vec<PortRange>> = BTreeMap::new();
    for (ip, ports) in shares {
        by_ip.entry(*ip).or_default().push(*ports);
    }
    // A share has thousands of ports, and there may be thousands of sockets: few are bound to all addresses.
    let share_of = |socket: &Socket| -> Option<(IpAddr, PortRange)> {
        let hit = |(ip, ports): (&IpAddr, &Vec<PortRange>)| {
            let ports = ports.iter().find(|ports| ports.contains(socket.source.port()))?;
            socket.covers(*ip).then_some((*ip, *ports))
        };
        if socket.source.ip().is_unspecified() {
            by_ip.iter().find_map(hit)
        } else {
            by_ip.get_key_value(&socket.source.ip()).and_then(hit)
        }
    };

    let mut taken = BTreeSet::new();
    let mut connections: BTreeMap<(IpAddr, PortRange, Protocol), (usize, Socket)> = BTreeMap::new();
    for socket in sockets {
        let Some((ip, ports)) = share_of(socket) else { continue };
        match socket.state {
            State::Listen | State::Bound => {
                // Several sockets of one program may listen at one ip:port.
                if taken.insert((socket.protocol, socket.source)) {
                    findings.push(Finding::PortTaken { socket: *socket, ip, ports });
                }
            }
            _ => {
                connections.entry((ip, ports, socket.protocol)).or_insert((0, *socket)).0 += 1;
            }
        }
    }
    findings.extend(connections.into_iter().map(|((ip, ports, protocol), (count, example))| {
        Finding::Connections { protocol, ip, ports, count, example }
    }));
}
