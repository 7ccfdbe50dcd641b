//! Sockets that leave from leased egress ports, and give their lease back.
//!
//! ```text
//! zone, origin -> Dialer: lease -> socket, bind, connect -> TcpStream / UdpSocket -> drop: close, then release
//!                    ^                        |
//!                    +---- another lease <----+  a stranger on this host has the port: parked
//! ```
//!
//! A wrong socket option silently breaks soft-unicast: the connection leaves from a port whose answers go to another
//! machine. So this crate is the only one that makes system calls on sockets, and it makes them by one
//! [recipe](recipe::begin), for Linux. (Every address of 127/8 is local there, so this example runs as it is.)
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpListener;
//! use std::sync::Arc;
//!
//! use aegis_core::{edge::Edge, epoch::Epoch, fleet_file::FleetFile, lease::Config};
//! use aegis_net::{Dialer, clock};
//!
//! let fleet = r#"
//!     data_center = [{ id = "fra", city = "Frankfurt", latitude = 50.11, longitude = 8.68 }]
//!     machine = [{ id = "fra-m01", data_center = "fra" }]
//!     account = [{ id = "acme", name = "Acme" }]
//!     holding = [{ id = "h", account = "acme", right = "leased", prefix = "127.66.0.1/32", data_centers = ["fra"] }]
//!     pool = [{ id = "p", account = "acme", prefixes = ["127.66.0.1/32"] }]
//!     zone = [{ id = "www.acme.example", account = "acme", pool = "p" }]
//! "#;
//! let fleet = FleetFile::parse("fleet.toml", fleet)?;
//! let layout = fleet.layout(None, Epoch::new(1))?;
//! let bundle = fleet.bundle(&"fra-m01".parse()?, &layout)?;
//!
//! let edge = Edge::new(&bundle, Config::default(), clock::seed()?)?;
//! let zone = edge.zone(&"www.acme.example".parse()?)?;
//! let dialer = Dialer::new(Arc::new(edge))?;
//!
//! let origin = TcpListener::bind("127.0.0.1:0")?;
//! let mut stream = dialer.connect(&zone, origin.local_addr()?)?;
//! let (mut accepted, seen) = origin.accept()?;
//! assert_eq!(seen, stream.source(), "it comes from 127.66.0.1, from a port of this machine");
//!
//! stream.write_all(b"hello")?;
//! accepted.read_exact(&mut [0; 5])?;
//! drop(accepted);
//! drop(stream); // The origin has closed first: nothing is held back.
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | what is in it |
//! |---|---|
//! | [`Dialer`] | leases, opens, and goes on with another lease where a stranger has the port |
//! | [`TcpStream`], [`UdpSocket`] | blocking sockets; when dropped they close first, then give the lease back |
//! | `tokio` | the same sockets for async code (feature `tokio`) |
//! | [`ConnectError`] | why there is no connection, and what to do |
//! | [`recipe`] | how a socket is opened, at a leased port or range, for those who bring their own event loop |
//! | [`Shared`] | memory of a lease table that several processes have |
//! | [`Process`] | which process is it, and does it still live? |
//! | [`Sweeper`], [`SweeperThread`] | ends holds of which the kernel has nothing any more, recovers what dead processes had |
//! | [`ForkGuard`] | is this a forked child? |
//! | [`check`] | is this machine fit to lease from its shares? |
//! | [`sock_diag`] | which sockets does the kernel have, TIME_WAIT included? |
//! | [`clock`] | the time and the seeds that `aegis-core` takes as arguments |

pub mod check;
pub mod clock;
mod dialer;
mod error;
mod fork;
mod leased;
mod netlink;
mod process;
mod ranges;
pub mod recipe;
mod shared;
pub mod sock_diag;
mod sockopt;
mod sweeper;
mod tcp;
mod tcp_state;
#[cfg(feature = "tokio")]
pub mod tokio;
mod udp;
mod waiting;
mod workers;

pub use dialer::Dialer;
pub use error::ConnectError;
pub use fork::ForkGuard;
pub use process::Process;
pub use shared::Shared;
pub use sweeper::{RecoveredAll, SweepReport, Sweeper, SweeperThread, Swept};
pub use tcp::TcpStream;
pub use udp::UdpSocket;

/// The README's Rust example is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
