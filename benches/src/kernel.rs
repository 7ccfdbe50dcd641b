//! What the connect rows ask of Linux and no library offers: a network of one's own, and two socket options. The one
//! file with unsafe code.
#![expect(unsafe_code, reason = "system calls that no dependency wraps")]

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Moves this process, which has one thread, into a network namespace of its own with its loopback up: what happens
/// there disturbs nobody, and nobody disturbs it.
///
/// # Errors
/// Neither root nor allowed to make a user namespace.
pub(crate) fn own_network() -> io::Result<()> {
    let user = if rustix::process::geteuid().is_root() { 0 } else { libc::CLONE_NEWUSER };
    // SAFETY: no memory is passed, and descriptors stay shared: neither flag concerns them.
    checked(unsafe { libc::unshare(libc::CLONE_NEWNET | user) })?;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all of its fields are integers or arrays of them, or a union of those.
    let mut request: libc::ifreq = unsafe { core::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is an `ifreq`, which this ioctl reads, and lives until it returns.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) })
}

/// `net.ipv4.ip_local_port_range` of this network.
///
/// # Errors
/// It may not be written.
pub(crate) fn set_system_range(lo: u16, hi: u16) -> io::Result<()> {
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", format!("{lo} {hi}"))
}

/// Allows as many open descriptors as may be allowed, at best `wanted`; says how many.
pub(crate) fn allow_descriptors(wanted: u64) -> u64 {
    let now = getrlimit(Resource::Nofile);
    let room = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    let raised = Rlimit { current: Some(wanted), maximum: now.maximum.map(|maximum| maximum.max(wanted)) };
    if room(now.current) >= wanted || setrlimit(Resource::Nofile, raised).is_ok() {
        return room(now.current).max(wanted);
    }
    // Up to the hard limit anyone may go.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
    room(getrlimit(Resource::Nofile).current)
}

/// `IP_BIND_ADDRESS_NO_PORT`: bind an address, and leave the port to `connect`.
///
/// # Errors
/// The kernel does not know it.
pub(crate) fn bind_address_only(socket: impl AsFd) -> io::Result<()> {
    set_ip_option(socket, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// `IP_LOCAL_PORT_RANGE`: the kernel's choice stays in this range.
///
/// # Errors
/// The kernel does not know it (before 6.3).
pub(crate) fn set_port_range(socket: impl AsFd, lo: u16, hi: u16) -> io::Result<()> {
    const IP_LOCAL_PORT_RANGE: libc::c_int = 51;
    set_ip_option(socket, IP_LOCAL_PORT_RANGE, u32::from(hi) << 16 | u32::from(lo))
}

/// Connections that wait for `accept` at a listener.
///
/// # Errors
/// It is no TCP socket.
pub(crate) fn waiting(listener: impl AsFd) -> io::Result<u32> {
    // SAFETY: all of its fields are integers.
    let mut info: libc::tcp_info = unsafe { core::mem::zeroed() };
    let mut size = size_of_val(&info) as libc::socklen_t;
    let (fd, to) = (listener.as_fd().as_raw_fd(), (&raw mut info).cast());
    // SAFETY: the kernel writes at most `size` bytes, and the structure has as many.
    checked(unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut size) })?;
    // Of a listener that is the length of its queue.
    Ok(info.tcpi_unacked)
}

fn set_ip_option(socket: impl AsFd, option: libc::c_int, value: u32) -> io::Result<()> {
    let (fd, size) = (socket.as_fd().as_raw_fd(), size_of_val(&value) as libc::socklen_t);
    // SAFETY: the pointer is to a value of `size` bytes that lives until the call returns.
    checked(unsafe { libc::setsockopt(fd, libc::IPPROTO_IP, option, (&raw const value).cast(), size) })
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
