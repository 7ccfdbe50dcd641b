use core::fmt::Write as _;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aegis_core::epoch::{Epoch, Layout, LayoutPolicy};
use aegis_core::fleet::Fleet;
use aegis_core::inventory::Inventory;
use aegis_core::soft_unicast::{Image, Table};

use crate::input::Input;

/// The bytes of a table's image, as they are and again under a right length and checksum, so that the fuzzer reaches
/// what lies behind them. Whatever is accepted answers, and is written in one way.
pub fn image(input: &[u8]) {
    accept(input);
    if input.len() >= 24 + 4 {
        let mut bytes = input.to_vec();
        let length = (bytes.len() as u64).to_le_bytes();
        bytes[..6].copy_from_slice(b"AEGT\x01\x00");
        bytes[16..24].copy_from_slice(&length);
        let (content, checksum) = bytes.split_last_chunk_mut::<4>().expect("it is longer");
        *checksum = crc32fast::hash(content).to_le_bytes();
        accept(&bytes);
    }
}

fn accept(bytes: &[u8]) {
    let Ok(image) = Image::from_bytes(bytes) else { return };
    assert_eq!(image.as_bytes(), bytes);
    // Wherever the sections are: every word of the image, and its neighbours, may be an address.
    let words = bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")));
    let v4 = words.clone().flat_map(|word| [word.wrapping_sub(1), word, word.wrapping_add(1)]);
    let v4 = v4.take(1_000).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)));
    let halves = bytes.chunks_exact(8).map(|half| u64::from_le_bytes(half.try_into().expect("eight bytes")));
    let v6 = halves.take(300).flat_map(|high| {
        let numbers = [(1, 1), (1, 2), (2, 1), (9, 9)];
        numbers.map(|(d, m)| IpAddr::V6(Ipv6Addr::from_bits(u128::from(high) << 64 | d << 48 | m << 32 | 1)))
    });
    for ip in v4.chain(v6) {
        for port in [0, 1, 2_048, 16_461, 40_000, 65_535] {
            let (owner, second) = (image.owner(ip, port), image.second_owner(ip, port));
            assert!(owner.is_none() || owner != second, "{ip} {port}: passed on to the one who has it");
        }
    }
}

/// A layout made of small decisions, in which something moves: table, batches and image answer as the layout does.
pub fn lookup(input: &[u8]) {
    let input = &mut Input(input);
    let text = layout_text(input);
    let layout =
        Layout::from_json(&text).unwrap_or_else(|e| panic!("the decisions keep the rules: {e}: {text}"));
    let table = Table::new(&layout);
    let image = Image::from_bytes(Image::new(&table).as_bytes()).expect("what was written can be read");
    let near = |bits: u32| [-1, 0, 1].map(|n| IpAddr::V4(Ipv4Addr::from_bits(bits.wrapping_add_signed(n))));
    let mut ips: Vec<IpAddr> = layout.rows().iter().flat_map(|row| near(row.address().to_bits())).collect();
    for machine in layout.machines() {
        ips.extend(layout.v6_addresses_of(&machine.id, 1).map(IpAddr::V6));
    }
    ips.extend(
        ["2001:db8::9:9:0:1", "::", "::1:1:0:1", "2001:db8::1:0:0:1"]
            .map(|ip| ip.parse::<IpAddr>().expect("an address")),
    );
    let step = 1 << layout.cut().granule().shift().min(9);
    let held_out = layout.handovers().holdouts().iter().flat_map(|h| [h.port, h.port ^ 1]);
    let ports: Vec<u16> = (0..=u16::MAX).step_by(step).chain(held_out).chain([1, 77, u16::MAX]).collect();
    for ip in ips {
        let packets: Vec<_> = ports.iter().map(|port| (ip, *port)).collect();
        let mut owners = vec![None; packets.len()];
        table.owners(&packets, &mut owners).expect("slices of one length");
        if let IpAddr::V4(ip) = ip {
            let packets: Vec<_> = ports.iter().map(|port| (ip, *port)).collect();
            let mut machines = vec![None; packets.len()];
            table.owners_v4(&packets, &mut machines).expect("slices of one length");
            assert!(machines.iter().zip(&owners).all(|(m, o)| *m == o.map(|o| o.machine)), "{ip}");
        }
        for (port, batch) in ports.iter().zip(owners) {
            let owner = layout.owner(ip, *port);
            assert_eq!([batch, table.owner(ip, *port), image.owner(ip, *port)], [owner; 3], "{ip} {port}");
            let second = layout.second_owner(ip, *port);
            assert_eq!(
                [table.second_owner(ip, *port), image.second_owner(ip, *port)],
                [second; 2],
                "{ip} {port}"
            );
        }
    }
}

/// The JSON of a layout: up to 3 data centers of up to 5 machines, up to 20 addresses in a block or far apart.
fn layout_text(input: &mut Input<'_>) -> String {
    let shift = input.pick(&[12, 11, 13, 14]);
    let granules = 0x1_0000_usize >> shift;
    let sites = 1 + input.below(3);
    let machines = 1 + input.below(5);
    let stride = input.pick(&[1, 2, 256, 0x0101_0101_u32]);
    let mut addresses: Vec<u32> = (0..input.below(20) as u32)
        .map(|nth| 0xc000_0200_u32.wrapping_add(nth.wrapping_mul(stride)))
        .collect();
    addresses.sort_unstable();
    let mut owners = vec![vec![None; granules]; addresses.len()];
    for row in &mut owners {
        let repeat = 1 + input.below(5);
        let mut owner = None;
        // The first granule is reserved.
        for (granule, cell) in row.iter_mut().enumerate().skip(1) {
            if granule % repeat == 0 {
                owner = Some(input.below(sites * machines + 1)).filter(|owner| *owner < sites * machines);
            }
            *cell = owner;
        }
    }
    let row = |(address, owners): (&u32, &Vec<Option<usize>>)| {
        let owner = |owner: &Option<usize>| owner.map_or("null".into(), |owner| owner.to_string());
        let (ip, owners) = (Ipv4Addr::from_bits(*address), owners.iter().map(owner).collect::<Vec<_>>());
        let sites = (0..sites).map(|site| site.to_string()).collect::<Vec<_>>().join(",");
        format!(r#"{{"address":"{ip}","data_centers":[{sites}],"owners":[{}]}}"#, owners.join(","))
    };
    let rows: Vec<String> = addresses.iter().zip(&owners).map(row).collect();

    // (address, granule or port, text): the lists are in order, and a place is in each of them once.
    let mut lists: [Vec<(u32, usize, String)>; 3] = Default::default();
    for _ in 0..if addresses.is_empty() { 0 } else { input.below(40) } {
        let nth = input.below(addresses.len());
        let (address, ip) = (addresses[nth], Ipv4Addr::from_bits(addresses[nth]));
        let granule = 1 + input.below(granules - 1);
        let (owner, machine) = (owners[nth][granule], input.below(sites * machines));
        // Nothing moves to where it is already, and what is nobody's leaves nobody.
        let what = input.below(4);
        if owner == Some(machine) || (what < 2 && owner.is_none()) {
            continue;
        }
        let (list, at, text) = match what {
            0 => {
                (0, granule, format!(r#"{{"address":"{ip}","granule":{granule},"to":{machine},"since":2}}"#))
            }
            1 => (0, granule, format!(r#"{{"address":"{ip}","granule":{granule},"to":null,"since":2}}"#)),
            2 => {
                let port = (granule << shift) + input.below(256);
                (1, port, format!(r#"{{"address":"{ip}","port":{port},"machine":{machine},"since":1}}"#))
            }
            _ => {
                let departure = input.pick(&["handedover", "died"]);
                let text = format!(
                    r#"{{"address":"{ip}","granule":{granule},"machine":{machine},"departure":"{departure}","since":2}}"#
                );
                (2, granule, text)
            }
        };
        lists[list].push((address, at, text));
    }
    let [draining, holdouts, previous] = lists.map(|mut list| {
        list.sort();
        list.dedup_by_key(|item| (item.0, item.1));
        list.into_iter().map(|item| item.2).collect::<Vec<_>>().join(",")
    });

    let mut text = String::new();
    let site = |nth| format!(r#"{{"id":"d{nth}","number":{},"last_machine_number":99}}"#, 1 + 3 * nth);
    let machine = |nth: usize| {
        let (site, number) = (nth / machines, 1 + nth % machines * 7);
        format!(r#"{{"id":"m{nth:02}","data_center":{site},"number":{number},"standing":"serving"}}"#)
    };
    write!(
        text,
        r#"{{"format":"layout","version":{},"content":{{"epoch":3,
        "cut":{{"granule":{},"usable":"1-65535","reserved":[]}},"data_centers_per_address":9,
        "data_centers":[{}],"last_data_center_number":99,"machines":[{}],"rows":[{}],"v6_prefixes":["2001:db8::/64","2001:db8:0:7::/64"],
        "handovers":{{"draining":[{draining}],"holdouts":[{holdouts}],"previous":[{previous}]}}}}}}"#,
        version(),
        1 << shift,
        (0..sites).map(site).collect::<Vec<_>>().join(","),
        (0..sites * machines).map(machine).collect::<Vec<_>>().join(","),
        rows.join(","),
    )
    .expect("a String takes everything");
    text
}

/// The version of the layout's form that is read now.
fn version() -> String {
    let fleet = Fleet::new(Vec::new(), Vec::new()).expect("nothing is a fleet");
    let inventory = Inventory::new(Vec::new(), Vec::new(), u8::MAX).expect("nothing is an inventory");
    let layout = Layout::build(&fleet, &inventory, &LayoutPolicy::default(), None, Epoch::new(1));
    let text = layout.expect("nothing has a layout").to_json();
    let after = text.split_once("\"version\":").expect("a version").1;
    after.trim_start().chars().take_while(char::is_ascii_digit).collect()
}
