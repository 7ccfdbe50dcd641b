//! Alarms against what they promise: one in each hold, none missed, none without a reason.

use std::time::Duration;

use aegis_core::capacity::{Alerts, Change, Event, Group, Load, Threshold};
use aegis_core::time::Time;
use proptest::prelude::*;

const PROVISIONED: u64 = 2_048;
const STALE_SECONDS: u64 = 600;

/// A threshold of connections, in plain numbers.
#[derive(Clone, Copy, Debug)]
struct Plain {
    level: u64,
    clear_below: u64,
    lasting: u64,
    hold: u64,
}

impl Plain {
    fn alerts(self) -> Alerts {
        let Self { level, clear_below, lasting, hold } = self;
        let text = format!(
            "name = \"t\"\ncount = {level}\nclear_below = {clear_below}\nlasting_seconds = {lasting}\n\
             hold_seconds = {hold}\nby = [\"zone\"]"
        );
        let threshold: Threshold = toml::from_str(&text).unwrap();
        Alerts::new([threshold], Duration::from_secs(STALE_SECONDS)).unwrap()
    }
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Seconds.
    at: u64,
    in_use: u64,
    peak: u64,
}

fn load(zone: &str, sample: Sample) -> Load {
    let of = Group { zone: Some(zone.parse().unwrap()), ..Group::default() };
    Load { of, in_use: sample.in_use, peak: sample.peak, provisioned: PROVISIONED }
}

fn time(seconds: u64) -> Time {
    Time::from_millis(seconds * 1_000)
}

fn seconds(time: Time) -> u64 {
    time.as_millis() / 1_000
}

/// What must hold of the events of one group that is never stale, whatever made them.
fn check(plain: Plain, samples: &[Sample], events: &[Event]) -> Result<(), String> {
    let value =
        |sample: &Sample| if plain.lasting == 0 { sample.peak.max(sample.in_use) } else { sample.in_use };
    // For each sample: since when every one, without a gap, has reached the level.
    let mut reached_since = Vec::<Option<u64>>::new();
    for (i, sample) in samples.iter().enumerate() {
        let has_gap = i > 0 && sample.at - samples[i - 1].at > STALE_SECONDS;
        let before = reached_since.last().copied().flatten().filter(|_| !has_gap);
        reached_since.push((value(sample) >= plain.level).then(|| before.unwrap_or(sample.at)));
    }
    let mut events = events.iter();
    let mut next = events.next();
    let (mut raised_since, mut last_raised) = (None, None);
    for (i, sample) in samples.iter().enumerate() {
        let due = reached_since[i].filter(|since| sample.at - since >= plain.lasting);
        if let Some(event) = next.filter(|event| seconds(event.at) == sample.at) {
            match (event.change, raised_since) {
                (Change::Raised, None) => {
                    let since = due.ok_or(format!("raised without a reason: {event:?}"))?;
                    if seconds(event.since) != since {
                        return Err(format!("since {since}: {event:?}"));
                    }
                    if last_raised.is_some_and(|last| sample.at - last < plain.hold) {
                        return Err(format!("raised twice within the hold: {event:?}"));
                    }
                    (raised_since, last_raised) = (Some(sample.at), Some(sample.at));
                }
                (Change::Cleared, Some(raised)) => {
                    if value(sample) >= plain.clear_below || sample.at - raised < plain.hold {
                        return Err(format!("cleared without a reason: {event:?}"));
                    }
                    raised_since = None;
                }
                _ => return Err(format!("changes take turns: {event:?}")),
            }
            next = events.next();
        }
        match (due, raised_since) {
            (Some(_), None) => return Err(format!("missed at {sample:?}")),
            (_, Some(raised)) if value(sample) < plain.clear_below && sample.at - raised >= plain.hold => {
                return Err(format!("not cleared at {sample:?}"));
            }
            _ => {}
        }
    }
    next.map_or(Ok(()), |event| Err(format!("an event of no sample: {event:?}")))
}

fn run(plain: Plain, samples: &[Sample]) -> Vec<Event> {
    let mut alerts = plain.alerts();
    samples.iter().flat_map(|sample| alerts.sample(time(sample.at), &[load("a", *sample)])).collect()
}

#[test]
fn a_load_that_swings_around_a_threshold_for_a_day_raises_one_alarm_per_hold_and_none_is_missed() {
    const DAY: u64 = 86_400;
    let mut alarms = 0;
    for sampling in [1, 7, 15, 60, 300] {
        for half_period in [1, 30, 299, 300, 1_800, 7_200] {
            for (lasting, hold, clear_below) in [
                (0, 0, 80),
                (0, 300, 80),
                (0, 3_600, 80),
                (60, 3_600, 80),
                (600, 300, 80),
                (0, 300, 79),
                (0, 300, 78),
            ] {
                let plain = Plain { level: 80, clear_below, lasting, hold };
                let swing = |second: u64| if second / half_period % 2 == 0 { 79 } else { 81 };
                let samples: Vec<Sample> = (0..DAY / sampling)
                    .map(|i| {
                        let at = i * sampling;
                        let peak = (at.saturating_sub(sampling - 1)..=at).map(swing).max().unwrap();
                        Sample { at, in_use: swing(at), peak }
                    })
                    .collect();
                let events = run(plain, &samples);
                check(plain, &samples, &events)
                    .unwrap_or_else(|e| panic!("{plain:?} every {sampling} s: {e}"));
                let raised = events.iter().filter(|event| event.change == Change::Raised).count() as u64;
                assert!(raised <= DAY / hold.max(1) + 1, "{raised} alarms, {plain:?}");
                if clear_below == 79 {
                    // 79 is not below 79: the lower end of the swing does not clear it.
                    assert_eq!(raised, 1, "{plain:?} every {sampling} s, {half_period} s");
                }
                if lasting == 0 {
                    assert!(raised > 0, "what lies between two samples is not missed: {plain:?}");
                }
                alarms += raised;
            }
        }
    }
    assert!(alarms > 10_000, "{alarms}: the world is too quiet to say anything");
}

fn walks() -> impl Strategy<Value = (Plain, Vec<Sample>)> {
    let plain = (2_u64..12, 0_u64..4, prop_oneof![Just(0_u64), 1..90_u64], 0_u64..200).prop_map(
        |(level, hysteresis, lasting, hold)| Plain {
            level,
            clear_below: level.saturating_sub(hysteresis).max(1),
            lasting,
            hold,
        },
    );
    // Mostly short steps, now and then a gap that is too long.
    let gap = prop_oneof![8 => 1..30_u64, 1 => 500..700_u64];
    let steps = prop::collection::vec((gap, -2_i64..3, 0_u64..3), 1..120);
    (plain, steps).prop_map(|(plain, steps)| {
        let (mut at, mut in_use) = (0, plain.level as i64);
        let samples = steps.into_iter().map(|(gap, step, above)| {
            at += gap;
            in_use = (in_use + step).clamp(0, 14);
            Sample { at, in_use: in_use as u64, peak: in_use as u64 + above }
        });
        (plain, samples.collect())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3_000) })]

    #[test]
    fn alarms_take_turns_are_a_hold_apart_and_none_is_missed_or_made_up((plain, samples) in walks()) {
        let events = run(plain, &samples);
        prop_assert_eq!(check(plain, &samples, &events), Ok(()));
        let numbers: Vec<u64> = events.iter().map(|event| event.number).collect();
        prop_assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>());
    }

    /// Two groups, of which one is fed late and twice, are what each is alone.
    #[test]
    fn groups_do_not_touch_each_other_and_the_past_changes_nothing(
        (plain, samples) in walks(),
        others in prop::collection::vec(0_u64..14, 120),
    ) {
        let mut alerts = plain.alerts();
        let mut events = Vec::new();
        let mut before = samples[0];
        for (sample, other) in samples.iter().zip(others) {
            let other = Sample { at: sample.at, in_use: other, peak: other };
            events.extend(alerts.sample(time(sample.at), &[load("b", other), load("a", *sample)]));
            // What must not count is the opposite of what was: it would show.
            let lie = |at| Sample { at, in_use: 14 - sample.in_use.min(14), peak: 14 };
            prop_assert!(alerts.sample(time(sample.at), &[load("a", lie(sample.at))]).is_empty());
            prop_assert!(alerts.sample(time(before.at), &[load("a", lie(before.at))]).is_empty());
            before = *sample;
        }
        events.retain(|event| event.of.zone == Some("a".parse().unwrap()));
        let alone = run(plain, &samples);
        let plain_events = |events: &[Event]| -> Vec<_> {
            events.iter().map(|event| (event.at, event.change, event.since, event.in_use)).collect()
        };
        prop_assert_eq!(plain_events(&events), plain_events(&alone));
    }
}
