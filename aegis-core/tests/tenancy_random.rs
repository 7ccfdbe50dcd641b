//! Random changes of every kind: whatever is accepted leads to what a file may say, and is told by its events.

use std::collections::{BTreeMap, BTreeSet};

use aegis_core::error::Result;
use aegis_core::id::HoldingId;
use aegis_core::inventory::{AddressState, DataCenters, Direction, Holding, Inventory, Pool, Right};
use aegis_core::tenancy::{
    Account, Action, Actor, AuditEvent, Change, Delegation, Registry, Revoke, Subject, Tenancy,
};
use aegis_core::time::Time;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

/// The guest begins with nothing, and so can go and come.
const ACCOUNTS: [&str; 4] = ["a", "b", "c", "guest"];
/// Prefixes of holdings and of parts of them, some of which overlap.
const BLOCKS: [&str; 8] = [
    "192.0.2.1/32",
    "192.0.2.2/31",
    "198.51.100.0/24",
    "198.51.100.0/25",
    "198.51.100.128/26",
    "2001:db8::/48",
    "2001:db8:0:1::/64",
    "::ffff:198.51.100.0/120",
];
const LENGTH: usize = 200;

/// One change: what, by whom, and numbers that choose the things.
type Step = (u8, usize, [usize; 4]);

fn name<T: std::str::FromStr<Err = aegis_core::Error>>(kind: &str, n: usize) -> T {
    format!("{kind}{}", n % 3).parse().unwrap()
}

fn block(n: usize) -> ipnet::IpNet {
    BLOCKS[n % BLOCKS.len()].parse().unwrap()
}

fn apply(registry: &mut Registry, (what, who, [a, b, c, d]): Step) -> Result<Vec<AuditEvent>> {
    let account = |n: usize| ACCOUNTS[n % 4].parse().unwrap();
    // Half of all changes are by the operator, so that much is accepted.
    let who = if who < 4 { Actor::Account(account(who)) } else { Actor::Operator };
    let (who, at) = (&who, Time::from_millis(7));
    let right = if c % 2 == 0 { Right::Leased } else { Right::Byoip };
    let serves = if d % 5 == 0 { Direction::Ingress } else { Direction::Egress };
    let delegation = Delegation { prefix: block(a), from: account(b), to: account(c) };
    match what {
        0 => registry.add_account(who, Account { id: account(a), name: "x".into() }, at),
        1 if b % 4 == 0 => registry.remove_account(who, &account(a), at),
        1 => registry.add_zone(who, &name("z", a), &account(b), at),
        2 => registry.add_zone(who, &name("z", a), &account(b), at),
        3 => registry.remove_zone(who, &name("z", a), at),
        4..=5 => {
            let prefix = block(b);
            let data_centers = if prefix.addr().is_ipv4() || b % 8 == 7 {
                vec![name("dc", d)].into()
            } else {
                DataCenters::Global
            };
            let (id, account, state) = (name("h", a), account(d), AddressState::Allocated);
            let holding = Holding { id, account, right, prefix, data_centers, serves, state };
            registry.add_holding(who, holding, at)
        }
        6 => registry.remove_holding(who, &name("h", a), at),
        7 => registry.transfer(who, &name("h", a), &account(b), at),
        8..=9 => registry.set_state(who, &name("h", a), AddressState::ALL[b % 5], at),
        10 => registry.set_serves(who, &name("h", a), serves, at),
        11..=12 => {
            // Of whoever has the addresses, mostly.
            let held = registry.inventory().holding_of(block(b).addr());
            let (account, right) =
                held.map_or((account(d), right), |held| (held.account.clone(), held.right));
            registry.add_pool(who, Pool { id: name("p", a), account, right, prefixes: vec![block(b)] }, at)
        }
        13 => registry.change_pool(who, &name("p", a), vec![block(b), block(c)], at),
        14 => registry.remove_pool(who, &name("p", a), at),
        15..=17 => registry.delegate(who, delegation, at),
        18 => registry.revoke(who, &delegation, Revoke::IfUnused, at),
        19 => match registry.tenancy().delegations().first().cloned() {
            Some(one) => registry.revoke(who, &one, Revoke::Force, at),
            None => registry.revoke(who, &delegation, Revoke::Force, at),
        },
        20..=23 => registry.enable(who, &name("z", a), &name("p", b), at),
        _ => registry.disable(who, &name("z", a), at),
    }
}

/// Everything there is, as the events tell it: one line for each thing.
type Told = BTreeMap<String, String>;

fn put<T: serde::Serialize>(told: &mut Told, key: impl Fn(&T) -> String, change: &Change<T>) {
    let text = |thing: &T| serde_json::to_string(thing).unwrap();
    let one = change.before.as_ref().or(change.after.as_ref()).expect("an event is about something");
    assert_eq!(told.remove(&key(one)), change.before.as_ref().map(text), "before");
    told.extend(change.after.as_ref().map(|after| (key(after), text(after))));
}

fn tell(told: &mut Told, subject: &Subject) {
    match subject {
        Subject::Account(change) => put(told, |one| format!("account {}", one.id), change),
        Subject::Holding(change) => put(told, |one| format!("holding {}", one.id), change),
        Subject::Pool(change) => put(told, |one| format!("pool {}", one.id), change),
        Subject::Zone(change) => put(told, |one| format!("zone {}", one.id), change),
        Subject::Delegation(change) => put(told, ToString::to_string, change),
    }
}

fn all_of(registry: &Registry) -> Told {
    let (inventory, tenancy) = (registry.inventory(), registry.tenancy());
    let mut told = Told::new();
    let subjects =
        tenancy.accounts().cloned().map(|x| Subject::Account(Change { before: None, after: Some(x) }));
    let subjects = subjects
        .chain(
            inventory.holdings().cloned().map(|x| Subject::Holding(Change { before: None, after: Some(x) })),
        )
        .chain(inventory.pools().cloned().map(|x| Subject::Pool(Change { before: None, after: Some(x) })))
        .chain(tenancy.zones().cloned().map(|x| Subject::Zone(Change { before: None, after: Some(x) })))
        .chain(
            tenancy
                .delegations()
                .iter()
                .cloned()
                .map(|x| Subject::Delegation(Change { before: None, after: Some(x) })),
        );
    subjects.for_each(|subject| tell(&mut told, &subject));
    told
}

/// Builds everything anew, as from a file.
fn rebuilt(registry: &Registry) -> Result<Registry> {
    let (inventory, tenancy) = (registry.inventory(), registry.tenancy());
    let holdings: Vec<_> = inventory.holdings().cloned().collect();
    let inventory = Inventory::new(holdings, inventory.pools().cloned(), 4)?;
    let parts = (tenancy.accounts().cloned(), tenancy.zones().cloned(), tenancy.delegations().to_vec());
    let tenancy = Tenancy::new(&inventory, parts.0, parts.1, parts.2)?;
    Registry::new(inventory, tenancy, 4)
}

/// A holding and a pool for each account: a BYOIP block, a leased address, IPv6.
fn start() -> Registry {
    let accounts = ACCOUNTS.map(|id| Account { id: id.parse().unwrap(), name: id.into() });
    let tenancy = Tenancy::new(&Inventory::default(), accounts, [], []).unwrap();
    let mut registry = Registry::new(Inventory::default(), tenancy, 4).unwrap();
    let operator = 4;
    for (n, (block, part, byoip)) in [(2, 3, 1), (0, 0, 0), (5, 6, 1)].into_iter().enumerate() {
        apply(&mut registry, (2, operator, [n, n, 0, 0])).unwrap();
        apply(&mut registry, (4, operator, [n, block, byoip, n + 6])).unwrap();
        apply(&mut registry, (11, operator, [n, part, 0, 0])).unwrap();
    }
    registry
}

/// What was done.
fn walk(steps: Vec<Step>) -> BTreeMap<Action, usize> {
    let mut registry = start();
    let mut told = all_of(&registry);
    let mut allowlisted = BTreeSet::<HoldingId>::new();
    let mut done = BTreeMap::new();
    for step in steps {
        let before = registry.clone();
        let Ok(events) = apply(&mut registry, step) else {
            assert_eq!(registry, before, "{step:?} is refused, and has changed something");
            continue;
        };
        for event in &events {
            *done.entry(event.what).or_default() += 1;
            assert!(!event.to_string().is_empty());
            tell(&mut told, &event.subject);
        }
        assert_eq!(told, all_of(&registry), "{step:?}: {events:?}");
        assert_eq!(rebuilt(&registry).as_ref(), Ok(&registry), "{step:?} leads to what no file may say");
        for holding in registry.inventory().holdings() {
            match holding.state {
                AddressState::Allocated | AddressState::Announced => allowlisted.remove(&holding.id),
                AddressState::Allowlisted => allowlisted.insert(holding.id.clone()),
                AddressState::Active | AddressState::Retiring => {
                    assert!(allowlisted.contains(&holding.id), "{step:?}: used before it was allowlisted");
                    false
                }
            };
        }
    }
    done
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec((0_u8..26, 0_usize..8, [0_usize..40, 0..40, 0..40, 0..40]), LENGTH)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_accepted_leads_to_what_a_file_may_say_and_is_told_in_full(steps in steps()) {
        walk(steps);
    }
}

#[test]
fn every_kind_of_change_is_among_what_is_accepted() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut done = BTreeMap::<Action, usize>::new();
    for _ in 0..60 {
        for (action, times) in walk(steps().new_tree(&mut runner).unwrap().current()) {
            *done.entry(action).or_default() += times;
        }
    }
    let missing = |action: &&Action| **action != Action::ReadAnalytics && !done.contains_key(action);
    assert_eq!(Action::ALL.iter().find(missing), None, "{done:?}");
}
