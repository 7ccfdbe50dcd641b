//! Who used how much in an interval, from samples and from counters that only grow.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeMap;

use crate::id::{AccountId, ZoneId};
use crate::lease::{Cell, Memory, QuotaSlot, Table};
use crate::net::Origin;
use crate::time::Time;

use super::{Capacities, Record, Refused, Rows, Subject, Usage, occupancy, set_capacity};

/// Integrates the use of one lease table, and makes records of it interval by interval. There is one meter for a table: it
/// takes the high-water marks with it when it closes an interval ([`Usage::peak`] says how near the truth they are; what is
/// forgotten between two samples has none).
///
/// Between two samples live + held count as they were at the first one: the integral is exact for what was sampled. What was
/// granted and refused comes from counters, so no sample is needed to miss nothing; a count that was on its way from a
/// worker to where it is read is the next sample's. Nothing is counted twice. An origin with one connection at a time, and
/// what an origin had counted that was forgotten since the last sample, is counted for the egress IP without an origin.
#[derive(Debug)]
pub struct Meter {
    /// When the interval began.
    began: Time,
    last: Time,
    sources: BTreeMap<(IpAddr, Option<Origin>), Source>,
    egress: BTreeMap<IpAddr, [u64; 3]>,
    /// As of the last sample.
    capacity: Capacities,
    /// By page: the use of it that was seen last, and its numbers.
    seen: BTreeMap<u32, (u16, [u64; 3])>,
    zones: BTreeMap<(ZoneId, AccountId), Zone>,
    /// What users of the table had counted when it began, of which it has seen no zone yet.
    before: BTreeMap<QuotaSlot, [u64; 10]>,
}

/// What a meter has measured in one interval.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Measured {
    /// How long the interval was, by the clock of the samples. The period of a report of it must be as long
    /// ([`Period::ending`](super::Period::ending)), or averages do not fit: another clock may run otherwise.
    pub length: Duration,
    /// A record for every subject that had anything in the interval, in order; and one without an origin for every
    /// address that had nothing, because idle ports are capacity too.
    pub records: Vec<Record>,
}

/// Who may be told about an egress IP.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Whose {
    /// Who owns it.
    pub account: Option<AccountId>,
    /// The zone, if only one may use it.
    pub zone: Option<ZoneId>,
}

/// What a zone did on this machine, from all addresses together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZoneUsage {
    /// The zone.
    pub zone: ZoneId,
    /// Who owns it.
    pub account: AccountId,
    /// Its live leases: exact, as of the moment of reading.
    pub live: u32,
    /// Ports that it may use here towards one origin, of both address families.
    pub capacity: u32,
    /// Leases granted since the lease table was made, or since the meter began.
    pub granted: u64,
    /// Acquires refused, likewise.
    pub refused: Refused,
    /// Where the lease table counts it.
    pub(crate) user: Option<QuotaSlot>,
}

/// A load that is sampled.
#[derive(Clone, Copy, Default, Debug)]
struct Load {
    now: u32,
    port_millis: u64,
    min: u32,
    max: u32,
}

impl Load {
    fn go_on(&mut self, ms: u64) {
        self.port_millis = self.port_millis.saturating_add(u64::from(self.now).saturating_mul(ms));
    }

    fn see(&mut self, now: u32, peak: u32) {
        *self = Self { now, min: self.min.min(now), max: self.max.max(peak).max(now), ..*self };
    }

    fn restart(&mut self) {
        *self = Self { now: self.now, port_millis: 0, min: self.now, max: self.now };
    }
}

#[derive(Debug)]
struct Source {
    load: Load,
    /// As of the last sample; counters since the meter began.
    row: Usage,
    /// The counters at the end of the last interval.
    reported: [u64; 3],
}

#[derive(Debug)]
struct Zone {
    load: Load,
    row: ZoneUsage,
    /// What the lease table said: granted, then refused by reason.
    seen: [u64; 10],
    reported: [u64; 10],
}

impl Source {
    fn counters(&self) -> [u64; 3] {
        [self.row.granted, self.row.refused, self.row.refused_by_limit]
    }

    fn since_reported(&self) -> [u64; 3] {
        less(self.counters(), self.reported)
    }
}

impl ZoneUsage {
    fn counters(&self) -> [u64; 10] {
        counters(self.granted, &self.refused)
    }

    fn set_counters(&mut self, [granted, refused @ ..]: [u64; 10]) {
        self.granted = granted;
        self.refused = Refused::from_counts(refused);
    }
}

impl Meter {
    /// Begins to measure: what was granted and refused before is no interval's.
    pub fn start<M: Memory>(table: &Table<M>, zones: &[ZoneUsage], now: Time) -> Self {
        let mut meter = Self {
            began: now,
            last: now,
            sources: BTreeMap::new(),
            egress: BTreeMap::new(),
            capacity: Capacities::new(),
            seen: BTreeMap::new(),
            zones: BTreeMap::new(),
            before: BTreeMap::new(),
        };
        meter.sample(table, zones, now);
        // A zone that comes later may have been served before, by another process too.
        meter.before = table
            .users()
            .map(|(user, counts)| (user, counters(counts.granted, &Refused::from_reasons(counts.refused))))
            .collect();
        table.take_peaks().for_each(drop);
        for source in meter.sources.values_mut() {
            source.load.restart();
            (source.row.granted, source.row.refused, source.row.refused_by_limit) = (0, 0, 0);
        }
        for zone in meter.zones.values_mut() {
            zone.load.restart();
            zone.row.set_counters([0; 10]);
        }
        meter
    }

    /// Looks at the table: at any times, each second for example. If `now` is before the last sample no time has passed.
    /// `zones` is what every zone did since the lease table was made.
    pub fn sample<M: Memory>(&mut self, table: &Table<M>, zones: &[ZoneUsage], now: Time) {
        let ms = now.as_millis().saturating_sub(self.last.as_millis());
        self.last = self.last.max(now);
        let sources = self.sources.values_mut().map(|source| &mut source.load);
        sources.chain(self.zones.values_mut().map(|zone| &mut zone.load)).for_each(|load| load.go_on(ms));
        let (rows, capacity) = occupancy(table, now);
        self.look(rows);
        self.count(table);
        set_capacity(&capacity, self.sources.values_mut().map(|source| &mut source.row));
        self.capacity = capacity;
        self.look_at_zones(zones);
    }

    /// Takes a last sample and ends the interval; the next one begins. `whose` says who may be told about an egress IP.
    pub fn close<M: Memory>(
        &mut self,
        table: &Table<M>,
        zones: &[ZoneUsage],
        now: Time,
        whose: impl Fn(IpAddr) -> Whose,
    ) -> Measured {
        self.sample(table, zones, now);
        for (egress_ip, origin, peak) in table.take_peaks() {
            let load = &mut self.source(egress_ip, origin).load;
            load.max = load.max.max(peak);
        }
        let mut records = Vec::new();
        let mut idle = self.capacity.clone();
        self.sources.retain(|&(egress_ip, origin), source| {
            let [granted, exhausted, origin_limit] = source.since_reported();
            let Usage { live, held, resting, parked, capacity, .. } = source.row;
            let Load { port_millis, min, max, .. } = source.load;
            let is_idle = max | resting | parked == 0 && granted | exhausted | origin_limit == 0;
            if !is_idle {
                idle.remove(&egress_ip);
                let Whose { account, zone } = whose(egress_ip);
                let subject = Subject::Source { egress_ip, origin, account, zone };
                let refused = Refused { exhausted, origin_limit, ..Refused::default() };
                records.push(Record {
                    subject,
                    port_millis,
                    min,
                    max,
                    live,
                    held,
                    resting,
                    parked,
                    capacity,
                    granted,
                    refused,
                });
            }
            source.reported = source.counters();
            source.load.restart();
            !is_idle || origin.is_none()
        });
        for (egress_ip, capacity) in idle {
            let Whose { account, zone } = whose(egress_ip);
            let subject = Subject::Source { egress_ip, origin: None, account, zone };
            records.push(Record { capacity, ..Record::idle(subject) });
        }
        for ((id, _), zone) in &mut self.zones {
            let [granted, refused @ ..] = less(zone.row.counters(), zone.reported);
            let Load { port_millis, min, max, .. } = zone.load;
            if max != 0 || granted != 0 || refused != [0; 9] {
                records.push(Record {
                    subject: Subject::Zone { zone: id.clone(), account: zone.row.account.clone() },
                    port_millis,
                    min,
                    max,
                    live: zone.row.live,
                    held: 0,
                    resting: 0,
                    parked: 0,
                    capacity: zone.row.capacity,
                    granted,
                    refused: Refused::from_counts(refused),
                });
            }
            zone.reported = zone.row.counters();
            zone.load.restart();
        }
        records.sort_unstable();
        let length = self.last.since(self.began);
        self.began = self.last;
        Measured { length, records }
    }

    /// The last sample. What was granted and refused is since the meter began. A row without an origin stays; others go when
    /// nothing was there for an interval, and begin again at 0 when something is.
    pub fn rows(&self) -> Vec<Usage> {
        self.sources.values().map(|source| source.row).collect()
    }

    /// The last sample of the zones, likewise.
    pub fn zones(&self) -> Vec<ZoneUsage> {
        self.zones.values().map(|zone| zone.row.clone()).collect()
    }

    fn source(&mut self, egress_ip: IpAddr, origin: Option<Origin>) -> &mut Source {
        self.sources.entry((egress_ip, origin)).or_insert_with(|| Source {
            load: Load::default(),
            row: Usage::new(egress_ip, origin),
            reported: [0; 3],
        })
    }

    fn look(&mut self, mut rows: Rows) {
        for &(egress_ip, origin) in rows.keys() {
            self.source(egress_ip, origin);
        }
        for (&(egress_ip, origin), source) in &mut self.sources {
            let counters = source.counters();
            let row = rows.remove(&(egress_ip, origin)).unwrap_or_else(|| Usage::new(egress_ip, origin));
            source.row = row;
            source.row.count(counters);
            source.load.see(row.live + row.held, row.peak);
        }
    }

    /// What was granted and refused since the last sample.
    fn count<M: Memory>(&mut self, table: &Table<M>) {
        // What is counted from an egress IP in all, and for the page of an origin.
        let mut totals = BTreeMap::<IpAddr, [u64; 3]>::new();
        let mut pages = BTreeMap::<Cell, (IpAddr, Option<Origin>, [u64; 3])>::new();
        for tally in table.tallies() {
            add(totals.entry(tally.egress_ip).or_default(), tally.numbers);
            if let Some(cell) = tally.cell {
                let (_, origin, numbers) = pages.entry(cell).or_insert((tally.egress_ip, None, [0; 3]));
                *origin = tally.origin.or(*origin);
                add(numbers, tally.numbers);
            }
        }
        for (cell, (egress_ip, origin, numbers)) in pages {
            let seen = self.seen.entry(cell.page).or_insert((cell.uses, [0; 3]));
            match cell.uses.wrapping_sub(seen.0) as i16 {
                // An earlier use: it is gone by now.
                ..0 => continue,
                0 => {}
                1.. => *seen = (cell.uses, [0; 3]),
            }
            let more = less(numbers, seen.1);
            // Not fewer than were seen before, if some are on their way.
            add(&mut seen.1, more);
            add(self.egress.entry(egress_ip).or_default(), more);
            self.source(egress_ip, origin).row.count(more);
        }
        // What is left is not of any page, or of one that is gone.
        for (egress_ip, total) in totals {
            let counted = self.egress.entry(egress_ip).or_default();
            let more = less(total, *counted);
            add(counted, more);
            if more != [0; 3] {
                self.source(egress_ip, None).row.count(more);
            }
        }
    }

    fn look_at_zones(&mut self, zones: &[ZoneUsage]) {
        for usage in zones {
            let before = usage.user.and_then(|user| self.before.get(&user));
            let key = (usage.zone.clone(), usage.account.clone());
            let zone = self.zones.entry(key).or_insert_with(|| Zone {
                load: Load::default(),
                row: ZoneUsage { granted: 0, refused: Refused::default(), ..usage.clone() },
                seen: before.copied().unwrap_or_default(),
                reported: [0; 10],
            });
            let more = less(usage.counters(), zone.seen);
            add(&mut zone.seen, more);
            let mut counters = zone.row.counters();
            add(&mut counters, more);
            zone.row = usage.clone();
            zone.row.set_counters(counters);
            zone.load.see(usage.live, 0);
        }
    }
}

fn counters(granted: u64, refused: &Refused) -> [u64; 10] {
    let mut counters = [granted; 10];
    counters[1..].copy_from_slice(&refused.counts());
    counters
}

fn add<const N: usize>(sum: &mut [u64; N], more: [u64; N]) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum = sum.saturating_add(more);
    }
}

fn less<const N: usize>(from: [u64; N], what: [u64; N]) -> [u64; N] {
    core::array::from_fn(|nth| from[nth].saturating_sub(what[nth]))
}
