use super::*;
use crate::epoch::Layout;
use crate::epoch::testing::World;
use crate::epoch::testing_handovers::{any_moving_layout, with_moves};
use crate::slices::{Cut, GranuleSize};
use crate::snapshot::Published;
use proptest::prelude::*;

/// A few hundred bytes with something in every section.
fn small() -> Image {
    let mut world = World::new(&[&[1, 1], &[1]])
        .hold("192.0.2.1/32", &[0, 1])
        .hold("198.51.100.7/32", &[0, 1])
        .hold("203.0.113.9/32", &[0])
        .hold("2001:db8::/64", &[])
        .hold("2001:db8:5::/48", &[]);
    world.policy.cut = Cut::new(GranuleSize::new(16_384).unwrap(), "1-65535".parse().unwrap(), []).unwrap();
    let moves = vec![(0, 0, 4, 0, 77), (0, 1, 0, 1, 0), (1, 2, 2, 0, 0), (1, 2, 4, 0, 9), (2, 0, 250, 0, 0)];
    let image = Image::new(&Table::new(&with_moves(&world.build(5).unwrap(), &moves)));
    assert!(image.sections.iter().all(|section| section.1 > 0), "{:?}", image.sections);
    image
}

/// More than a MiB, in one block.
fn large() -> Image {
    let world = World::new(&[&[1; 20], &[2; 11]]).hold("198.18.0.0/19", &[0, 1]).hold("2001:db8::/64", &[]);
    let moves = vec![(0, 0, 4, 0, 77), (0, 1, 0, 1, 0), (1, 2, 2, 0, 0)];
    let image = Image::new(&Table::new(&with_moves(&world.build(5).unwrap(), &moves)));
    assert!(image.as_bytes().len() >= 1 << 20, "{}", image.as_bytes().len());
    image
}

fn signed(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.len() - CHECKSUM;
    let checksum = crc32fast::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Whatever is accepted answers without a panic, with machines that exist, and never twice the same for one port.
fn is_consistent(image: &Image) {
    let machines = image.sections[MACHINES].1;
    let v4 = image.words(ADDRESSES).chain([image.u32_at(V4_INDEX + 16)]).take(64);
    let v4 = v4.flat_map(|key| [key.wrapping_sub(1), key, key.wrapping_add(1)]).map(Ipv4Addr::from_bits);
    let v6 =
        ["2001:db8::1:1:0:1", "2001:db8:5:9:2:1:0:1", "::", "::ffff:192.0.2.1"].map(|ip| ip.parse().unwrap());
    for ip in v4.map(IpAddr::V4).chain(v6) {
        for port in (0..=u16::MAX).step_by(257).chain([77, 16_384 + 77, 49_152 + 9, u16::MAX]) {
            let (first, second) = (image.owner(ip, port), image.second_owner(ip, port));
            assert!(first.is_none() || first != second, "{ip} {port}");
            assert!([first, second].iter().flatten().all(|owner| owner.machine.get() < machines));
        }
    }
}

#[test]
fn every_flipped_bit_and_every_truncation_leaves_the_old_image_in_force() {
    let image = small();
    let mut old = image.as_bytes().to_vec();
    old[8..16].copy_from_slice(&4_u64.to_le_bytes());
    let published = Published::new(Image::from_bytes(signed(old)).unwrap());
    let bytes = image.as_bytes();
    let mut refused = 0;
    let mut refuse = |bytes: Vec<u8>| {
        let e = Image::from_bytes(bytes).map(|image| published.publish(image).map(drop)).unwrap_err();
        assert!(e.kind() == ErrorKind::Reload && e.message().starts_with("not a valid table image: "), "{e}");
        refused += 1;
    };
    for length in 0..bytes.len() {
        refuse(bytes[..length].to_vec());
    }
    for bit in 0..8 * bytes.len() {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        refuse(flipped);
    }
    refuse([bytes, &[0]].concat());
    assert_eq!(refused, 9 * bytes.len() + 1);
    assert_eq!(published.load().epoch(), Epoch::new(4));
    published.publish(image).unwrap();
    assert_eq!(published.load().epoch(), Epoch::new(5));
}

#[test]
fn every_flipped_bit_under_a_right_checksum_is_refused_or_means_something() {
    let image = small();
    let bytes = image.as_bytes();
    let mut accepted = 0;
    for bit in 0..8 * (bytes.len() - CHECKSUM) {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(image) = Image::from_bytes(signed(flipped)) {
            is_consistent(&image);
            accepted += 1;
        }
    }
    for length in 0..bytes.len() {
        let cut = bytes[..length].to_vec();
        assert!(Image::from_bytes(if length < CHECKSUM { cut } else { signed(cut) }).is_err(), "{length}");
    }
    // The epoch has 64 bits; others say whose a granule is, which ports stayed behind, where a machine is.
    assert!((64..8 * bytes.len() / 8).contains(&accepted), "{accepted}");
}

#[test]
fn random_damage_of_a_large_image_is_refused() {
    let image = large();
    let bytes = image.as_bytes();
    assert_eq!(Image::from_bytes(bytes).unwrap(), image);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |n: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % n as u64) as usize
    };
    let mut damaged = bytes.to_vec();
    for _ in 0..1_000 {
        let bit = below(8 * bytes.len());
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Image::from_bytes(damaged.as_slice()).is_err(), "bit {bit}");
        damaged[bit / 8] ^= 1 << (bit % 8);
        let length = below(bytes.len());
        assert!(Image::from_bytes(&bytes[..length]).is_err(), "{length} bytes");
    }
    for _ in 0..40 {
        let mut damaged = bytes.to_vec();
        for _ in 0..=below(3) {
            damaged[below(bytes.len())] = below(256) as u8;
        }
        if let Ok(image) = Image::from_bytes(signed(damaged)) {
            is_consistent(&image);
        }
    }
}

fn answers_as(image: &Image, table: &Table, layout: &Layout) -> Result<(), TestCaseError> {
    let near = |bits: u32| [-1, 0, 1].map(|n| Ipv4Addr::from_bits(bits.wrapping_add_signed(n)));
    let v4 = layout.rows().iter().flat_map(|row| near(row.address().to_bits()));
    for ip in v4.map(IpAddr::V4) {
        for port in 0..=u16::MAX {
            let (owner, second) = (table.owner(ip, port), table.second_owner(ip, port));
            prop_assert_eq!((image.owner(ip, port), image.second_owner(ip, port)), (owner, second));
            prop_assert_eq!((layout.owner(ip, port), layout.second_owner(ip, port)), (owner, second));
        }
    }
    let fields = (0..8_u128).flat_map(|d| (0..14_u128).map(move |m| d << 48 | m << 32));
    for network in ["2001:db8:0:1::", "2001:db8:0:2::", "2001:db8:1:9::", "2001:db8:2::"] {
        let network: Ipv6Addr = network.parse().unwrap();
        for bits in fields.clone().flat_map(|fields| [fields, fields | 1]) {
            let ip = IpAddr::V6(Ipv6Addr::from_bits(network.to_bits() | bits));
            for port in [0, 1, 65_535] {
                prop_assert_eq!(image.owner(ip, port), table.owner(ip, port), "{}", ip);
                prop_assert_eq!(image.owner(ip, port), layout.owner(ip, port), "{}", ip);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn image_table_and_layout_agree_on_every_port(layout in any_moving_layout(9)) {
        let table = Table::new(&layout);
        let image = Image::new(&table);
        prop_assert_eq!(image.epoch(), layout.epoch());
        prop_assert_eq!(Image::from_bytes(image.as_bytes()), Ok(image.clone()));
        answers_as(&image, &table, &layout)?;
    }
}

#[test]
fn the_image_of_nothing_is_an_image() {
    let layout = World::new(&[]).build(1).unwrap();
    let image = Image::new(&Table::new(&layout));
    assert_eq!(Image::from_bytes(image.as_bytes()), Ok(image.clone()));
    assert_eq!(image.owner("192.0.2.1".parse().unwrap(), 4_096), None);
    assert_eq!(image.owner("2001:db8::1:1:0:1".parse().unwrap(), 4_096), None);
}
