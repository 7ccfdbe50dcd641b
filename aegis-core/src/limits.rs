//! Every number of the field, each in one place.

/// Granule size when nothing else is configured: 2,048 ports (31 usable granules per address).
pub const DEFAULT_GRANULE_PORTS: u32 = 2_048;

/// Smallest granule that may be configured.
pub const MIN_GRANULE_PORTS: u32 = 64;

/// Largest granule that may be configured.
pub const MAX_GRANULE_PORTS: u32 = 32_768;

/// How many data centers may announce one IPv4 address when nothing else is configured.
pub const DEFAULT_DATA_CENTERS_PER_ADDRESS: u8 = 4;

/// Recommended concurrent connections per egress IP and origin ip:port. It is a setting of its own: it is *not*
/// derived from [`PLANNING_FRACTION_PERCENT`].
pub const RECOMMENDED_CONNECTIONS: u32 = 40_000;

/// Plan for this percentage of the ports provisioned. It is a setting of its own: see
/// [`RECOMMENDED_CONNECTIONS`].
pub const PLANNING_FRACTION_PERCENT: u32 = 80;

/// How long an alarm stays raised at least when nothing else is configured, in seconds.
pub const DEFAULT_ALARM_HOLD_SECONDS: u32 = 300;

/// Connections that one directory of open connections holds when nothing else is configured.
pub const DEFAULT_OPEN_CONNECTIONS: usize = 1 << 20;

/// HTTP origins whose requests a directory counts apart from the others when nothing else is configured.
pub const DEFAULT_COUNTED_ORIGINS: usize = 1 << 16;

/// Streams that an HTTP/2 or HTTP/3 server is taken to allow before it has said how many: the least that RFC 9113 s6.5.2
/// and RFC 9114 s6.1 recommend.
pub const STREAMS_BEFORE_SETTINGS: u32 = 100;

/// Origins that one connection's server may list (RFC 8336 s4 asks for a bound).
pub const MAX_ORIGIN_SET: usize = 1_024;

/// Hosts that one connection's server may send away (421) before no others are tried with it.
pub const MAX_MISDIRECTED_HOSTS: usize = 64;

/// The longest IPv4 prefix that the Internet routes: a BYOIP block may not be longer.
pub const LONGEST_ROUTED_V4: u8 = 24;

/// The longest IPv6 prefix that an IPv6 holding may have.
pub const LONGEST_V6_HOLDING: u8 = 64;

/// How many IPv4 addresses the pools of one inventory may hold together: each has a row in every table, so that a
/// slip such as `/8` for `/28` is refused before it is paid for.
pub const MAX_POOLED_V4: u32 = 65_536;

/// IPv6 source addresses that one machine uses of its block when nothing else is configured.
pub const DEFAULT_V6_ADDRESSES: u32 = 256;

/// Granules (of all addresses together) that one layout may have: 65,536 addresses in granules of 64 ports. It bounds
/// memory, and keeps the byte form far below the 4 GiB that its length field can say.
pub const MAX_GRANULES_PER_LAYOUT: usize = 1 << 26;

/// Most IPv6 source addresses that one machine may use of its block.
pub const MAX_V6_ADDRESSES: u32 = 65_536;
