//! Who is over its threshold, and what has changed?

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::load::{Group, Load, sums};
use super::threshold::{Level, Threshold};
use crate::error::{Error, Result};
use crate::time::Time;

/// What happened to an alarm.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Somebody must know.
    Raised,
    /// It is below the clearing level.
    Cleared,
    /// It was raised, and nobody has said anything of the group since: whether it is still too full is unknown. If the
    /// group comes back it is new.
    Stale,
}

/// A change of one alarm. Of one threshold and group, `Raised` and the two others take turns.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Event {
    /// From 1, one more each time, so that a reader sees whether it missed one.
    pub number: u64,
    /// When it was found.
    pub at: Time,
    /// What happened.
    pub change: Change,
    /// The threshold's name.
    pub threshold: Arc<str>,
    /// What it is about.
    pub of: Group,
    /// Raised: since when the use has been at or above the level. Cleared and stale: when the alarm was raised.
    pub since: Time,
    /// Live and held connections of the sample that decided (the last one, for `Stale`); for thresholds that must not
    /// last, the peak.
    pub in_use: u64,
    /// Ports provisioned in that sample.
    pub provisioned: u64,
    /// The level that raises the alarm.
    pub level: Level,
}

/// One group under one threshold.
#[derive(Clone, Debug, Default)]
struct Alarm {
    sampled: Option<Time>,
    in_use: u64,
    provisioned: u64,
    /// Since when every sample has reached the level.
    reached: Option<Time>,
    raised: Option<Time>,
}

/// A threshold and the groups that have samples under it.
#[derive(Clone, Debug)]
struct Watch {
    name: Arc<str>,
    threshold: Threshold,
    alarms: BTreeMap<Group, Alarm>,
}

/// Thresholds, and which groups are over them.
///
/// Give it the loads of one moment together ([`Alerts::sample`]), then ask who has vanished ([`Alerts::expire`]), all by
/// one clock. What is not later than the group's last sample, or before the last `expire`, changes nothing.
///
/// - An alarm is active at the end of every run of samples that lasts as long as the threshold asks and in which each one
///   reaches the level, unless two of them are further apart than `stale_after`.
/// - For a threshold that must not last, a sample counts with its peak: what was too much between two samples is not
///   missed. The sample after it may clear the alarm.
/// - Percentages are of what is provisioned in that sample: an alarm may be raised because ports were taken away.
///
/// ```
/// use aegis_core::capacity::{Alerts, Change, Group, Load, Threshold};
/// use aegis_core::time::Time;
/// use core::time::Duration;
///
/// let threshold: Threshold = toml::from_str("name = \"full\"\npercent = 80\nclear_below = 70\nhold_seconds = 60")?;
/// let mut alerts = Alerts::new([threshold], Duration::from_secs(90))?;
/// let mut changes = |seconds: u64, in_use| {
///     let load = Load { of: Group::default(), in_use, peak: in_use, provisioned: 2_048 };
///     let events = alerts.sample(Time::from_millis(seconds * 1_000), &[load]);
///     events.iter().map(|event| event.change).collect::<Vec<_>>()
/// };
/// assert!(changes(0, 1_638).is_empty());
/// assert_eq!(changes(15, 1_639), [Change::Raised]); // 80 % are 1,638.4
/// assert!(changes(30, 1_000).is_empty()); // within the hold
/// assert!(changes(75, 1_500).is_empty()); // 73 %
/// assert_eq!(changes(90, 1_433), [Change::Cleared]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Alerts {
    watches: Vec<Watch>,
    stale_after: Duration,
    events: u64,
    expired: Time,
}

impl Alerts {
    /// No alarm is raised yet. A group is stale when its last sample is older than `stale_after`.
    ///
    /// # Errors
    /// Two thresholds of one name; a `stale_after` of zero, which would make everything stale at once.
    pub fn new(thresholds: impl IntoIterator<Item = Threshold>, stale_after: Duration) -> Result<Self> {
        if stale_after.is_zero() {
            return Err(Error::input(
                "samples are stale after 0 s; give a few times the interval between them",
            ));
        }
        let mut watches = Vec::<Watch>::new();
        for threshold in thresholds {
            let name = Arc::from(threshold.name());
            if watches.iter().any(|watch| watch.name == name) {
                return Err(Error::input(format!("threshold {name:?} is there twice; rename one")));
            }
            watches.push(Watch { name, threshold, alarms: BTreeMap::new() });
        }
        Ok(Self { watches, stale_after, events: 0, expired: Time::ZERO })
    }

    /// Takes the loads of one moment, and returns what changed: by threshold as given, then by group.
    ///
    /// A group of which nothing is given keeps its state. A group of which a part is missing looks emptier than it is, so
    /// give all parts, and no connection twice.
    pub fn sample(&mut self, now: Time, loads: &[Load]) -> Vec<Event> {
        let mut events = Vec::new();
        if now < self.expired {
            return events;
        }
        for Watch { name, threshold, alarms } in &mut self.watches {
            for (of, load) in sums(loads, &threshold.only, &threshold.by) {
                let alarm = alarms.entry(of.clone()).or_default();
                if let Some((change, since)) = alarm.step(threshold, now, &load, self.stale_after) {
                    events.push(alarm.event((name, threshold), of, now, change, since));
                }
            }
        }
        self.numbered(events)
    }

    /// Forgets groups whose last sample is older than `stale_after`, and says so where an alarm was raised (not before
    /// its hold is over). Memory is bounded by the groups that have samples as long as somebody calls this.
    pub fn expire(&mut self, now: Time) -> Vec<Event> {
        self.expired = self.expired.max(now);
        let mut events = Vec::new();
        for Watch { name, threshold, alarms } in &mut self.watches {
            alarms.retain(|of, alarm| {
                let is_fresh = alarm.sampled.is_none_or(|sampled| now.since(sampled) <= self.stale_after);
                match alarm.raised {
                    _ if is_fresh => true,
                    Some(raised) if now.since(raised) < threshold.hold_span() => true,
                    Some(raised) => {
                        events.push(alarm.event((name, threshold), of.clone(), now, Change::Stale, raised));
                        false
                    }
                    None => false,
                }
            });
        }
        self.numbered(events)
    }

    /// The alarms that are raised: threshold, group, since when.
    pub fn raised(&self) -> impl Iterator<Item = (&Threshold, &Group, Time)> {
        self.watches.iter().flat_map(|watch| {
            let raised = watch.alarms.iter().filter_map(|(of, alarm)| Some((of, alarm.raised?)));
            raised.map(|(of, since)| (&watch.threshold, of, since))
        })
    }

    fn numbered(&mut self, mut events: Vec<Event>) -> Vec<Event> {
        for event in &mut events {
            self.events += 1;
            event.number = self.events;
        }
        events
    }
}

impl Alarm {
    /// Takes one sample. Returns what changed, and the moment to be named with it.
    fn step(
        &mut self,
        threshold: &Threshold,
        now: Time,
        load: &Load,
        stale_after: Duration,
    ) -> Option<(Change, Time)> {
        if self.sampled.is_some_and(|sampled| now <= sampled) {
            return None;
        }
        // Nobody knows what was in a gap that long.
        let is_gap = self.sampled.is_some_and(|sampled| now.since(sampled) > stale_after);
        let lasting = threshold.lasting_span();
        self.sampled = Some(now);
        self.in_use = if lasting.is_zero() { load.peak } else { load.in_use };
        self.provisioned = load.provisioned;
        let is_reached = |level: Level| level.is_reached(self.in_use, self.provisioned);
        self.reached = is_reached(threshold.level()).then(|| self.reached.filter(|_| !is_gap).unwrap_or(now));
        match (self.raised, self.reached) {
            (None, Some(since)) if now.since(since) >= lasting => {
                self.raised = Some(now);
                Some((Change::Raised, since))
            }
            (Some(raised), _)
                if now.since(raised) >= threshold.hold_span() && !is_reached(threshold.clear_below) =>
            {
                self.raised = None;
                Some((Change::Cleared, raised))
            }
            _ => None,
        }
    }

    /// The event, not yet numbered.
    fn event(
        &self,
        (name, threshold): (&Arc<str>, &Threshold),
        of: Group,
        at: Time,
        change: Change,
        since: Time,
    ) -> Event {
        let Self { in_use, provisioned, .. } = *self;
        let threshold_name = Arc::clone(name);
        Event {
            number: 0,
            at,
            change,
            threshold: threshold_name,
            of,
            since,
            in_use,
            provisioned,
            level: threshold.level(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::Dimension;

    const MINUTE: u64 = 60_000;

    fn threshold(text: &str) -> Threshold {
        toml::from_str(&format!("name = \"t\"\n{text}")).unwrap()
    }

    fn alerts(text: &str) -> Alerts {
        Alerts::new([threshold(text)], Duration::from_secs(600)).unwrap()
    }

    fn load(in_use: u64, peak: u64, provisioned: u64) -> Load {
        Load { of: Group::default(), in_use, peak, provisioned }
    }

    /// What one sample of the only group changes.
    fn feed(alerts: &mut Alerts, at: u64, load: Load) -> Option<Event> {
        let mut events = alerts.sample(Time::from_millis(at), &[load]);
        assert!(events.len() < 2);
        events.pop()
    }

    #[test]
    fn an_alarm_tells_what_where_and_since_when() {
        let mut alerts = alerts("percent = 50\nlasting_seconds = 60\nby = [\"zone\"]");
        let zones = |a, b| {
            [("a", a), ("b", b)].map(|(zone, in_use)| {
                let of = Group { zone: Some(zone.parse().unwrap()), ..Group::default() };
                Load { of, ..load(in_use, 90, 100) }
            })
        };
        assert!(alerts.sample(Time::from_millis(1_000), &zones(50, 50)).is_empty());
        assert!(alerts.sample(Time::from_millis(60_999), &zones(49, 55)).is_empty(), "peaks do not last");
        let events = alerts.sample(Time::from_millis(61_000), &zones(60, 70));
        let [event] = &events[..] else { panic!("{events:?}") };
        let json = serde_json::to_string(event).unwrap();
        assert_eq!(
            json,
            r#"{"number":1,"at":61000,"change":"raised","threshold":"t","of":{"zone":"b"},"since":1000,"in_use":70,"provisioned":100,"level":{"percent":50}}"#
        );
        let raised: Vec<_> = alerts.raised().map(|(t, of, at)| (t.name(), of.clone(), at)).collect();
        assert_eq!(raised, [("t", event.of.clone(), Time::from_millis(61_000))]);
        let next = alerts.sample(Time::from_millis(121_000), &zones(60, 70));
        assert_eq!((next.len(), next[0].number, next[0].since), (1, 2, Time::from_millis(61_000)));
    }

    #[test]
    fn a_peak_between_two_samples_counts_where_nothing_must_last() {
        let mut at_once = alerts("count = 10\nhold_seconds = 0");
        assert_eq!(feed(&mut at_once, 1, load(3, 9, 99)), None);
        let event = feed(&mut at_once, 2, load(3, 10, 99)).unwrap();
        assert_eq!((event.change, event.in_use), (Change::Raised, 10));
        assert_eq!(feed(&mut at_once, 3, load(3, 9, 99)).unwrap().change, Change::Cleared);
    }

    #[test]
    fn percentages_follow_what_is_provisioned() {
        let mut alerts = alerts("percent = 80\nhold_seconds = 0");
        assert_eq!(feed(&mut alerts, 1, load(1_000, 1_000, 2_048)), None);
        assert_eq!(feed(&mut alerts, 2, load(1_000, 1_000, 1_024)).unwrap().change, Change::Raised);
        assert_eq!(feed(&mut alerts, 3, load(1_000, 1_000, 2_048)).unwrap().change, Change::Cleared);
        assert_eq!(feed(&mut alerts, 4, load(1, 1, 0)).unwrap().change, Change::Raised);
        assert_eq!(feed(&mut alerts, 5, load(0, 0, 0)).unwrap().change, Change::Cleared);
    }

    #[test]
    fn the_past_changes_nothing() {
        let mut alerts = alerts("count = 10\nhold_seconds = 0");
        assert!(feed(&mut alerts, 5, load(10, 10, 0)).is_some());
        assert_eq!(feed(&mut alerts, 5, load(0, 0, 0)), None, "a duplicate");
        assert_eq!(feed(&mut alerts, 4, load(0, 0, 0)), None);
        assert!(feed(&mut alerts, 6, load(0, 0, 0)).is_some());
        assert!(alerts.expire(Time::from_millis(700_000)).is_empty());
        assert_eq!(feed(&mut alerts, 699_999, load(10, 10, 0)), None, "before the last look at who is stale");
        assert!(feed(&mut alerts, 700_000, load(10, 10, 0)).is_some());
        assert!(alerts.expire(Time::ZERO).is_empty());
    }

    #[test]
    fn who_vanishes_is_said_to_be_stale_once_and_is_new_when_it_comes_back() {
        let mut alerts = alerts("count = 10\nhold_seconds = 1200");
        assert!(feed(&mut alerts, MINUTE, load(10, 10, 0)).is_some());
        assert!(alerts.expire(Time::from_millis(11 * MINUTE)).is_empty(), "just not older than 10 minutes");
        assert!(alerts.expire(Time::from_millis(20 * MINUTE)).is_empty(), "within its hold");
        let events = alerts.expire(Time::from_millis(21 * MINUTE));
        assert_eq!(events.iter().map(|e| (e.change, e.number)).collect::<Vec<_>>(), [(Change::Stale, 2)]);
        assert!(alerts.expire(Time::from_millis(60 * MINUTE)).is_empty());
        assert!(alerts.watches[0].alarms.is_empty());
        assert_eq!(feed(&mut alerts, 60 * MINUTE, load(10, 10, 0)).unwrap().number, 3);
    }

    #[test]
    fn a_gap_that_is_too_long_does_not_count_as_lasting() {
        for (gap, raised) in [(10 * MINUTE, true), (10 * MINUTE + 1, false)] {
            let mut alerts = alerts("count = 10\nlasting_seconds = 300");
            assert_eq!(feed(&mut alerts, 0, load(10, 10, 0)), None);
            assert_eq!(feed(&mut alerts, gap, load(10, 10, 0)).is_some(), raised, "{gap}");
        }
    }

    #[test]
    fn refusals_name_the_value() {
        let twice = Alerts::new([threshold("count = 1"), threshold("count = 2")], Duration::MAX).unwrap_err();
        assert!(twice.message().contains("threshold \"t\" is there twice"), "{twice}");
        assert!(Alerts::new([], Duration::ZERO).is_err());
        let by = threshold("count = 1").by([Dimension::Machine]);
        assert!(Alerts::new([by], Duration::MAX).is_ok());
    }
}
