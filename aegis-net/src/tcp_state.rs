//! What the kernel knows about a TCP connection. With `sockopt`, the files with unsafe code.

use std::os::fd::{AsFd, AsRawFd};

/// The states of a TCP connection that matter when it closes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TcpState {
    /// We have sent a SYN, and no answer has come.
    Connecting,
    /// Neither side, or only ours, has closed.
    PeerOpen,
    /// The peer has closed first.
    PeerClosed,
    /// We have closed first, then the peer.
    BothClosed,
    /// The connection is over: reset, timed out, or closed by both sides.
    Over,
    /// None that a connected socket can have, or the kernel did not tell.
    Unknown,
}

impl TcpState {
    /// The state of a socket. It may have moved on meanwhile, but never back.
    pub(crate) fn of(socket: impl AsFd) -> Self {
        // Numbers of include/net/tcp_states.h.
        match tcpi_state(socket) {
            Some(2) => Self::Connecting,
            // ESTABLISHED, FIN_WAIT1, FIN_WAIT2
            Some(1 | 4 | 5) => Self::PeerOpen,
            // CLOSE_WAIT, LAST_ACK
            Some(8 | 9) => Self::PeerClosed,
            // TIME_WAIT, CLOSING
            Some(6 | 11) => Self::BothClosed,
            Some(7) => Self::Over,
            _ => Self::Unknown,
        }
    }
}

/// `tcpi_state`, the first byte of `struct tcp_info`; the kernel fills as many bytes as there is room for.
fn tcpi_state(socket: impl AsFd) -> Option<u8> {
    let mut state = 0_u8;
    let mut len: libc::socklen_t = 1;
    // SAFETY: the descriptor is borrowed, so it is open; the kernel writes at most `len` = 1 byte to `state` and
    // the new length to `len`, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut state).cast(),
            &raw mut len,
        )
    };
    (result == 0 && len == 1).then_some(state)
}
