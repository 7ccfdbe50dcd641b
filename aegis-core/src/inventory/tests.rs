use super::*;
use crate::id::DataCenterId;

fn holding(id: &str, right: Right, prefix: &str, data_centers: &[&str]) -> Holding {
    Holding {
        id: id.parse().unwrap(),
        account: "acme".parse().unwrap(),
        right,
        prefix: prefix.parse().unwrap(),
        data_centers: if data_centers.is_empty() && prefix.contains(':') {
            DataCenters::Global
        } else {
            DataCenters::Listed(data_centers.iter().map(|dc| dc.parse().unwrap()).collect())
        },
        serves: Direction::Egress,
        state: AddressState::Active,
    }
}

fn leased(id: &str, prefix: &str) -> Holding {
    holding(id, Right::Leased, prefix, if prefix.contains('.') { &["fra"] } else { &[] })
}

fn pool(id: &str, prefixes: &[&str]) -> Pool {
    Pool {
        id: id.parse().unwrap(),
        account: "acme".parse().unwrap(),
        right: Right::Leased,
        prefixes: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
    }
}

fn refused(holdings: &[Holding], pools: &[Pool]) -> String {
    Inventory::new(holdings.to_vec(), pools.to_vec(), 4).unwrap_err().to_string()
}

#[test]
fn an_address_is_found_in_its_holding_only() {
    let holdings = [leased("b", "192.0.2.8/29"), leased("a", "192.0.2.1/32"), leased("v6", "2001:db8::/64")];
    let inventory = Inventory::new(holdings, [], 4).unwrap();
    let of = |ip: &str| inventory.holding_of(ip.parse().unwrap()).map(|h| h.id.to_string());
    for (ip, id) in [
        ("192.0.2.0", None),
        ("192.0.2.1", Some("a")),
        ("::ffff:192.0.2.1", Some("a")),
        ("192.0.2.2", None),
        ("192.0.2.7", None),
        ("192.0.2.8", Some("b")),
        ("192.0.2.15", Some("b")),
        ("192.0.2.16", None),
        ("2001:db8::ffff", Some("v6")),
        ("2001:db8:0:1::", None),
        ("::1", None),
    ] {
        assert_eq!(of(ip).as_deref(), id, "{ip}");
    }
}

#[test]
fn overlaps_are_found_from_either_side() {
    let (small, large) = ("192.0.2.77/32", "192.0.2.0/24");
    for (a, b) in [(small, large), (large, small), (small, small), ("2001:db8::/64", "2001:db8::/48")] {
        let message = refused(&[leased("a", a), leased("b", b)], &[]);
        assert_eq!(message, format!("holding \"b\": {b} overlaps {a} of holding \"a\""));
    }
    let mapped = refused(&[leased("a", "192.0.2.0/24"), leased("b", "::ffff:192.0.2.0/120")], &[]);
    assert_eq!(mapped, "holding \"b\": 192.0.2.0/24 overlaps 192.0.2.0/24 of holding \"a\"");
    assert!(Inventory::new([leased("a", "192.0.2.0/25"), leased("b", "192.0.2.128/25")], [], 4).is_ok());
}

#[test]
fn a_holding_is_refused_with_the_reason() {
    let byoip = |prefix| holding("h", Right::Byoip, prefix, &["fra"]);
    let five = ["ams", "fra", "iad", "nrt", "sin"];
    for (holding, reason) in [
        (leased("h", "192.0.2.1/24"), "host bits"),
        (byoip("192.0.2.0/25"), "longer than /24"),
        (leased("h", "2001:db8::/65"), "longer than /64"),
        (leased("h", "224.0.0.0/24"), "multicast"),
        (leased("h", "0.0.0.0/32"), "unspecified"),
        (leased("h", "255.255.255.255/32"), "broadcast"),
        (holding("h", Right::Leased, "192.0.2.1/32", &[]), "from no data center"),
        (holding("h", Right::Leased, "192.0.2.1/32", &five), "from 5 data centers; the limit"),
        (holding("h", Right::Leased, "192.0.2.1/32", &["fra", "ams", "fra"]), "\"fra\" is listed twice"),
        (holding("h", Right::Leased, "2001:db8::/64", &["fra"]), "every global data center"),
        (
            Holding { serves: Direction::Ingress, ..leased("h", "192.0.2.1/32") },
            "only a BYOIP block serves ingress",
        ),
    ] {
        let message = refused(&[holding], &[]);
        assert!(message.starts_with("holding \"h\": ") && message.contains(reason), "{message}");
    }
    assert!(Inventory::new([byoip("127.66.0.0/24")], [], 4).is_ok(), "a fleet on one host uses loopback");
    let sorted =
        Inventory::new([holding("h", Right::Leased, "192.0.2.1/32", &["fra", "ams"])], [], 2).unwrap();
    let DataCenters::Listed(sorted) = &sorted.holding(&"h".parse().unwrap()).unwrap().data_centers else {
        panic!("a list stays a list")
    };
    assert_eq!(sorted.iter().map(DataCenterId::as_str).collect::<Vec<_>>(), ["ams", "fra"]);
}

#[test]
fn a_choice_is_refused_with_the_reason() {
    let chosen = |prefix, pinned: &[&str], count| {
        let wish = |id: &&str| (id.parse().unwrap(), Wish::Pinned);
        let wishes = pinned.iter().map(wish).collect();
        let choice = Choice { wishes, count: core::num::NonZeroU8::new(count) };
        Holding { data_centers: DataCenters::Chosen(choice), ..leased("h", prefix) }
    };
    for (holding, reason) in [
        (chosen("192.0.2.1/32", &[], 5), "from 5 data centers; the limit (data_centers_per_address) is 4"),
        (chosen("192.0.2.1/32", &["ams", "fra"], 1), "\"fra\" is pinned as number 2, but only 1 announce"),
        (chosen("192.0.2.1/32", &["a", "b", "c", "d", "e"], 0), "\"e\" is pinned as number 5, but only 4"),
        (chosen("2001:db8::/64", &[], 0), "every global data center"),
        (Holding { data_centers: DataCenters::Global, ..leased("h", "192.0.2.1/32") }, "from no data center"),
    ] {
        let message = refused(&[holding], &[]);
        assert!(message.starts_with("holding \"h\": ") && message.contains(reason), "{message}");
    }
    assert!(Inventory::new([chosen("192.0.2.1/32", &["ams", "fra"], 2)], [], 4).is_ok());
}

#[test]
fn a_pool_is_refused_with_the_reason_and_the_holding() {
    let mut foreign = leased("foreign", "198.51.100.1/32");
    foreign.account = "globex".parse().unwrap();
    let brought = holding("brought", Right::Byoip, "203.0.113.0/24", &["fra"]);
    let ingress = Holding {
        id: "front".parse().unwrap(),
        prefix: "100.64.0.0/24".parse().unwrap(),
        serves: Direction::Ingress,
        ..brought.clone()
    };
    let holdings = [leased("a", "192.0.2.0/25"), leased("six", "2001:db8::/48"), foreign, brought, ingress];
    for (prefixes, reason) in [
        (&[][..], "no prefixes"),
        (&["192.0.2.1/25"], "host bits"),
        (&["192.0.2.128/32"], "192.0.2.128/32 lies in no holding"),
        (&["192.0.2.0/24"], "more than holding \"a\" (192.0.2.0/25)"),
        (&["198.51.100.1/32"], "holding \"foreign\" of account \"globex\", the pool is of \"acme\""),
        (&["192.0.2.1/32", "203.0.113.1/32"], "holding \"brought\", which is byoip; the pool is leased"),
        (&["192.0.2.3/32", "192.0.2.1/32", "192.0.2.0/30"], "192.0.2.1/32 overlaps 192.0.2.0/30"),
        (&["2001:db8::/65"], "longer than /64"),
    ] {
        let message = refused(&holdings, &[pool("p", prefixes)]);
        assert!(message.starts_with("pool \"p\": ") && message.contains(reason), "{message}");
    }
    let brought = Pool { right: Right::Byoip, ..pool("p", &["203.0.113.1/32", "100.64.0.1/32"]) };
    assert_eq!(
        refused(&holdings, &[brought]),
        "pool \"p\": 100.64.0.1/32 is of holding \"front\", which serves ingress; a block serves egress or ingress, \
         never both"
    );
    assert_eq!(
        refused(&holdings, &[pool("p", &["192.0.2.1/32"]), pool("p", &["192.0.2.2/32"])]),
        "pool \"p\": this id is defined twice"
    );
}

#[test]
fn egress_addresses_come_in_order_and_once_each_though_pools_share_them() {
    let holdings = [
        leased("a", "192.0.2.0/30"),
        leased("b", "192.0.2.4/30"),
        leased("unused", "192.0.2.16/28"),
        leased("six", "2001:db8::/48"),
    ];
    let pools = [
        pool("p", &["192.0.2.4/31", "192.0.2.3/32", "::ffff:192.0.2.1/128", "2001:db8:0:7::/64"]),
        pool("q", &["192.0.2.2/31", "2001:db8:0:6::/63", "2001:db8:0:1::/64"]),
    ];
    let inventory = Inventory::new(holdings, pools, 4).unwrap();
    let v4: Vec<_> = inventory.egress_v4().map(|(ip, holding)| format!("{ip} {}", holding.id)).collect();
    assert_eq!(v4, ["192.0.2.1 a", "192.0.2.2 a", "192.0.2.3 a", "192.0.2.4 b", "192.0.2.5 b"]);
    let v6: Vec<_> = inventory.egress_v6().map(|(net, holding)| format!("{net} {}", holding.id)).collect();
    assert_eq!(v6, ["2001:db8:0:1::/64 six", "2001:db8:0:6::/63 six"]);
}

#[test]
fn a_large_holding_is_cheap_and_a_pool_of_it_is_refused_before_it_is_paid_for() {
    let holdings = [leased("ten", "10.0.0.0/8"), leased("one", "192.0.2.1/32")];
    let fits = Inventory::new(holdings.clone(), [pool("p", &["10.0.0.0/16"])], 4).unwrap();
    assert_eq!(fits.egress_v4().count(), 65_536);
    let shared = [pool("p", &["10.0.0.0/16"]), pool("q", &["10.0.7.0/24"])];
    assert!(Inventory::new(holdings.clone(), shared, 4).is_ok(), "shared addresses count once");
    for (vast, total) in [("10.0.0.0/16", 65_537), ("10.0.0.0/8", 16_777_217)] {
        let message = refused(&holdings, &[pool("small", &["192.0.2.1/32"]), pool("vast", &[vast])]);
        let expected = format!("pool \"vast\": the pools hold {total} IPv4 addresses together");
        assert!(message.starts_with(&expected), "{message}");
    }
}
