//! Is a new connection needed at all?
//!
//! A [`Directory`] knows which connections are open and decides whether one of them may carry a request. It opens
//! nothing itself: on [`Decision::Open`] the caller takes a lease, connects, and tells the directory.
//!
//! | version | may carry a request for | source |
//! |---|---|---|
//! | HTTP/1.1 | its own scheme, host and port, while idle: one request at a time, nothing is pipelined | RFC 9112 s9.3 |
//! | HTTP/2, HTTP/3 | its own, while streams are left, until GOAWAY | RFC 9113 s5.1.2, s6.8; RFC 9114 s5.2 |
//! | the same over TLS | other `https` origins of the same port at the same destination ip:port, if the certificate is for their host | RFC 9113 s9.1.1, RFC 9114 s3.3, RFC 9525 s6.3 |
//! | after an ORIGIN frame | of these, the ones in the Origin Set only | RFC 8336 s2.4, RFC 9412 |
//! | after 421 (Misdirected Request) | never again that host | RFC 9110 s15.5.20, RFC 8336 s2.3 |
//!
//! All of it only inside one egress pool: a connection that left from one tenant's addresses never carries another
//! tenant's request, whatever host and address are. That is stricter than the RFCs in three places: HTTP/3 asks for no
//! equal address, `http` origins could be coalesced too, and an Origin Set may list other ports.
//!
//! Among several, the one that was opened for the origin comes before coalesced ones, and multiplexed ones before
//! HTTP/1.1. Of multiplexed ones the fullest is taken, so that the others run empty and can be closed: ports are what is
//! scarce. Of idle ones of HTTP/1.1 the one used last is taken, because its server is least likely to be closing it, and
//! the others can age. What is equal goes to the oldest.
//!
//! ```
//! use aegis_core::reuse::{CertificateNames, Config, Decision, Directory, Fit, Opened, Request, Tls, Version};
//! use aegis_core::{lease::PoolKey, net::{Origin, Protocol}};
//! use std::sync::Arc;
//!
//! let mut directory = Directory::new(Config::default());
//! let destination = Origin::new(Protocol::Tcp, "203.0.113.10:443".parse()?)?;
//! let request = |pool, origin: &str| -> aegis_core::Result<_> {
//!     Ok(Request { pool: PoolKey(pool), origin: origin.parse()?, destination })
//! };
//! let first = request(1, "https://www.acme.example")?;
//! assert_eq!(directory.decide(&first), Decision::Open);
//!
//! let names = Arc::new(CertificateNames::new(["www.acme.example", "*.acme.example"], []));
//! let tls = Some(Tls { server_name: Some("www.acme.example".parse()?), names });
//! let Request { pool, origin, .. } = first.clone();
//! let connection = directory.opened(Opened { pool, origin, destination, version: Version::Http2, tls })?;
//! directory.start(connection, &first)?;
//!
//! let second = request(1, "https://api.acme.example")?;
//! assert_eq!(directory.decide(&second), Decision::Reuse(connection, Fit::Coalesced));
//! directory.start(connection, &second)?;
//! assert_eq!(directory.decide(&request(2, "https://www.acme.example")?), Decision::Open); // another egress pool
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod certificate;
mod connection;
mod directory;
mod host;
mod report;

pub use certificate::CertificateNames;
pub use connection::{Address, Fit, Opened, Request, Tls, Version};
pub use directory::{Config, ConnectionId, Decision, Directory, UseError};
pub use host::{Host, HttpOrigin, Scheme};
pub use report::Row;
