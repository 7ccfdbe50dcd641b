use super::*;
use crate::inventory::{AddressState, Direction, Holding};

/// Account `acme` leases 192.0.2.1 (pool `rented`) and brought 198.51.100.0/24 (pool `whole`, and `ends` of its
/// first and last address).
fn inventory() -> Inventory {
    let holding = |id: &str, right, prefix: &str| Holding {
        id: id.parse().unwrap(),
        account: "acme".parse().unwrap(),
        right,
        prefix: prefix.parse().unwrap(),
        data_centers: vec!["fra".parse().unwrap()].into(),
        serves: Direction::Egress,
        state: AddressState::Active,
    };
    let pool = |id: &str, right, prefixes: &[&str]| Pool {
        id: id.parse().unwrap(),
        account: "acme".parse().unwrap(),
        right,
        prefixes: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
    };
    let (leased, byoip) = ((Right::Leased, "192.0.2.1/32"), (Right::Byoip, "198.51.100.0/24"));
    Inventory::new(
        [holding("lease", leased.0, leased.1), holding("block", byoip.0, byoip.1)],
        [
            pool("rented", leased.0, &[leased.1]),
            pool("whole", byoip.0, &[byoip.1]),
            pool("ends", byoip.0, &["198.51.100.0/32", "198.51.100.255/32"]),
        ],
        4,
    )
    .unwrap()
}

fn tenancy(zones: &[(&str, &str, Option<&str>)], delegations: &[(&str, &str, &str)]) -> Result<Tenancy> {
    let account = |id: &str| Account { id: id.parse().unwrap(), name: id.into() };
    let zone = |&(id, account, pool): &(&str, &str, Option<&str>)| Zone {
        id: id.parse().unwrap(),
        account: account.parse().unwrap(),
        pool: pool.map(|pool| pool.parse().unwrap()),
        enabled_by: EnabledBy::default(),
    };
    let delegation = |&(prefix, from, to): &(&str, &str, &str)| Delegation {
        prefix: prefix.parse().unwrap(),
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
    };
    let accounts = [account("acme"), account("globex"), account("initech")];
    Tenancy::new(&inventory(), accounts, zones.iter().map(zone), delegations.iter().map(delegation))
}

#[test]
fn a_grant_says_zone_account_and_pool() {
    let tenancy = tenancy(&[("shop", "acme", Some("rented")), ("blog", "globex", None)], &[]).unwrap();
    let grant = tenancy.grant(&"shop".parse().unwrap()).unwrap();
    assert_eq!(
        (grant.zone().as_str(), grant.account().as_str(), grant.pool().as_str()),
        ("shop", "acme", "rented")
    );
    assert_eq!(tenancy.grants().collect::<Vec<_>>(), [grant]);
    let blog = tenancy.grant(&"blog".parse().unwrap()).unwrap_err();
    assert_eq!((blog, blog.kind()), (GrantError::NotDedicated, ErrorKind::NormalEgress));
    let none = tenancy.grant(&"none".parse().unwrap()).unwrap_err();
    assert_eq!((none, none.kind()), (GrantError::UnknownZone, ErrorKind::Input));
}

#[test]
fn a_foreign_zone_uses_a_pool_only_when_all_of_it_is_delegated() {
    let foreign = &[("blog", "globex", Some("whole"))][..];
    let ends = &[("blog", "globex", Some("ends"))][..];
    let halves = [("198.51.100.0/25", "acme", "globex"), ("198.51.100.128/25", "acme", "globex")];
    assert!(tenancy(foreign, &[("198.51.100.0/24", "acme", "globex")]).is_ok());
    assert!(tenancy(foreign, &halves).is_ok());
    assert!(tenancy(ends, &halves).is_ok());
    assert!(tenancy(ends, &halves[..1]).is_err(), "one end is not both");
    assert!(tenancy(foreign, &[("198.51.100.0/24", "acme", "initech")]).is_err(), "delegated to a third");
    for not_enough in [&[][..], &halves[..1], &halves[1..]] {
        let message = tenancy(foreign, not_enough).unwrap_err().to_string();
        assert!(message.contains("zone \"blog\": pool \"whole\" is of account \"acme\""), "{message}");
        assert!(message.contains("not delegated all of it to account \"globex\""), "{message}");
    }
    let message = tenancy(&[("blog", "globex", Some("rented"))], &halves).unwrap_err().to_string();
    assert!(message.contains("pool \"rented\" is leased to account \"acme\""), "{message}");
}

#[test]
fn refusals_name_both_parties() {
    let whole = ("198.51.100.0/24", "acme", "globex");
    for (zones, delegations, message) in [
        (&[("z", "nobody", None)][..], &[][..], "zone \"z\": account \"nobody\" does not exist"),
        (&[("z", "acme", Some("none"))], &[], "zone \"z\": pool \"none\" does not exist"),
        (&[("z", "acme", None), ("z", "globex", None)], &[], "zone \"z\": this id is defined twice"),
        (&[], &[("198.51.100.0/24", "nobody", "globex")], "delegation 1: account \"nobody\" does not exist"),
        (&[], &[("198.51.100.0/24", "acme", "nobody")], "delegation 1: account \"nobody\" does not exist"),
        (&[], &[("198.51.100.0/24", "acme", "acme")], "delegates 198.51.100.0/24 to itself"),
        (
            &[],
            &[whole, whole],
            "delegation 2: 198.51.100.0/24 is delegated from \"acme\" to \"globex\" twice",
        ),
        (&[], &[("198.51.100.0/23", "acme", "globex")], "lies in no holding of account \"acme\""),
        (
            &[],
            &[whole, ("198.51.100.0/24", "globex", "acme")],
            "delegation 2: 198.51.100.0/24 is of holding \"block\" of account \"acme\": account \"globex\" cannot delegate \
             it back to its owner; the owner revokes the delegation",
        ),
        (
            &[],
            &[("198.51.100.0/25", "globex", "initech"), whole],
            "delegation 1: 198.51.100.0/25 is of holding \"block\" of account \"acme\": account \"globex\" cannot delegate \
             it on to account \"initech\"; only the owner delegates",
        ),
        (&[], &[("198.51.100.1/24", "acme", "globex")], "host bits"),
        (&[], &[("192.0.2.1/32", "acme", "globex")], "holding \"lease\", which is leased"),
    ] {
        let e = tenancy(zones, delegations).unwrap_err().to_string();
        assert!(e.contains(message), "{e}");
    }
    let e = Tenancy::new(&inventory(), [], [], []).unwrap_err().to_string();
    assert_eq!(e, "holding \"block\": account \"acme\" does not exist");
}
