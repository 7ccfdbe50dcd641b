use proptest::prelude::*;

use super::{Bundle, ZoneGrant};
use crate::epoch::testing::{World, any_world};
use crate::error::ErrorKind;

fn grant(zone: &str, pool: &str) -> ZoneGrant {
    ZoneGrant { zone: zone.parse().unwrap(), account: "acme".parse().unwrap(), pool: pool.parse().unwrap() }
}

fn world() -> World {
    World::new(&[&[1, 2], &[3]]).hold("192.0.2.1/32", &[0, 1]).hold("2001:db8::/64", &[])
}

fn bundle_of(world: &World, machine: &str, grants: &[ZoneGrant]) -> crate::Result<Bundle> {
    let layout = world.build(4).unwrap();
    Bundle::new(machine.parse().unwrap(), layout, &world.inventory(), grants.iter().cloned(), 256)
}

fn bundle() -> Bundle {
    bundle_of(&world(), "d0-m1", &[grant("www", "p0"), grant("api", "p1")]).unwrap()
}

#[test]
fn every_flipped_bit_and_every_truncation_is_refused() {
    let bytes = bundle().to_bytes();
    assert_eq!(Bundle::from_bytes(&bytes).unwrap(), bundle());
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Bundle::from_bytes(&bad).unwrap_err().kind(), ErrorKind::Reload, "bit {bit}");
    }
    for length in 0..bytes.len() {
        let e = Bundle::from_bytes(&bytes[..length]).unwrap_err();
        assert!(e.message().contains(&format!("truncated: it ends at byte {length}")), "{e}");
    }
    let mut longer = bytes.clone();
    longer.extend([0, 0]);
    let e = Bundle::from_bytes(&longer).unwrap_err();
    assert!(e.message().contains(&format!("2 trailing bytes from byte {} on", bytes.len())), "{e}");
}

/// The same faults with a right checksum, so that the checks behind it have to find them.
#[test]
fn every_flipped_bit_of_the_payload_is_harmless_under_a_right_checksum() {
    let bytes = bundle().to_bytes();
    for bit in 80..(bytes.len() - 4) * 8 {
        let mut other = bytes.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        sign(&mut other);
        match Bundle::from_bytes(&other) {
            Ok(read) => assert_eq!(read.to_bytes(), other, "bit {bit}: one form per value"),
            Err(e) => assert_eq!(e.kind(), ErrorKind::Reload),
        }
    }
}

fn sign(bytes: &mut [u8]) {
    let (content, checksum) = bytes.split_last_chunk_mut::<4>().map(|(c, s)| (&*c, s)).unwrap();
    *checksum = crc32fast::hash(content).to_le_bytes();
}

#[test]
fn a_foreign_newer_or_overlong_file_is_refused_by_name() {
    let bytes = bundle().to_bytes();
    let fault = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bad = bytes.clone();
        change(&mut bad);
        sign(&mut bad);
        Bundle::from_bytes(&bad).unwrap_err().to_string()
    };
    let e = fault(&|b| b[..4].copy_from_slice(b"\x7fELF"));
    assert!(e.contains(r#"bytes 0 to 3 are "\\x7fELF"; expected "AEGB""#), "{e}");
    let e = fault(&|b| b[4] = 3);
    assert!(e.contains("version 3 is newer than this library, which understands version 2"), "{e}");
    let e = fault(&|b| b[6..10].fill(0xff));
    assert!(e.contains("truncated"), "{e}");
    // The first field is the length of the machine's id: 5 as one byte, or overlong as two.
    let e = fault(&|b| {
        b.splice(10..11, [0x85, 0x00]);
        b[6] += 1;
    });
    assert!(e.contains("not in canonical form at byte 10"), "{e}");
    // A list of 2^60 grants.
    let e = fault(&|b| {
        b.splice(18..19, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]);
        b[6] += 8;
    });
    assert!(e.contains("cannot decode"), "{e}");
    let e = Bundle::from_bytes(&bundle().layout().to_bytes()).unwrap_err();
    assert!(e.message().contains("AEGL"), "{e}");
}

#[test]
fn json_is_checked_like_bytes() {
    let json = bundle().to_json();
    assert_eq!(Bundle::from_json(&json).unwrap(), bundle());
    for (from, to, words) in [
        ("\"version\": 2", "\"version\": 9", "version 9 is newer"),
        ("\"format\": \"bundle\"", "\"format\": \"layout\"", "its format is \"layout\""),
        ("\"machine\": \"d0-m1\"", "\"machine\": \"d0-m9\"", "does not know machine d0-m9"),
        ("\"machine\": \"d0-m1\"", "\"machine\": \"D0\"", "contains 'D'"),
        ("\"pool\": \"p0\"", "\"pool\": \"p9\"", "zone www may leave from pool p9, which does not exist"),
        ("\"v6_addresses\": 256", "\"v6_addresses\": 4000000000", "4000000000 IPv6 addresses"),
        ("\"v6_addresses\": 256", "\"v6_addresses\": 256, \"x\": 0", "unknown field `x`"),
        ("\"zone\": \"api\"", "\"zone\": \"zz\"", "zone www is out of order (after zz)"),
        ("\"192.0.2.1/32\",\n", "\"192.0.2.3/32\",\n", "has no address state"),
        (
            "\"address\": \"192.0.2.1\"",
            "\"address\": \"192.0.2.2\"",
            "has 192.0.2.1, which the layout of epoch 4",
        ),
        ("\"192.0.2.1/32\"", "\"0.0.0.0/0\"", "has 0.0.0.0, which the layout"),
        ("\"active\"", "\"live\"", "unknown variant `live`"),
    ] {
        assert!(json.contains(from), "{from}: {json}");
        let e = Bundle::from_json(&json.replace(from, to)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Reload);
        assert!(e.message().contains(words), "{to}: {e}");
    }
    assert!(Bundle::from_json("{").unwrap_err().message().contains("line 1"));
}

#[test]
fn a_bundle_of_things_that_do_not_belong_together_is_refused() {
    let e = bundle_of(&world(), "nobody", &[]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Input);
    assert!(e.message().contains("the layout of epoch 4 does not know machine nobody"), "{e}");
    let e = bundle_of(&world(), "d0-m0", &[grant("www", "p7")]).unwrap_err();
    assert!(e.message().contains("zone www may leave from pool p7"), "{e}");
    let e = bundle_of(&world(), "d0-m0", &[grant("www", "p0"), grant("www", "p1")]).unwrap_err();
    assert!(e.message().contains("zone www is there twice"), "{e}");
    let newer = world().hold("192.0.2.9/32", &[0]);
    let layout = world().build(4).unwrap();
    let e = Bundle::new("d0-m0".parse().unwrap(), layout, &newer.inventory(), [], 256).unwrap_err();
    assert!(e.message().contains("pool p2: 192.0.2.9/32 has 192.0.2.9, which the layout"), "{e}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn both_forms_read_back_to_equal_bundles(world in any_world()) {
        let grants: Vec<_> = world.pools.iter().map(|p| grant(&format!("z-{}", p.id), p.id.as_str())).collect();
        let bundle = bundle_of(&world, "d0-m0", &grants).unwrap();
        prop_assert_eq!(&Bundle::from_bytes(&bundle.to_bytes()).unwrap(), &bundle);
        prop_assert_eq!(&Bundle::from_json(&bundle.to_json()).unwrap(), &bundle);
        let mut turned = grants.clone();
        turned.reverse();
        prop_assert_eq!(bundle_of(&world, "d0-m0", &turned).unwrap().to_bytes(), bundle.to_bytes());
    }

    #[test]
    fn no_bytes_panic(payload: Vec<u8>) {
        let mut bytes = b"AEGB\x01\x00".to_vec();
        bytes.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
        bytes.extend(payload);
        bytes.extend([0; 4]);
        sign(&mut bytes);
        prop_assert_eq!(Bundle::from_bytes(&bytes).unwrap_err().kind(), ErrorKind::Reload);
    }
}
