//! Aegis Egress, the model: dedicated egress addresses that many machines share by slices of their ports.
//!
//! ```text
//! fleet file --> layout (who owns which ports, one epoch) --> bundle (what one machine needs of it)
//!                   |                                            |
//!                   v                                            v
//!        soft-unicast table: (ip, port) -> owner      edge: worker -> lease (source ip:port) -> release
//!                                                              usage: live, held, peak, refused
//! ```
//!
//! This crate is pure: no sockets, files, clocks, threads or locks. Time and randomness are arguments; results come
//! back by value. `aegis-net` has the sockets.
//!
//! ```
//! use aegis_core::{edge::Edge, epoch::Epoch, fleet_file::FleetFile, lease::{Closed, Config}};
//! use aegis_core::{net::{Origin, Protocol}, time::Time};
//!
//! let fleet = FleetFile::parse("fleet.toml", include_str!("../examples/fleet.toml"))?;
//! let layout = fleet.layout(None, Epoch::new(1))?;
//! let bundle = fleet.bundle(&"fra-m01".parse()?, &layout)?;
//!
//! let edge = Edge::new(&bundle, Config::default(), [7; 32])?; // a secret seed outside of examples
//! let zone = edge.zone(&"www.acme.example".parse()?)?;
//! let mut worker = edge.worker([8; 32])?;
//!
//! let origin = Origin::new(Protocol::Tcp, "203.0.113.10:443".parse()?)?;
//! let lease = worker.acquire(&zone, &origin, Time::ZERO)?;
//! let source = edge.source(&lease)?; // bind here, connect to the origin
//! let owner = edge.owner(source.ip(), source.port()).expect("a leased port has an owner");
//! assert_eq!(edge.owners().machine_id(owner.machine), Some(edge.machine()));
//! edge.release(lease, Closed::Passive, Time::from_millis(1_500))?; // after close()
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | question it answers |
//! |---|---|
//! | [`limits`] [`id`] [`time`] [`error`] [`sync`] | numbers, names, time, errors and atomics, each in one place |
//! | [`snapshot`] | what is in force now, for readers that never wait? |
//! | [`net`] | what is an address, a port range, an origin? |
//! | [`fleet`] | which places and machines exist? |
//! | [`inventory`] | which addresses exist, by what right? |
//! | [`tenancy`] | who may use them? |
//! | [`fleet_file`] | what has the operator written down? |
//! | [`slices`] | how is one address cut up? |
//! | [`epoch`] | who owns which ports, in which epoch? |
//! | [`lease`] | which source may this connection take? |
//! | [`soft_unicast`] | whose packet is this? |
//! | [`exit`] | where should it leave? |
//! | [`usage`] | what was used? |
//! | [`capacity`] | how full is it, and who must know? |
//! | [`reuse`] | is a new connection needed at all? |
//! | [`plan`] | how many addresses does it take, where, and what would a day be like? |
//! | [`render`] | what must other systems be told? |
//! | [`bundle`] | what must one machine be told? |
//! | [`edge`] | what does one machine hold? |

#![forbid(unsafe_code)]

pub mod bundle;
pub mod capacity;
pub mod edge;
pub mod epoch;
pub mod error;
pub mod exit;
pub mod fleet;
pub mod fleet_file;
pub mod id;
pub mod inventory;
pub mod lease;
pub mod limits;
pub mod net;
pub mod plan;
pub mod render;
pub mod reuse;
pub mod slices;
pub mod snapshot;
pub mod soft_unicast;
pub mod sync;
pub mod tenancy;
pub mod time;
pub mod usage;

pub use error::{Error, ErrorKind, Result};
