//! Questions to the kernel through a netlink socket: framing, and what can go wrong on the way.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_recv_buffer_size};
use rustix::net::{self, AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

// include/uapi/linux/netlink.h
const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_MULTI: u16 = 0x2;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// As flags of a question: everything there is, not one object.
pub(crate) const NLM_F_DUMP: u16 = 0x300;

/// The kernel fills at most 32 KiB at a time, however large the buffer is.
const BUFFER: usize = 32 * 1024;

/// Questions in one datagram. With more of them nearly all time goes into the answers; so few fit into a send buffer of
/// any size (`net.core.wmem_default`).
const MOST_QUESTIONS: usize = 32;

/// What an answer may take of the receive buffer. The kernel counts what it has allocated, which for the answer about a
/// socket is 1,280 bytes (Linux 6.18), and drops what does not fit.
const ANSWER: usize = 2 * 1024;

/// The kernel answers before the question's `send` returns, so this is never waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no answer, or only part of one.
#[derive(Debug)]
pub(crate) enum Fault {
    /// What is listed changed meanwhile, or the kernel had to drop answers: ask again.
    Interrupted,
    /// The kernel refuses.
    Refused(Errno),
    /// The socket could not be made or used.
    Socket(Errno),
    /// Not what netlink looks like.
    Malformed(Malformed),
}

/// Bytes that are no answer: what was expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl Fault {
    /// An error that says what was asked for.
    pub(crate) fn into_error(self, asked: &str) -> io::Error {
        match self {
            Self::Interrupted => io::Error::new(
                io::ErrorKind::Interrupted,
                format!("{asked}: the kernel's list changed while it was read; read it again"),
            ),
            Self::Refused(errno) | Self::Socket(errno) => {
                let error = io::Error::from(errno);
                io::Error::new(error.kind(), format!("{asked}: {error}"))
            }
            Self::Malformed(Malformed(expected)) => io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{asked}: the kernel's answer is not as expected: {expected}; report this"),
            ),
        }
    }
}

/// A netlink socket with its buffer.
#[derive(Debug)]
pub(crate) struct Channel {
    /// Nothing is routes, whose number is 0.
    protocol: Option<Protocol>,
    /// Absent after an answer that was not read to its end: what is left of it would be mixed with the next.
    socket: Option<OwnedFd>,
    buffer: Box<[u8]>,
    question: Vec<u8>,
    sequence: u32,
}

impl Channel {
    /// Asks the network namespace of the calling thread.
    pub(crate) fn open(protocol: Option<Protocol>) -> Result<Self, Fault> {
        let socket = Some(open(protocol).map_err(Fault::Socket)?);
        Ok(Self {
            protocol,
            socket,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            question: Vec::new(),
            sequence: 0,
        })
    }

    /// Asks a question and gives the payloads of all answers to `take`, in order.
    pub(crate) fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), Malformed>,
    ) -> Result<(), Fault> {
        self.ask_each(kind, flags, &[body], |_, answer| Ok(take(answer.map_err(Fault::Refused)?)?))
    }

    /// Asks questions and gives to `take` the place of a question and the payload of an answer to it, or why the kernel
    /// refuses, in the order of the questions. A refusal of one is an answer as good as any: the next are asked, too.
    pub(crate) fn ask_each(
        &mut self,
        kind: u16,
        flags: u16,
        bodies: &[impl AsRef<[u8]>],
        mut take: impl FnMut(usize, Result<&[u8], Errno>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        // Put back only at the end: neither an error nor a panic of `take` leaves half an answer behind.
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => open(self.protocol).map_err(Fault::Socket)?,
        };
        let at_once = questions_at_once(&socket).map_err(Fault::Socket)?;
        let mut interrupted = false;
        for (batch, bodies) in bodies.chunks(at_once).enumerate() {
            let first = self.send(&socket, kind, flags, bodies)?;
            interrupted |= self.answers(&socket, first, |at, answer| take(batch * at_once + at, answer))?;
        }
        self.socket = Some(socket);
        if interrupted { Err(Fault::Interrupted) } else { Ok(()) }
    }

    /// Sends questions as one datagram. The number of the first; that of the last is `sequence`.
    fn send(
        &mut self,
        socket: &OwnedFd,
        kind: u16,
        flags: u16,
        bodies: &[impl AsRef<[u8]>],
    ) -> Result<u32, Fault> {
        let first = self.sequence.wrapping_add(1);
        self.question.clear();
        for body in bodies.iter().map(AsRef::as_ref) {
            self.sequence = self.sequence.wrapping_add(1);
            write_header(&mut self.question, kind, NLM_F_REQUEST | flags, self.sequence, body.len());
            self.question.extend_from_slice(body);
            self.question.resize(self.question.len().next_multiple_of(4), 0);
        }
        retry_on_intr(|| net::send(socket, &self.question, SendFlags::empty())).map_err(Fault::Socket)?;
        Ok(first)
    }

    /// Reads all answers to the questions from `first` to the last; the kernel answers one after the other. True if
    /// what is listed changed meanwhile.
    fn answers(
        &mut self,
        socket: &OwnedFd,
        first: u32,
        mut take: impl FnMut(usize, Result<&[u8], Errno>) -> Result<(), Fault>,
    ) -> Result<bool, Fault> {
        let mut interrupted = false;
        let (mut asked, end) = (first, self.sequence.wrapping_add(1));
        while asked != end {
            let len = receive(socket, &mut self.buffer)?;
            for frame in Frames(&self.buffer[..len]) {
                let frame = frame?;
                if frame.sequence != asked {
                    continue;
                }
                let at = asked.wrapping_sub(first) as usize;
                interrupted |= frame.flags & NLM_F_DUMP_INTR != 0;
                let last = match frame.kind {
                    NLMSG_NOOP => false,
                    NLMSG_OVERRUN => return Err(Fault::Interrupted),
                    NLMSG_ERROR | NLMSG_DONE => {
                        if let Some(errno) = refusal(frame.payload, frame.kind == NLMSG_DONE)? {
                            take(at, Err(errno))?;
                        }
                        true
                    }
                    _ => {
                        take(at, Ok(frame.payload))?;
                        frame.flags & NLM_F_MULTI == 0
                    }
                };
                asked = asked.wrapping_add(u32::from(last));
            }
        }
        Ok(interrupted)
    }
}

/// So many that the receive buffer has room for all answers.
fn questions_at_once(socket: &OwnedFd) -> rustix::io::Result<usize> {
    Ok((socket_recv_buffer_size(socket)? / ANSWER).clamp(1, MOST_QUESTIONS))
}

fn open(protocol: Option<Protocol>) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket = net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    Ok(socket)
}

/// One datagram of the kernel.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Result<usize, Fault> {
    loop {
        let (len, from) = match retry_on_intr(|| net::recvfrom(socket, &mut *buffer, RecvFlags::TRUNC)) {
            Ok((_, len, from)) => (len, from),
            Err(Errno::NOBUFS) => return Err(Fault::Interrupted),
            Err(errno) => return Err(Fault::Socket(errno)),
        };
        // Another program may write to our socket; only the kernel has the address 0.
        let address = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
        if address.is_none_or(|address| address.pid() != 0) {
            continue;
        }
        if len > buffer.len() {
            return Err(Malformed("at most 32 KiB at a time").into());
        }
        return Ok(len);
    }
}

/// The error number in the last frame, if it is one. An error must carry it; a `DONE` of old kernels may not.
fn refusal(payload: &[u8], optional: bool) -> Result<Option<Errno>, Malformed> {
    match payload.first_chunk() {
        Some(&code) => match i32::from_ne_bytes(code) {
            code @ -4095..=-1 => Ok(Some(Errno::from_raw_os_error(-code))),
            // Lengths, not errors, are positive.
            0.. => Ok(None),
            _ => Err(Malformed("an error number from -4095 to 0")),
        },
        None if optional => Ok(None),
        None => Err(Malformed("an error number of 4 bytes")),
    }
}

fn write_header(out: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, body: usize) {
    let len = u32::try_from(HEADER + body).expect("a question is far below 4 GiB");
    out.extend_from_slice(&len.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&sequence.to_ne_bytes());
    // Our address: the kernel knows it.
    out.extend_from_slice(&[0; 4]);
}

/// Appends an attribute, padded to 4 bytes.
pub(crate) fn write_attribute(out: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    let len = u16::try_from(ATTRIBUTE_HEADER + payload.len()).expect("callers stay below 64 KiB");
    out.extend_from_slice(&len.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(payload);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// One message of a datagram.
#[derive(Debug)]
struct Frame<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

/// The messages of a datagram; ends after the first fault.
struct Frames<'a>(&'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.0);
        let Some(&[l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, _, _, _, _]) =
            bytes.first_chunk::<HEADER>()
        else {
            return Some(Err(Malformed("a header of 16 bytes")));
        };
        let len = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let Some(payload) = bytes.get(HEADER..len) else {
            return Some(Err(Malformed("a message as long as its header says")));
        };
        // The last one may lack its padding.
        self.0 = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Frame {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            payload,
        }))
    }
}

/// The attributes of a message, by kind; ends after the first fault.
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.0);
        let Some(&[l0, l1, k0, k1]) = bytes.first_chunk::<ATTRIBUTE_HEADER>() else {
            return Some(Err(Malformed("an attribute header of 4 bytes")));
        };
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let Some(payload) = bytes.get(ATTRIBUTE_HEADER..len) else {
            return Some(Err(Malformed("an attribute as long as its header says")));
        };
        self.0 = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        // The two highest bits are flags.
        Some(Ok((u16::from_ne_bytes([k0, k1]) & 0x3fff, payload)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use rustix::net::sockopt::set_socket_recv_buffer_size;

    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_header(&mut bytes, kind, 0, 7, payload.len());
        bytes.extend_from_slice(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn messages_are_read_one_after_the_other_and_need_no_padding_at_the_end() {
        let mut bytes = [message(20, b"hello"), message(21, b""), message(22, b"abc")].concat();
        bytes.pop();
        let read: Vec<_> =
            Frames(&bytes).map(|frame| frame.map(|frame| (frame.kind, frame.payload)).unwrap()).collect();
        assert_eq!(read, [(20, &b"hello"[..]), (21, b""), (22, b"abc")]);
    }

    #[test]
    fn a_message_cut_short_or_with_a_wrong_length_is_a_fault_and_the_last() {
        let whole = message(20, b"hello");
        for len in 1..HEADER + 5 {
            let mut frames = Frames(&whole[..len]);
            assert!(frames.next().unwrap().is_err(), "{len} bytes");
            assert!(frames.next().is_none(), "{len} bytes");
        }
        for wrong in [0_u32, 1, 15, 22, u32::MAX] {
            let mut bytes = whole.clone();
            bytes[..4].copy_from_slice(&wrong.to_ne_bytes());
            bytes.truncate(HEADER + 5);
            assert!(Frames(&bytes).next().unwrap().is_err(), "length {wrong}");
        }
    }

    /// Asks sock_diag for sockets of these families, of which it knows IPv4; there is none towards port 0. Returns what
    /// the kernel says, by the places of the questions.
    fn ask_for(channel: &mut Channel, families: &[u8]) -> Vec<(usize, Errno)> {
        let body = |family: &u8| {
            let mut body = [0; 56];
            body[..2].copy_from_slice(&[*family, 6]);
            body
        };
        let bodies: Vec<_> = families.iter().map(body).collect();
        let mut answers = Vec::new();
        let take = |at, answer: Result<&[u8], Errno>| {
            answers.push((at, answer.expect_err("no socket has port 0")));
            Ok(())
        };
        channel.ask_each(20, 0, &bodies, take).unwrap();
        answers
    }

    fn open_sock_diag() -> Channel {
        Channel::open(Some(net::netlink::SOCK_DIAG)).unwrap()
    }

    #[test]
    fn a_refusal_of_one_question_leaves_the_others_and_the_socket() {
        let mut channel = open_sock_diag();
        let socket = channel.socket.as_ref().map(AsRawFd::as_raw_fd);
        let mut families = [2; 3 * MOST_QUESTIONS];
        families[MOST_QUESTIONS + 1] = 255;
        for start in [1, u32::MAX - 5] {
            channel.sequence = start;
            let answers = ask_for(&mut channel, &families);
            let expected =
                |(at, family): (usize, &u8)| (at, if *family == 255 { Errno::INVAL } else { Errno::NOENT });
            assert_eq!(answers, families.iter().enumerate().map(expected).collect::<Vec<_>>());
            assert_eq!(channel.socket.as_ref().map(AsRawFd::as_raw_fd), socket, "it is not opened again");
        }
        assert_eq!(ask_for(&mut channel, &[]), []);
    }

    #[test]
    fn a_small_receive_buffer_gets_fewer_questions_at_once_and_loses_no_answer() {
        let mut channel = open_sock_diag();
        // The kernel makes the least of it that it allows.
        set_socket_recv_buffer_size(channel.socket.as_ref().unwrap(), 1).unwrap();
        assert_eq!(questions_at_once(channel.socket.as_ref().unwrap()), Ok(1));
        assert_eq!(ask_for(&mut channel, &[2; 3 * MOST_QUESTIONS]).len(), 3 * MOST_QUESTIONS);
    }

    #[test]
    fn attributes_are_read_back_and_a_cut_one_is_a_fault() {
        let mut bytes = Vec::new();
        write_attribute(&mut bytes, 11, &[1]);
        write_attribute(&mut bytes, 0x8000 | 5, b"four");
        let read: Vec<_> = Attributes(&bytes).map(Result::unwrap).collect();
        assert_eq!(read, [(11, &[1][..]), (5, b"four")]);
        for len in [1, 3, 4, 9, 15] {
            assert!(Attributes(&bytes[..len]).any(|attribute| attribute.is_err()), "{len} bytes");
        }
    }

    #[test]
    fn an_error_frame_says_what_the_kernel_said_and_must_say_something() {
        assert_eq!(refusal(&(-2_i32).to_ne_bytes(), false), Ok(Some(Errno::NOENT)));
        assert!(refusal(&i32::MIN.to_ne_bytes(), true).is_err());
        assert_eq!(refusal(&[0; 4], false), Ok(None));
        assert_eq!(refusal(&[0; 3], true), Ok(None), "DONE of an old kernel");
        assert!(refusal(&[0; 3], false).is_err());
    }
}
