//! Changes by a registry: what is refused changes nothing and names both parties; what is done is told.

use super::*;
use crate::inventory::{AddressState, DataCenters, Holding};
use crate::time::Time;

const AT: Time = Time::from_millis(61_007);

fn id<T: core::str::FromStr<Err = crate::Error>>(name: &str) -> T {
    name.parse().unwrap()
}

fn by(account: &str) -> Actor {
    if account == "operator" { Actor::Operator } else { Actor::Account(id(account)) }
}

fn prefix(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn holding(name: &str, right: Right, block: &str, state: AddressState) -> Holding {
    Holding {
        id: id(name),
        account: id("acme"),
        right,
        prefix: prefix(block),
        data_centers: if block.contains('.') { vec![id("fra")].into() } else { DataCenters::Global },
        serves: Direction::Egress,
        state,
    }
}

fn pool(name: &str, right: Right, blocks: &[&str]) -> Pool {
    let prefixes = blocks.iter().map(|block| prefix(block)).collect();
    Pool { id: id(name), account: id("acme"), right, prefixes }
}

fn delegation(block: &str, from: &str, to: &str) -> Delegation {
    Delegation { prefix: prefix(block), from: id(from), to: id(to) }
}

/// Account acme leases 192.0.2.1 (pool `rented`) and has brought 198.51.100.0/24 (`whole` and `half`) and 2001:db8::/48
/// (`six`); its zone is `shop`. Zones `blog` and `news` are of globex, `wiki` of initech. Nothing is enabled.
fn registry() -> Registry {
    let (leased, byoip) = (Right::Leased, Right::Byoip);
    let inventory = Inventory::new(
        [
            holding("lease", leased, "192.0.2.1/32", AddressState::Active),
            holding("block", byoip, "198.51.100.0/24", AddressState::Announced),
            holding("vi", byoip, "2001:db8::/48", AddressState::Allocated),
        ],
        [
            pool("rented", leased, &["192.0.2.1/32"]),
            pool("whole", byoip, &["198.51.100.0/24"]),
            pool("half", byoip, &["198.51.100.0/25"]),
            pool("six", byoip, &["2001:db8:0:7::/64"]),
        ],
        4,
    )
    .unwrap();
    let accounts = ["acme", "globex", "initech"].map(|name| Account { id: id(name), name: name.into() });
    let zones = [("shop", "acme"), ("blog", "globex"), ("news", "globex"), ("wiki", "initech")];
    let zones = zones.map(|(zone, account)| Zone {
        id: id(zone),
        account: id(account),
        pool: None,
        enabled_by: EnabledBy::Account,
    });
    let tenancy = Tenancy::new(&inventory, accounts, zones, []).unwrap();
    Registry::new(inventory, tenancy, 4).unwrap()
}

/// As [`registry`]; the block is delegated to globex, whose two zones leave from all of it and from its half.
fn delegated_registry() -> Registry {
    let mut registry = registry();
    registry.delegate(&by("acme"), delegation("198.51.100.0/24", "acme", "globex"), AT).unwrap();
    registry.enable(&by("globex"), &id("blog"), &id("whole"), AT).unwrap();
    registry.enable(&by("globex"), &id("news"), &id("half"), AT).unwrap();
    registry
}

fn pool_of(registry: &Registry, zone: &str) -> Option<String> {
    registry.tenancy().grant(&id(zone)).ok().map(|grant| grant.pool().to_string())
}

/// The refusal, after a look that nothing has changed.
fn refused(
    registry: &mut Registry,
    change: impl Fn(&mut Registry) -> Result<Vec<AuditEvent>>,
) -> (ErrorKind, String) {
    let before = registry.clone();
    let error = change(registry).unwrap_err();
    assert_eq!(*registry, before, "{error}");
    (error.kind(), error.to_string())
}

fn told(events: &[AuditEvent]) -> Vec<String> {
    events.iter().map(ToString::to_string).collect()
}

#[test]
fn the_operator_alone_lends_leased_addresses_to_zones_of_others() {
    let mut registry = registry();
    for (who, zone) in [("acme", "blog"), ("globex", "blog"), ("initech", "shop")] {
        let (kind, message) = refused(&mut registry, |r| r.enable(&by(who), &id(zone), &id("rented"), AT));
        assert_eq!(kind, ErrorKind::Forbidden);
        assert!(
            message.starts_with(&format!("account \"{who}\" may not enable zone \"{zone}\"")),
            "{message}"
        );
        assert!(
            message.contains("on leased pool \"rented\" of account \"acme\"; only the operator"),
            "{message}"
        );
    }
    let events = registry.enable(&by("operator"), &id("blog"), &id("rented"), AT).unwrap();
    assert_eq!(
        told(&events),
        [
            "61.007s the operator: enable zone \"blog\" of account \"globex\": normal egress -> pool \"rented\" by the \
          operator's right"
        ]
    );
    assert_eq!(pool_of(&registry, "blog").as_deref(), Some("rented"));
    // Not to be undone by another, not even by way of a pool of its own.
    for who in ["acme", "globex"] {
        assert_eq!(refused(&mut registry, |r| r.disable(&by(who), &id("blog"), AT)).0, ErrorKind::Forbidden);
        registry.read_analytics(&by(who), &id("blog")).unwrap();
    }
    assert_eq!(
        registry.read_analytics(&by("initech"), &id("blog")).unwrap_err().kind(),
        ErrorKind::Forbidden
    );
    registry.delegate(&by("acme"), delegation("198.51.100.0/24", "acme", "globex"), AT).unwrap();
    let switched = refused(&mut registry, |r| r.enable(&by("globex"), &id("blog"), &id("whole"), AT));
    assert_eq!(
        switched.1,
        "account \"globex\" may not disable zone \"blog\" of account \"globex\" on leased pool \"rented\" of account \
         \"acme\"; only the operator may"
    );
    assert_eq!(registry.disable(&by("operator"), &id("blog"), AT).unwrap().len(), 1);
    assert_eq!(pool_of(&registry, "blog"), None);
    let no_use = registry.read_analytics(&by("globex"), &id("blog")).unwrap_err();
    assert_eq!(no_use.kind(), ErrorKind::NormalEgress);
}

#[test]
fn a_delegate_enables_its_zones_and_the_parent_takes_them_back_one_by_one() {
    let mut registry = registry();
    for who in ["operator", "globex", "acme"] {
        let (kind, message) = refused(&mut registry, |r| r.enable(&by(who), &id("blog"), &id("half"), AT));
        assert_eq!(
            (kind, message.as_str()),
            (
                ErrorKind::Input,
                "zone \"blog\": pool \"half\" is of account \"acme\", which has not delegated all of it to account \
                 \"globex\""
            ),
            "{who}: what an account brought is not the operator's to lend"
        );
    }
    registry.delegate(&by("acme"), delegation("::ffff:198.51.100.0/121", "acme", "globex"), AT).unwrap();
    assert_eq!(registry.tenancy().delegations(), [delegation("198.51.100.0/25", "acme", "globex")]);
    let message = refused(&mut registry, |r| r.enable(&by("acme"), &id("blog"), &id("half"), AT)).1;
    assert!(message.ends_with("; only the operator or account \"globex\" may"), "{message}");
    assert!(registry.enable(&by("globex"), &id("blog"), &id("whole"), AT).is_err(), "half is not all of it");
    registry.enable(&by("globex"), &id("blog"), &id("half"), AT).unwrap();
    assert_eq!(registry.enable(&by("globex"), &id("blog"), &id("half"), AT).unwrap(), [], "as it was");
    let events = registry.disable(&by("acme"), &id("blog"), AT).unwrap();
    assert_eq!(
        told(&events),
        [
            "61.007s account \"acme\": disable zone \"blog\" of account \"globex\": pool \"half\" -> normal egress"
        ]
    );
    assert_eq!(registry.disable(&by("globex"), &id("blog"), AT).unwrap(), []);
    assert_eq!(
        refused(&mut registry, |r| r.disable(&by("initech"), &id("blog"), AT)).0,
        ErrorKind::Forbidden
    );
}

#[test]
fn a_part_of_an_ipv6_block_is_delegated_like_one_of_ipv4() {
    let mut registry = registry();
    let enable = |r: &mut Registry| r.enable(&by("initech"), &id("wiki"), &id("six"), AT);
    registry.delegate(&by("acme"), delegation("2001:db8:0:6::/64", "acme", "initech"), AT).unwrap();
    assert!(refused(&mut registry, enable).1.contains("has not delegated all of it"));
    registry.delegate(&by("acme"), delegation("2001:db8:0:4::/62", "acme", "initech"), AT).unwrap();
    enable(&mut registry).unwrap();
    assert_eq!(pool_of(&registry, "wiki").as_deref(), Some("six"));
}

#[test]
fn a_delegation_in_use_ends_by_force_only_and_takes_with_it_exactly_what_needs_it() {
    let mut registry = delegated_registry();
    let whole = delegation("198.51.100.0/24", "acme", "globex");
    registry.enable(&by("acme"), &id("shop"), &id("whole"), AT).unwrap();
    let (kind, message) = refused(&mut registry, |r| r.revoke(&by("acme"), &whole, Revoke::IfUnused, AT));
    assert_eq!(kind, ErrorKind::Input);
    assert_eq!(
        message,
        "delegation: zone \"blog\" of account \"globex\" (and 1 more) leaves from it; 198.51.100.0/24 from account \
         \"acme\" to account \"globex\" cannot be revoked: disable what uses it first, or revoke by force"
    );
    // What another delegation still covers goes on.
    registry.delegate(&by("acme"), delegation("198.51.100.0/25", "acme", "globex"), AT).unwrap();
    let events = registry.revoke(&by("acme"), &whole, Revoke::Force, AT).unwrap();
    assert_eq!(
        told(&events),
        [
            "61.007s account \"acme\": disable zone \"blog\" of account \"globex\": pool \"whole\" -> normal egress, by \
             force of the end of the delegation of 198.51.100.0/24 from account \"acme\" to account \"globex\"",
            "61.007s account \"acme\": revoke 198.51.100.0/24 from account \"acme\" to account \"globex\"",
        ]
    );
    let pools = ["shop", "blog", "news"].map(|zone| pool_of(&registry, zone));
    assert_eq!(pools, [Some("whole".into()), None, Some("half".into())]);
    let half = delegation("198.51.100.0/25", "acme", "globex");
    assert!(registry.revoke(&by("acme"), &half, Revoke::IfUnused, AT).is_err());
    registry.disable(&by("globex"), &id("news"), AT).unwrap();
    assert_eq!(registry.revoke(&by("acme"), &half, Revoke::IfUnused, AT).unwrap().len(), 1);
}

#[test]
fn delegations_that_make_no_sense_are_refused_with_both_parties() {
    let mut registry = delegated_registry();
    for (who, block, from, to, message) in [
        (
            "globex",
            "198.51.100.0/24",
            "globex",
            "acme",
            "account \"globex\" cannot delegate it back to its owner",
        ),
        ("globex", "198.51.100.0/25", "globex", "initech", "cannot delegate it on to account \"initech\""),
        ("operator", "198.51.100.0/25", "globex", "initech", "cannot delegate it on to account \"initech\""),
        (
            "globex",
            "198.51.100.0/25",
            "acme",
            "initech",
            "account \"globex\" may not delegate 198.51.100.0/25 from",
        ),
        ("acme", "198.51.100.0/24", "acme", "acme", "account \"acme\" delegates 198.51.100.0/24 to itself"),
        ("acme", "198.51.100.0/24", "acme", "globex", "is delegated from \"acme\" to \"globex\" twice"),
        ("acme", "198.51.100.0/24", "acme", "nobody", "delegation: account \"nobody\" does not exist"),
        ("operator", "198.51.100.0/24", "nobody", "acme", "delegation: account \"nobody\" does not exist"),
        (
            "nobody",
            "198.51.100.0/24",
            "nobody",
            "acme",
            "account \"nobody\", which asks for it, does not exist",
        ),
        ("acme", "192.0.2.1/32", "acme", "globex", "which is leased; only BYOIP can be delegated"),
        ("acme", "198.51.100.1/24", "acme", "globex", "host bits"),
        ("acme", "198.51.0.0/16", "acme", "globex", "lies in no holding of account \"acme\""),
    ] {
        let delegation = delegation(block, from, to);
        let (kind, refusal) = refused(&mut registry, |r| r.delegate(&by(who), delegation.clone(), AT));
        assert!(refusal.contains(message), "{refusal}");
        assert_eq!(kind == ErrorKind::Forbidden, message.contains("may not"), "{refusal}");
    }
    for (who, block, to, message) in [
        (
            "globex",
            "198.51.100.0/24",
            "globex",
            "account \"globex\" may not revoke the delegation of 198.51.100.0/24",
        ),
        (
            "acme",
            "198.51.100.0/24",
            "initech",
            "there is none of 198.51.100.0/24 from account \"acme\" to account",
        ),
        ("acme", "198.51.100.0/25", "globex", "; 198.51.100.0/24 is, and is revoked as a whole"),
        ("acme", "198.51.100.7/25", "globex", "host bits"),
    ] {
        let delegation = delegation(block, "acme", to);
        let refusal = refused(&mut registry, |r| r.revoke(&by(who), &delegation, Revoke::Force, AT)).1;
        assert!(refusal.contains(message), "{refusal}");
    }
}

#[test]
fn a_holding_changes_its_owner_only_when_nobody_uses_it() {
    let mut registry = delegated_registry();
    let give = |r: &mut Registry, to| r.transfer(&by("operator"), &id("block"), &id(to), AT);
    let by_account = refused(&mut registry, |r| r.transfer(&by("acme"), &id("block"), &id("globex"), AT));
    assert_eq!(
        by_account,
        (
            ErrorKind::Forbidden,
            "account \"acme\" may not transfer holding \"block\"; only the operator may".into()
        )
    );
    assert_eq!(
        refused(&mut registry, |r| give(r, "nobody")).1,
        "holding \"block\": account \"nobody\" does not exist"
    );
    assert_eq!(
        refused(&mut registry, |r| give(r, "initech")).1,
        "holding \"block\": zone \"news\" of account \"globex\" leaves from it by pool \"half\"; it cannot go from account \
         \"acme\" to account \"initech\""
    );
    registry.disable(&by("globex"), &id("blog"), AT).unwrap();
    registry.disable(&by("globex"), &id("news"), AT).unwrap();
    assert_eq!(
        refused(&mut registry, |r| give(r, "initech")).1,
        "holding \"block\": 198.51.100.0/24 from account \"acme\" to account \"globex\" is delegated; revoke that first"
    );
    let whole = delegation("198.51.100.0/24", "acme", "globex");
    registry.revoke(&by("acme"), &whole, Revoke::IfUnused, AT).unwrap();
    let events = give(&mut registry, "initech").unwrap();
    assert_eq!(
        told(&events),
        [
            "61.007s the operator: transfer holding \"block\" (198.51.100.0/24): account \"acme\" -> account \"initech\"",
            "61.007s the operator: transfer pool \"half\": account \"acme\" -> account \"initech\"",
            "61.007s the operator: transfer pool \"whole\": account \"acme\" -> account \"initech\"",
        ]
    );
    assert_eq!(give(&mut registry, "initech").unwrap(), []);
    registry.enable(&by("initech"), &id("wiki"), &id("whole"), AT).unwrap();
    // What one customer's origins allow, another's have yet to.
    let lease = refused(&mut registry, |r| r.transfer(&by("operator"), &id("lease"), &id("globex"), AT)).1;
    assert!(lease.contains("it is active for the origins of account \"acme\": withdraw it first"), "{lease}");
    // A pool of two holdings would be of two accounts.
    registry.add_pool(&by("acme"), pool("mix", Right::Leased, &["192.0.2.1/32"]), AT).unwrap();
    let second = holding("second", Right::Leased, "192.0.2.9/32", AddressState::Allocated);
    registry.add_holding(&by("operator"), second, AT).unwrap();
    let both = vec![prefix("192.0.2.9/32"), prefix("192.0.2.1/32")];
    registry.change_pool(&by("acme"), &id("mix"), both, AT).unwrap();
    let mixed = refused(&mut registry, |r| r.transfer(&by("operator"), &id("second"), &id("globex"), AT)).1;
    assert!(mixed.contains("pool \"mix\" has 192.0.2.1/32 of another holding too"), "{mixed}");
}

#[test]
fn an_address_comes_to_active_step_by_step_and_only_the_operator_routes() {
    let mut registry = registry();
    let set = |r: &mut Registry, who, state| r.set_state(&by(who), &id("vi"), state, AT);
    let early = refused(&mut registry, |r| set(r, "acme", AddressState::Active));
    assert_eq!(early.0, ErrorKind::Forbidden, "nothing that begins as allocated");
    let early = refused(&mut registry, |r| set(r, "operator", AddressState::Active)).1;
    assert!(
        early.starts_with("holding \"vi\": it is allocated and cannot become active at once, only announced")
    );
    assert_eq!(
        refused(&mut registry, |r| set(r, "acme", AddressState::Announced)).1,
        "account \"acme\" may not set the state of holding \"vi\" to announced; only the operator may"
    );
    for (who, state) in [
        ("operator", AddressState::Announced),
        ("acme", AddressState::Allowlisted),
        ("acme", AddressState::Announced),
        ("acme", AddressState::Allowlisted),
        ("acme", AddressState::Active),
        ("acme", AddressState::Retiring),
        ("acme", AddressState::Active),
        ("operator", AddressState::Retiring),
        ("operator", AddressState::Allocated),
    ] {
        let was = registry.inventory().holding(&id("vi")).unwrap().state;
        let events = set(&mut registry, who, state).unwrap();
        let change = format!("holding \"vi\" (2001:db8::/48): {was} -> {state}");
        assert_eq!(told(&events), [format!("61.007s {}: set the state of {change}", by(who))]);
        assert_eq!(set(&mut registry, "operator", state).unwrap(), []);
        assert_eq!(
            refused(&mut registry, |r| set(r, "globex", AddressState::Active)).0,
            ErrorKind::Forbidden
        );
    }
}

#[test]
fn a_block_serves_egress_or_ingress_never_both() {
    let mut registry = registry();
    let serve = |r: &mut Registry, holding: &str, serves| r.set_serves(&by("acme"), &id(holding), serves, AT);
    let ingress = |r: &mut Registry| serve(r, "vi", Direction::Ingress);
    assert_eq!(
        refused(&mut registry, ingress).1,
        "holding \"vi\": pool \"six\" of account \"acme\" is made of it; a block serves egress or ingress, never both: \
         remove the pool first"
    );
    registry.remove_pool(&by("acme"), &id("six"), AT).unwrap();
    registry.delegate(&by("acme"), delegation("2001:db8::/64", "acme", "globex"), AT).unwrap();
    assert!(
        refused(&mut registry, ingress).1.contains("to account \"globex\" is delegated; revoke that first")
    );
    let part = delegation("2001:db8::/64", "acme", "globex");
    registry.revoke(&by("acme"), &part, Revoke::IfUnused, AT).unwrap();
    assert_eq!(
        told(&ingress(&mut registry).unwrap()),
        ["61.007s account \"acme\": set the direction of holding \"vi\" (2001:db8::/48): egress -> ingress"]
    );
    let six = pool("six", Right::Byoip, &["2001:db8:0:7::/64"]);
    let message = refused(&mut registry, |r| r.add_pool(&by("acme"), six.clone(), AT)).1;
    assert!(
        message.contains("holding \"vi\", which serves ingress; a block serves egress or ingress"),
        "{message}"
    );
    let message = refused(&mut registry, |r| r.delegate(&by("acme"), part.clone(), AT)).1;
    assert!(message.contains("holding \"vi\", which serves ingress: no zone can leave from it"), "{message}");
    let message =
        refused(&mut registry, |r| r.set_serves(&by("operator"), &id("lease"), Direction::Ingress, AT));
    assert!(message.1.contains("pool \"rented\""), "{message:?}");
    registry.remove_pool(&by("acme"), &id("rented"), AT).unwrap();
    let message = refused(&mut registry, |r| serve(r, "lease", Direction::Ingress)).1;
    assert!(message.contains("only a BYOIP block serves ingress"), "{message}");
}

#[test]
fn pools_keep_the_rights_of_the_zones_that_leave_from_them() {
    let mut registry = registry();
    registry.delegate(&by("acme"), delegation("198.51.100.0/25", "acme", "globex"), AT).unwrap();
    registry.enable(&by("globex"), &id("news"), &id("half"), AT).unwrap();
    let grow =
        |r: &mut Registry| r.change_pool(&by("acme"), &id("half"), vec![prefix("198.51.100.0/24")], AT);
    assert!(
        refused(&mut registry, grow)
            .1
            .contains("zone \"news\": pool \"half\" is of account \"acme\", which has not")
    );
    let shrink =
        |r: &mut Registry| r.change_pool(&by("acme"), &id("half"), vec![prefix("198.51.100.4/30")], AT);
    assert_eq!(
        told(&shrink(&mut registry).unwrap()),
        ["61.007s account \"acme\": change pool \"half\": {198.51.100.0/25} -> {198.51.100.4/30}"]
    );
    assert_eq!(shrink(&mut registry).unwrap(), []);
    assert_eq!(
        refused(&mut registry, |r| r.remove_pool(&by("acme"), &id("half"), AT)).1,
        "pool \"half\": zone \"news\" of account \"globex\" leaves from it, a pool of account \"acme\"; disable that first"
    );
    for (who, prefixes, message) in [
        (
            "globex",
            vec!["198.51.100.4/30"],
            "account \"globex\" may not change pool \"half\" of account \"acme\"; only",
        ),
        (
            "acme",
            vec!["198.51.100.4/30", "192.0.2.1/32"],
            "which is leased; the pool is byoip, and never both",
        ),
        ("acme", vec![], "it has no prefixes"),
    ] {
        let prefixes: Vec<_> = prefixes.into_iter().map(prefix).collect();
        let refusal =
            refused(&mut registry, |r| r.change_pool(&by(who), &id("half"), prefixes.clone(), AT)).1;
        assert!(refusal.contains(message), "{refusal}");
    }
    let twin = pool("half", Right::Byoip, &["198.51.100.0/32"]);
    let twin = refused(&mut registry, |r| r.add_pool(&by("acme"), twin.clone(), AT)).1;
    assert_eq!(twin, "pool \"half\": this id is defined twice");
}

#[test]
fn accounts_zones_and_holdings_come_and_go_when_nothing_hangs_on_them() {
    let mut registry = registry();
    let operator = by("operator");
    let hooli = Account { id: id("hooli"), name: "Hooli".into() };
    assert_eq!(
        refused(&mut registry, |r| r.add_account(&by("acme"), hooli.clone(), AT)).1,
        "account \"acme\" may not add account \"hooli\"; only the operator may"
    );
    let events = registry.add_account(&operator, hooli.clone(), AT).unwrap();
    assert_eq!(told(&events), ["61.007s the operator: add account \"hooli\": nothing -> \"Hooli\""]);
    assert!(
        refused(&mut registry, |r| r.add_account(&operator, hooli.clone(), AT)).1.contains("named \"Hooli\"")
    );

    let taken = refused(&mut registry, |r| r.add_zone(&by("hooli"), &id("shop"), &id("hooli"), AT)).1;
    assert_eq!(taken, "zone \"shop\": there is one with this id already, of account \"acme\"");
    let stranger = refused(&mut registry, |r| r.add_zone(&by("acme"), &id("www"), &id("hooli"), AT)).1;
    assert!(
        stranger.contains("may not add zone \"www\" of account \"hooli\"; only account \"hooli\" or"),
        "{stranger}"
    );
    registry.add_zone(&by("hooli"), &id("www"), &id("hooli"), AT).unwrap();

    let mut lease = holding("new", Right::Leased, "192.0.2.2/32", AddressState::Active);
    lease.account = id("hooli");
    let early = refused(&mut registry, |r| r.add_holding(&operator, lease.clone(), AT)).1;
    assert!(early.contains("it would begin as active; a new holding begins as allocated"), "{early}");
    lease.state = AddressState::Allocated;
    registry.add_holding(&operator, lease.clone(), AT).unwrap();
    let mut twin = holding("twin", Right::Byoip, "192.0.2.0/24", AddressState::Allocated);
    let overlap = refused(&mut registry, |r| r.add_holding(&operator, twin.clone(), AT)).1;
    assert_eq!(overlap, "holding \"twin\": 192.0.2.0/24 overlaps 192.0.2.1/32 of holding \"lease\"");
    twin.account = id("nobody");
    let nobody = refused(&mut registry, |r| r.add_holding(&operator, twin.clone(), AT)).1;
    assert_eq!(nobody, "holding \"twin\": account \"nobody\" does not exist");
    let mut own = pool("own", Right::Leased, &["192.0.2.2/32"]);
    own.account = id("hooli");
    registry.add_pool(&by("hooli"), own, AT).unwrap();
    registry.enable(&by("hooli"), &id("www"), &id("own"), AT).unwrap();

    let leave = |r: &mut Registry| r.remove_account(&operator, &id("hooli"), AT);
    let give_up = |r: &mut Registry| r.remove_holding(&operator, &id("new"), AT);
    assert_eq!(
        refused(&mut registry, leave).1,
        "account \"hooli\": it still has zone \"www\"; remove that first"
    );
    let events = registry.remove_zone(&by("hooli"), &id("www"), AT).unwrap();
    assert_eq!(
        told(&events),
        ["61.007s account \"hooli\": remove zone \"www\" of account \"hooli\": pool \"own\" -> nothing"]
    );
    assert!(refused(&mut registry, leave).1.contains("it still has holding \"new\""));
    assert_eq!(
        refused(&mut registry, give_up).1,
        "holding \"new\": pool \"own\" of account \"hooli\" is made of it; remove the pool first"
    );
    registry.remove_pool(&by("hooli"), &id("own"), AT).unwrap();
    give_up(&mut registry).unwrap();
    registry.delegate(&by("acme"), delegation("198.51.100.0/24", "acme", "hooli"), AT).unwrap();
    assert!(refused(&mut registry, leave).1.contains("it still has the delegation of 198.51.100.0/24"));
    let whole = delegation("198.51.100.0/24", "acme", "hooli");
    registry.revoke(&by("acme"), &whole, Revoke::IfUnused, AT).unwrap();
    leave(&mut registry).unwrap();
    assert_eq!(registry.tenancy(), self::registry().tenancy(), "as it was at first");

    registry.remove_pool(&by("acme"), &id("rented"), AT).unwrap();
    let live = refused(&mut registry, |r| r.remove_holding(&operator, &id("lease"), AT)).1;
    assert!(live.contains("it is active; live connections would be cut"), "{live}");
}

#[test]
fn unknown_names_are_refused() {
    let mut registry = registry();
    let by_nobody = refused(&mut registry, |r| r.disable(&by("nobody"), &id("shop"), AT)).1;
    assert_eq!(by_nobody, "account \"nobody\", which asks for it, does not exist");
    let o = by("operator");
    for (kind, error) in [
        ("zone", refused(&mut registry, |r| r.enable(&o, &id("none"), &id("whole"), AT))),
        ("zone", refused(&mut registry, |r| r.remove_zone(&o, &id("none"), AT))),
        ("pool", refused(&mut registry, |r| r.enable(&o, &id("shop"), &id("none"), AT))),
        ("pool", refused(&mut registry, |r| r.remove_pool(&o, &id("none"), AT))),
        ("holding", refused(&mut registry, |r| r.transfer(&o, &id("none"), &id("acme"), AT))),
        ("holding", refused(&mut registry, |r| r.set_state(&o, &id("none"), AddressState::Active, AT))),
        ("holding", refused(&mut registry, |r| r.remove_holding(&o, &id("none"), AT))),
        ("account", refused(&mut registry, |r| r.remove_account(&o, &id("none"), AT))),
        ("zone", refused(&mut registry, |r| r.add_zone(&o, &id("new"), &id("none"), AT))),
    ] {
        assert_eq!(error.0, ErrorKind::Input);
        assert!(
            error.1.contains(&format!("{kind} \"none\" does not exist"))
                || error.1.contains("account \"none\"")
        );
    }
}

#[test]
fn an_audit_event_is_a_value_that_is_written_and_read_back() {
    let mut registry = delegated_registry();
    let whole = delegation("198.51.100.0/24", "acme", "globex");
    let mut events = registry.revoke(&by("acme"), &whole, Revoke::Force, AT).unwrap();
    events.extend(registry.enable(&by("operator"), &id("blog"), &id("rented"), AT).unwrap());
    events.extend(registry.set_state(&by("operator"), &id("block"), AddressState::Allocated, AT).unwrap());
    for event in &events {
        let json = serde_json::to_string(event).unwrap();
        assert_eq!(serde_json::from_str::<AuditEvent>(&json).unwrap(), *event, "{json}");
    }
    assert_eq!(
        serde_json::to_string(&events[0]).unwrap(),
        r#"{"at":61007,"who":{"account":"acme"},"what":"disable","subject":{"zone":{"before":{"id":"blog","account":"globex","pool":"whole","enabled_by":"account"},"after":{"id":"blog","account":"globex","pool":null,"enabled_by":"account"}}},"because":{"prefix":"198.51.100.0/24","from":"acme","to":"globex"}}"#
    );
}
