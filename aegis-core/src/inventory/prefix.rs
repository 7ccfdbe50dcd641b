//! What may a prefix be? One spelling per block, and only blocks that a packet can come from.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Blocks that no connection can leave from. Loopback is not among them: a fleet on one host uses it.
const NO_SOURCE: [(IpNet, &str); 5] = [
    (IpNet::new_assert(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8), "unspecified"),
    (IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4), "multicast"),
    (IpNet::new_assert(IpAddr::V4(Ipv4Addr::BROADCAST), 32), "broadcast"),
    (IpNet::new_assert(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 128), "unspecified"),
    (IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8), "multicast"),
];

/// The one spelling of a prefix: a block of IPv4-mapped IPv6 addresses is the IPv4 block.
///
/// # Errors
/// Host bits are set; says what was probably meant.
pub(crate) fn canonical(prefix: IpNet) -> Result<IpNet, String> {
    let canonical = match prefix.addr().to_canonical() {
        IpAddr::V4(address) if prefix.max_prefix_len() == 128 && prefix.prefix_len() >= 96 => {
            IpNet::new_assert(IpAddr::V4(address), prefix.prefix_len() - 96)
        }
        _ => prefix,
    };
    if canonical.trunc() != canonical {
        let (block, address) = (canonical.trunc(), IpNet::from(canonical.addr()));
        return Err(format!(
            "{prefix} has host bits set; write {block} for the block or {address} for the address"
        ));
    }
    Ok(canonical)
}

/// The kind of addresses in `prefix` that no connection can leave from, if there are any.
pub(crate) fn no_source(prefix: IpNet) -> Option<&'static str> {
    NO_SOURCE.iter().find(|(block, _)| overlap(*block, prefix)).map(|&(_, kind)| kind)
}

/// Do the two blocks share an address? (Blocks without host bits are nested or disjoint.)
pub(crate) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_block_is_the_v4_block_and_never_a_second_identity() {
        let of = |text: &str| canonical(text.parse().unwrap());
        assert_eq!(of("::ffff:192.0.2.0/120").unwrap().to_string(), "192.0.2.0/24");
        assert_eq!(of("192.0.2.0/24").unwrap().to_string(), "192.0.2.0/24");
        assert_eq!(of("2001:db8::/64").unwrap().to_string(), "2001:db8::/64");
        let e = of("192.0.2.1/24").unwrap_err();
        assert!(e.contains("192.0.2.0/24 for the block or 192.0.2.1/32 for the address"), "{e}");
        assert!(of("::ffff:192.0.2.1/120").is_err());
        assert!(of("::ffff:192.0.2.1/64").is_err());
    }

    #[test]
    fn blocks_that_no_packet_comes_from_are_known_at_every_size() {
        let of = |text: &str| no_source(text.parse().unwrap());
        assert_eq!(of("0.0.0.0/0"), Some("unspecified"));
        assert_eq!(of("0.1.0.0/24"), Some("unspecified"));
        assert_eq!(of("192.0.0.0/2"), Some("multicast"));
        assert_eq!(of("239.1.2.3/32"), Some("multicast"));
        assert_eq!(of("255.255.255.255/32"), Some("broadcast"));
        assert_eq!(of("255.255.255.0/24"), Some("broadcast"));
        assert_eq!(of("::/64"), Some("unspecified"));
        assert_eq!(of("ff02::/64"), Some("multicast"));
        for fine in ["127.66.0.0/24", "192.0.2.0/24", "2001:db8::/64", "fd00::/64"] {
            assert_eq!(of(fine), None, "{fine}");
        }
    }
}
