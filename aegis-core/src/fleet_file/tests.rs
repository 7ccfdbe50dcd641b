use super::*;
use crate::fleet::Partition;
use crate::inventory::{AddressState, DataCenters, Direction};

/// A small file with one of everything. A wrong file differs from it in one place.
const GOOD: &str = r#"
[policy]

[[data_center]]
id = "fra"
city = "Frankfurt"
latitude = 50.11
longitude = 8.68

[[data_center]]
id = "pek"
city = "Beijing"
latitude = 39.9
longitude = 116.4
partition = "cn"

[[machine]]
id = "fra-m01"
data_center = "fra"
weight = 2

[[account]]
id = "acme"
name = "Acme"

[[account]]
id = "globex"
name = "Globex"

[[holding]]
id = "lease"
account = "acme"
right = "leased"
prefix = "192.0.2.1/32"
data_centers = ["fra"]

[[holding]]
id = "block"
account = "acme"
right = "byoip"
prefix = "198.51.100.0/24"
data_centers = ["fra"]
state = "announced"

[[pool]]
id = "rented"
account = "acme"
prefixes = ["192.0.2.1/32"]

[[pool]]
id = "brought"
account = "acme"
prefixes = ["198.51.100.0/25"]

[[zone]]
id = "shop.acme.example"
account = "acme"
pool = "rented"

[[zone]]
id = "shop.globex.example"
account = "globex"
pool = "brought"

[[delegation]]
prefix = "198.51.100.0/25"
from = "acme"
to = "globex"

[[origin]]
id = "web"
account = "acme"
address = "203.0.113.10:443"
"#;

#[test]
fn defaults_are_filled_in() {
    let file = FleetFile::parse("fleet.toml", GOOD).unwrap();
    assert_eq!(file.policy, Policy::default());
    let pek = file.fleet.data_center(&"pek".parse().unwrap()).unwrap();
    assert_eq!(pek.partition, Partition::Separate("cn".into()));
    let state = |id: &str| file.inventory.holding(&id.parse().unwrap()).unwrap().state;
    assert_eq!((state("lease"), state("block")), (AddressState::Active, AddressState::Announced));
    let serves = |id: &str| file.inventory.holding(&id.parse().unwrap()).unwrap().serves;
    assert_eq!((serves("lease"), serves("block")), (Direction::Egress, Direction::Egress));
    let right = |id: &str| file.inventory.pool(&id.parse().unwrap()).unwrap().right;
    assert_eq!((right("rented"), right("brought")), (Right::Leased, Right::Byoip));
    assert_eq!(file.origins[&"web".parse().unwrap()].origin.to_string(), "tcp 203.0.113.10:443");
    let short = FleetFile::parse("f", &GOOD.replace("weight = 2\n", "")).unwrap();
    assert_eq!(short.fleet.machines().next().unwrap().weight, 1);
}

#[test]
fn the_operator_lends_leased_addresses_where_the_file_says_so() {
    let lent = GOOD.replace("pool = \"brought\"", "pool = \"rented\"\nenabled_by = \"operator\"");
    let file = FleetFile::parse("f", &lent).unwrap();
    let grant = file.tenancy.grant(&"shop.globex.example".parse().unwrap()).unwrap();
    assert_eq!((grant.account().as_str(), grant.pool().as_str()), ("globex", "rented"));
    assert_eq!(file.registry().unwrap().tenancy(), &file.tenancy);
}

#[test]
fn port_0_need_not_be_reserved_where_it_is_not_usable() {
    let text = GOOD.replace("[policy]", "[policy]\nusable = \"2048-65535\"\nreserved = []");
    let policy = FleetFile::parse("f", &text).unwrap().policy;
    assert_eq!((policy.usable.lo(), policy.reserved.len()), (2_048, 0));
}

#[test]
fn a_mapped_prefix_is_the_v4_prefix_wherever_it_is_written() {
    let mapped = GOOD.replace("\"198.51.100.0/24\"", "\"::ffff:198.51.100.0/120\"");
    let mapped =
        mapped.replace("prefixes = [\"198.51.100.0/25\"]", "prefixes = [\"::ffff:198.51.100.0/121\"]");
    assert_ne!(mapped, GOOD);
    assert_eq!(FleetFile::parse("f", &mapped).unwrap(), FleetFile::parse("f", GOOD).unwrap());
}

/// The place of the marker in a text, and the text without it.
fn marked(text: &str) -> (String, String) {
    let before = text.split('¦').next().unwrap();
    let line = before.lines().last().unwrap_or("");
    let column = if before.ends_with('\n') { 1 } else { line.chars().count() + 1 };
    (format!("fleet.toml:{}:{column}", before.matches('\n').count() + 1), text.replace('¦', ""))
}

#[test]
fn a_wrong_file_is_refused_at_its_place_with_both_parties() {
    // What stands in the good file, what stands there in the wrong one (the mark is where the error points), the
    // message.
    let cases = [
        // syntax
        (
            r#"city = "Frankfurt""#,
            r#"city = "Zürich" ¦oops"#,
            "unexpected key or value, expected newline, `#`",
        ),
        (r#"city = "Frankfurt""#, r#"city = "Frankfurt¦"#, r#"invalid basic string, expected `"`"#),
        // keys and types
        (
            "weight = 2",
            "¦wieght = 2",
            r#"machine "fra-m01": unknown field `wieght`, expected one of `id`, `data_center`, `weight`"#,
        ),
        (
            "[[delegation]]",
            "[[¦delegations]]",
            "delegations: unknown field `delegations`, expected one of `policy`, `data_center`, `machine`, `account`, `holding`, `pool`, `zone`, `delegation`, `origin`",
        ),
        (
            "[[data_center]]\nid = \"fra\"\ncity = \"Frankfurt\"",
            "¦[[data_center]]\nid = \"fra\"",
            r#"data center "fra": missing field `city`"#,
        ),
        (
            "weight = 2",
            r#"weight = ¦"two""#,
            r#"machine "fra-m01", weight: invalid type: string "two", expected u32"#,
        ),
        (
            "weight = 2",
            "weight = ¦-1",
            r#"machine "fra-m01", weight: invalid value: integer `-1`, expected u32"#,
        ),
        (
            r#"id = "fra-m01""#,
            r#"id = ¦"Fra m01""#,
            r#"machine "Fra m01", id: machine name "Fra m01" contains 'F'; use lower-case letters, digits, '-', '_' and '.'"#,
        ),
        (
            r#"right = "byoip""#,
            r#"right = ¦"owned""#,
            r#"holding "block", right: unknown variant `owned`, expected `leased` or `byoip`"#,
        ),
        // policy
        (
            "[policy]",
            "[policy]\ngranule_ports = ¦3000",
            "policy: granule size 3000; use a power of two from 64 to 32768 ports",
        ),
        (
            "[policy]",
            "[policy]\ngranule_ports = ¦32",
            "policy: granule size 32; use a power of two from 64 to 32768 ports",
        ),
        (
            "[policy]",
            "[policy]\nreserved = ¦[\"4096-8191\"]",
            "policy: port 0 would be usable (granules of 2048, usable ports 0-65535); it is no source port: start the \
             usable range at 1 or later, or reserve a range that begins with 0",
        ),
        (
            "[policy]",
            "[policy]\nreserved = ¦[\"0-9\", \"9-1\"]",
            "policy, reserved: port range 9-1 runs backwards; write 1-9",
        ),
        (
            "[policy]",
            "¦[policy]\nusable = \"1-4094\"",
            "policy: no granule of 2048 ports lies wholly inside 1-4094 and outside the reserved ranges; use smaller \
             granules or reserve less",
        ),
        (
            "[policy]",
            "[policy]\nmax_granules_per_machine = ¦0",
            "policy: max_granules_per_machine 0 would leave nothing to use; use 1 or more",
        ),
        // fleet
        (
            "latitude = 50.11",
            "latitude = ¦90.5",
            r#"data center "fra": latitude 90.5 is no place on Earth; expected -90 to 90 degrees"#,
        ),
        (
            "latitude = 50.11",
            "latitude = ¦nan",
            r#"data center "fra": latitude NaN is no place on Earth; expected -90 to 90 degrees"#,
        ),
        (
            "longitude = 8.68",
            "longitude = ¦-180.1",
            r#"data center "fra": longitude -180.1 is no place on Earth; expected -180 to 180 degrees"#,
        ),
        (
            r#"partition = "cn""#,
            r#"partition = ¦"CN""#,
            r#"data center "pek": partition name "CN" is not usable; write "global", or lower-case letters, digits and '-' for a separate network"#,
        ),
        (
            r#"data_center = "fra""#,
            r#"data_center = ¦"nrt""#,
            r#"machine "fra-m01": data center "nrt" does not exist"#,
        ),
        // holdings
        (
            r#"prefix = "192.0.2.1/32""#,
            r#"prefix = ¦"192.0.2.1""#,
            r#"holding "lease", prefix: "192.0.2.1" is not a prefix; write it like "192.0.2.1/32" or "2001:db8::/64""#,
        ),
        (
            r#"prefix = "192.0.2.1/32""#,
            r#"prefix = ¦"192.0.2.1/24""#,
            r#"holding "lease", prefix: 192.0.2.1/24 has host bits set; write 192.0.2.0/24 for the block or 192.0.2.1/32 for the address"#,
        ),
        (
            r#"prefix = "192.0.2.1/32""#,
            r#"prefix = ¦"198.51.0.0/16""#,
            r#"holding "lease": 198.51.0.0/16 overlaps 198.51.100.0/24 of holding "block" (holding "block" is at line 37)"#,
        ),
        (
            r#"prefix = "192.0.2.1/32""#,
            r#"prefix = ¦"::ffff:198.51.100.7/128""#,
            r#"holding "lease": 198.51.100.7/32 overlaps 198.51.100.0/24 of holding "block" (holding "block" is at line 37)"#,
        ),
        (
            r#"prefix = "198.51.100.0/24""#,
            r#"prefix = ¦"198.51.100.0/25""#,
            r#"holding "block": 198.51.100.0/25 is longer than /24: the Internet does not route it alone"#,
        ),
        (
            "account = \"acme\"\nright = \"leased\"",
            "account = ¦\"nobody\"\nright = \"leased\"",
            r#"holding "lease": account "nobody" does not exist"#,
        ),
        (
            "data_centers = [\"fra\"]\n\n[[holding]]",
            "data_centers = [\"fra\", ¦\"nrt\"]\n\n[[holding]]",
            r#"holding "lease": data center "nrt" does not exist"#,
        ),
        (
            "data_centers = [\"fra\"]\n\n[[holding]]",
            "data_centers = [\n  \"fra\",\n  ¦\"pek\",\n]\n\n[[holding]]",
            r#"holding "lease": data center "pek" is in partition "cn", which gets no global addresses (data center "pek" is at line 10)"#,
        ),
        (
            "data_centers = [\"fra\"]\n\n[[holding]]",
            "data_centers = [\"fra\"]\ndata_center_count = ¦1\n\n[[holding]]",
            r#"holding "lease": data_centers lists exactly those that announce it; remove it, or data_center_count"#,
        ),
        (
            "data_centers = [\"fra\"]\n\n[[holding]]",
            "pinned_data_centers = [\"fra\"]\nforbidden_data_centers = [\"pek\", ¦\"fra\"]\n\n[[holding]]",
            r#"holding "lease": data center "fra" is pinned and forbidden at once"#,
        ),
        (
            "data_centers = [\"fra\"]\n\n[[holding]]",
            "pinned_data_centers = [¦\"pek\"]\n\n[[holding]]",
            r#"holding "lease": data center "pek" is in partition "cn", which gets no global addresses (data center "pek" is at line 10)"#,
        ),
        (
            "data_centers = [\"fra\"]\n\n[[holding]]",
            "forbidden_data_centers = [¦\"nrt\"]\n\n[[holding]]",
            r#"holding "lease": data center "nrt" does not exist"#,
        ),
        (
            "data_centers = [\"fra\"]\n\n[[holding]]",
            "data_center_count = ¦5\n\n[[holding]]",
            r#"holding "lease": 192.0.2.1/32 is to be announced from 5 data centers; the limit (data_centers_per_address) is 4"#,
        ),
        // pools
        (
            "account = \"acme\"\nprefixes",
            "account = ¦\"nobody\"\nprefixes",
            r#"pool "rented": account "nobody" does not exist"#,
        ),
        (
            "account = \"acme\"\nprefixes = [\"192",
            "account = \"globex\"\nprefixes = [¦\"192",
            r#"pool "rented": 192.0.2.1/32 is of holding "lease" of account "acme", the pool is of "globex" (holding "lease" is at line 30)"#,
        ),
        (
            r#"prefixes = ["192.0.2.1/32"]"#,
            r#"prefixes = ["192.0.2.1/32", ¦"203.0.113.1/32"]"#,
            r#"pool "rented": 203.0.113.1/32 lies in no holding"#,
        ),
        (
            r#"prefixes = ["192.0.2.1/32"]"#,
            r#"prefixes = ["192.0.2.1/32", ¦"198.51.100.1/32"]"#,
            r#"pool "rented": 198.51.100.1/32 is of holding "block", which is byoip; the pool is leased, and never both (holding "block" is at line 37)"#,
        ),
        (
            "state = \"announced\"\n\n[[pool]]\nid = \"rented\"\naccount = \"acme\"\nprefixes = [\"192.0.2.1/32\"]\n\n[[pool]]\nid = \"brought\"\naccount = \"acme\"\nprefixes = [",
            "serves = \"ingress\"\n\n[[pool]]\nid = \"rented\"\naccount = \"acme\"\nprefixes = [\"192.0.2.1/32\"]\n\n[[pool]]\nid = \"brought\"\naccount = \"acme\"\nprefixes = [¦",
            r#"pool "brought": 198.51.100.0/25 is of holding "block", which serves ingress; a block serves egress or ingress, never both (holding "block" is at line 37)"#,
        ),
        (
            "right = \"leased\"",
            "right = \"leased\"\nserves = ¦\"ingress\"",
            r#"holding "lease": 192.0.2.1/32 is leased, and serves egress; only a BYOIP block serves ingress"#,
        ),
        // tenancy
        (
            "account = \"acme\"\npool",
            "account = ¦\"nobody\"\npool",
            r#"zone "shop.acme.example": account "nobody" does not exist"#,
        ),
        (
            r#"pool = "rented""#,
            r#"pool = ¦"none""#,
            r#"zone "shop.acme.example": pool "none" does not exist"#,
        ),
        (
            r#"pool = "brought""#,
            r#"pool = ¦"rented""#,
            r#"zone "shop.globex.example": pool "rented" is leased to account "acme"; zones of account "globex" may not use it unless the operator enables it (pool "rented" is at line 45)"#,
        ),
        (
            "pool = \"rented\"\n",
            "pool = \"rented\"\nenabled_by = ¦\"operator\"\n",
            r#"zone "shop.acme.example": account "acme" may use pool "rented" without the operator; remove enabled_by (pool "rented" is at line 45)"#,
        ),
        (
            "pool = \"rented\"\n",
            "enabled_by = ¦\"operator\"\n",
            r#"zone "shop.acme.example": enabled_by says that the operator has enabled it, but it has no pool"#,
        ),
        (
            "to = \"globex\"\n",
            "to = \"globex\"\n\n[[delegation]]\nprefix = \"198.51.100.0/25\"\nfrom = \"globex\"\nto = ¦\"acme\"\n",
            r#"delegation 2: 198.51.100.0/25 is of holding "block" of account "acme": account "globex" cannot delegate it back to its owner; the owner revokes the delegation (holding "block" is at line 37)"#,
        ),
        (
            "pool = \"brought\"\n\n[[delegation]]\nprefix = \"198.51.100.0/25\"",
            "pool = ¦\"brought\"\n\n[[delegation]]\nprefix = \"198.51.100.0/26\"",
            r#"zone "shop.globex.example": pool "brought" is of account "acme", which has not delegated all of it to account "globex" (pool "brought" is at line 50)"#,
        ),
        (r#"to = "globex""#, r#"to = ¦"nobody""#, r#"delegation 1: account "nobody" does not exist"#),
        (
            r#"prefix = "198.51.100.0/25""#,
            r#"prefix = ¦"192.0.2.1/32""#,
            r#"delegation 1: 192.0.2.1/32 is of holding "lease", which is leased; only BYOIP can be delegated (holding "lease" is at line 30)"#,
        ),
        // origins
        (
            r#"address = "203.0.113.10:443""#,
            r#"address = ¦"203.0.113.10:0""#,
            r#"origin "web": origin tcp 203.0.113.10:0: port 0 is no destination; use 1 to 65535"#,
        ),
        (
            r#"address = "203.0.113.10:443""#,
            r#"address = ¦"203.0.113.10""#,
            r#"origin "web", address: "203.0.113.10" is not an ip:port; write it like "203.0.113.10:443" or "[2001:db8::10]:443""#,
        ),
        (
            "account = \"acme\"\naddress",
            "account = ¦\"nobody\"\naddress",
            r#"origin "web": account "nobody" does not exist"#,
        ),
        (
            "account = \"acme\"\naddress",
            "account = \"acme\"\nprotocol = ¦\"sctp\"\naddress",
            r#"origin "web", protocol: unknown variant `sctp`, expected `tcp` or `udp`"#,
        ),
    ];
    for (was, now, message) in cases {
        assert!(GOOD.contains(was), "{was}");
        let (place, text) = marked(&GOOD.replacen(was, now, 1));
        let error = FleetFile::parse("fleet.toml", &text).expect_err(now).to_string();
        assert_eq!(error, format!("{place}: {message}"));
    }
}

#[test]
fn an_id_is_defined_once_and_the_error_names_both_lines() {
    for kind in ["data_center", "machine", "account", "holding", "pool", "zone", "origin"] {
        let header = format!("[[{kind}]]\n");
        let start = GOOD.find(&header).unwrap();
        let row = GOOD[start..].split("\n\n").next().unwrap().trim_end();
        let line = GOOD[..start].matches('\n').count() + 1;
        let (place, text) = marked(&format!("{GOOD}\n{}\n", row.replace("id = ", "id = ¦")));
        let id = row.split('"').nth(1).unwrap();
        assert_eq!(
            FleetFile::parse("fleet.toml", &text).unwrap_err().to_string(),
            format!(
                "{place}: {} \"{id}\": this id is defined twice (first defined at line {line})",
                kind.replace('_', " ")
            )
        );
    }
}

#[test]
fn an_account_names_an_origin_once_but_two_accounts_may_share_it() {
    let twin = |account: &str| {
        format!(
            "{GOOD}\n[[origin]]\nid = \"www\"\naccount = \"{account}\"\naddress = ¦\"203.0.113.10:443\"\n"
        )
    };
    let (place, text) = marked(&twin("acme"));
    assert_eq!(
        FleetFile::parse("fleet.toml", &text).unwrap_err().to_string(),
        format!(
            "{place}: origin \"www\": tcp 203.0.113.10:443 of account \"acme\" is named \"web\" already (origin \
             \"web\" is at line 70)"
        )
    );
    assert_eq!(FleetFile::parse("f", &marked(&twin("globex")).1).unwrap().origins.len(), 2);
}

#[test]
fn an_address_is_announced_from_no_more_data_centers_than_the_policy_allows() {
    let mut text = String::new();
    for id in ["ams", "iad", "lhr", "nrt"] {
        text += &format!("[[data_center]]\nid = \"{id}\"\ncity = \"{id}\"\nlatitude = 1\nlongitude = 1\n");
    }
    text += &GOOD.replacen("data_centers = [", "data_centers = ¦[\"ams\", \"iad\", \"lhr\", \"nrt\", ", 1);
    let (place, five) = marked(&text.replace("[policy]", ""));
    assert_eq!(
        FleetFile::parse("fleet.toml", &five).unwrap_err().to_string(),
        format!(
            "{place}: holding \"lease\": 192.0.2.1/32 is announced from 5 data centers; the limit \
             (data_centers_per_address) is 4"
        )
    );
    let raised = format!("[policy]\ndata_centers_per_address = 5\n{five}");
    assert!(FleetFile::parse("f", &raised).is_ok());
}

#[test]
fn a_machine_of_weight_0_is_drained_and_the_last_one_of_a_data_center_is_missed_by_name() {
    let drained = FleetFile::parse("f", &GOOD.replace("weight = 2", "weight = 0")).unwrap();
    let e = drained.layout(None, Epoch::new(1)).unwrap_err();
    assert!(
        e.message().contains("holding lease lists data center fra, whose machines are all drained"),
        "{e}"
    );
    let other = "[[machine]]\nid = \"fra-m02\"\ndata_center = \"fra\"\n\n[[account]]";
    let two = GOOD.replace("weight = 2", "weight = 0").replacen("[[account]]", other, 1);
    let layout = FleetFile::parse("f", &two).unwrap().layout(None, Epoch::new(1)).unwrap();
    let shares = |id: &str| layout.shares_of(&id.parse().unwrap()).count();
    assert_eq!((shares("fra-m01"), shares("fra-m02")), (0, 31 * 129));
    assert!(layout.machine_index(&"fra-m01".parse().unwrap()).is_some());
}

#[test]
fn wishes_about_data_centers_are_read() {
    let wishes = "pinned_data_centers = [\"fra\"]\nforbidden_data_centers = [\"pek\"]\ndata_center_count = 1";
    let text = GOOD.replacen("data_centers = [\"fra\"]", wishes, 1);
    let file = FleetFile::parse("f", &text).unwrap();
    let DataCenters::Chosen(choice) =
        &file.inventory.holding(&"lease".parse().unwrap()).unwrap().data_centers
    else {
        panic!("wishes make a choice")
    };
    assert_eq!(choice.pinned().map(|id| id.as_str()).collect::<Vec<_>>(), ["fra"]);
    assert!(!choice.allows(&"pek".parse().unwrap()) && choice.allows(&"fra".parse().unwrap()));
    assert_eq!(choice.count.map(u8::from), Some(1));
    assert!(file.layout(None, Epoch::new(1)).is_ok());
}

#[test]
fn a_file_without_a_data_center_says_so() {
    for text in ["", "# nothing\n", "[[account]]\nid = \"acme\"\nname = \"Acme\"\n"] {
        let error = FleetFile::parse("empty.toml", text).unwrap_err().to_string();
        assert_eq!(error, "empty.toml:1:1: the fleet has no data center; add at least one [[data_center]]");
    }
}

#[test]
fn damage_anywhere_gives_a_placed_error_or_another_good_file() {
    let cut = (0..GOOD.len()).filter(|at| GOOD.is_char_boundary(*at)).map(|at| GOOD[..at].to_owned());
    let lines: Vec<_> = GOOD.lines().collect();
    let without = (0..lines.len()).map(|n| [&lines[..n], &lines[n + 1..]].concat().join("\n"));
    for text in cut.chain(without) {
        if let Err(e) = FleetFile::parse("f", &text) {
            let line = e.message().split(':').nth(1).and_then(|line| line.parse::<usize>().ok());
            assert!(line.is_some_and(|line| (1..=lines.len() + 1).contains(&line)), "{e}");
        }
    }
}

#[test]
fn the_shipped_example_is_the_fleet_that_it_says() {
    let text = include_str!("../../examples/fleet.toml");
    let FleetFile { fleet, inventory, tenancy, origins, policy } =
        FleetFile::parse("fleet.toml", text).unwrap();
    assert_eq!((fleet.data_centers().len(), fleet.machines().len()), (13, 60));
    assert_eq!(fleet.data_centers().filter(|dc| dc.partition != Partition::Global).count(), 1);
    assert!(fleet.data_centers().all(|dc| fleet.machines_in(&dc.id).len() >= 3));
    assert_eq!((inventory.holdings().len(), inventory.pools().len()), (6, 4));
    assert_eq!((inventory.egress_v4().count(), inventory.egress_v6().count()), (3 + 8 + 4, 2));
    assert_eq!((tenancy.accounts().len(), tenancy.zones().len(), tenancy.delegations().len()), (3, 8, 1));
    assert_eq!((tenancy.grants().count(), origins.len()), (7, 6));
    assert_eq!(policy, Policy::default(), "the file shows the defaults");
}
