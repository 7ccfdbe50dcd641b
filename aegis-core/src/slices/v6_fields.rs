use core::net::Ipv6Addr;
use core::num::{NonZeroU16, NonZeroU32};

use ipnet::Ipv6Net;

/// What the 64 host bits of an egress address in a `/64` say: whose address it is.
///
/// ```text
/// bit 64               80             96                            127
///     | data center 16 | machine 16   | host 32                       |
/// ```
/// No field is ever 0, so the addresses with a meaning of their own (the subnet-router anycast address of RFC 4291
/// section 2.6.1 is all zeros) belong to nobody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct V6Fields {
    /// Number of the data center.
    pub data_center: NonZeroU16,
    /// Number of the machine in its data center.
    pub machine: NonZeroU16,
    /// Which of the machine's addresses, from 1.
    pub host: NonZeroU32,
}

impl V6Fields {
    /// The address with these fields in the first `/64` of `prefix`. Of a prefix longer than `/64` only the first 64
    /// bits count.
    pub fn compose(self, prefix: Ipv6Net) -> Ipv6Addr {
        let network = prefix.network().to_bits() >> 64 << 64;
        let fields = u128::from(self.data_center.get()) << 48
            | u128::from(self.machine.get()) << 32
            | u128::from(self.host.get());
        Ipv6Addr::from_bits(network | fields)
    }

    /// The fields of `address`; none if one of them is 0.
    pub fn parse(address: Ipv6Addr) -> Option<Self> {
        let [.., data_center, machine, high, low] = address.segments();
        Some(Self {
            data_center: NonZeroU16::new(data_center)?,
            machine: NonZeroU16::new(machine)?,
            host: NonZeroU32::new(u32::from(high) << 16 | u32::from(low))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_fields_are_read_at_their_places() {
        let address: Ipv6Addr = "2001:db8:0:1:2:11:a:b".parse().unwrap();
        let fields = V6Fields::parse(address).unwrap();
        assert_eq!((fields.data_center.get(), fields.machine.get(), fields.host.get()), (2, 0x11, 0xa_000b));
        assert_eq!(fields.compose("2001:db8:0:1::/64".parse().unwrap()), address);
        for nobody in
            ["2001:db8::", "2001:db8::1", "2001:db8::1:0:1", "2001:db8::1:0:0:1", "2001:db8::1:1:0:0"]
        {
            assert_eq!(V6Fields::parse(nobody.parse().unwrap()), None, "{nobody}");
        }
    }

    proptest! {
        #[test]
        fn parse_reads_what_compose_wrote(network: u64, d: NonZeroU16, m: NonZeroU16, h: NonZeroU32) {
            let fields = V6Fields { data_center: d, machine: m, host: h };
            let prefix = Ipv6Net::new(Ipv6Addr::from_bits(u128::from(network) << 64), 64).unwrap();
            let address = fields.compose(prefix);
            prop_assert!(prefix.contains(&address));
            prop_assert_eq!(V6Fields::parse(address), Some(fields));
        }
    }
}
