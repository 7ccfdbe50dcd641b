//! Socket options for which `rustix` has no call. With `tcp_state`, the files with unsafe code.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aegis_core::net::PortRange;

/// `include/uapi/linux/in.h`, since Linux 6.3.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// `IP_LOCAL_PORT_RANGE`: the kernel chooses a port from here, if this lies inside `net.ipv4.ip_local_port_range`; from
/// somewhere else if not. For IPv6 sockets too. `ENOPROTOOPT`: the kernel does not know it.
pub(crate) fn set_local_port_range(socket: impl AsFd, range: PortRange) -> io::Result<()> {
    let value = u32::from(range.hi()) << 16 | u32::from(range.lo());
    set_ip_option(socket, IP_LOCAL_PORT_RANGE, value)
}

/// `IP_BIND_ADDRESS_NO_PORT`: `bind` to port 0 takes an address only; the port is chosen at `connect`.
pub(crate) fn set_bind_address_no_port(socket: impl AsFd) -> io::Result<()> {
    set_ip_option(socket, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

fn set_ip_option(socket: impl AsFd, option: libc::c_int, value: u32) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<u32>()).expect("4 fits");
    // SAFETY: the descriptor is borrowed, so it is open; the kernel reads `len` = 4 bytes of `value`, which outlives
    // the call. Covered by `the_options_are_taken_and_wrong_ones_are_errors`.
    let result = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), libc::IPPROTO_IP, option, (&raw const value).cast(), len)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketType, socket};

    use super::*;

    #[test]
    fn the_options_are_taken_and_wrong_ones_are_errors() {
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            let Ok(socket) = socket(family, SocketType::STREAM, None) else { continue };
            set_bind_address_no_port(&socket).unwrap();
            match set_local_port_range(&socket, PortRange::new(40_000, 40_063).unwrap()) {
                Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                    eprintln!("SKIPPED IP_LOCAL_PORT_RANGE: {error}");
                }
                result => result.unwrap(),
            }
            assert!(set_ip_option(&socket, -1, 0).is_err());
        }
    }
}
