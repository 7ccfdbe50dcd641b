//! What a machine has to say and nobody has acknowledged.

use std::collections::VecDeque;

use super::record::Record;
use super::report::{Counted, Header, Key, Period, Report, Then};
use crate::error::{Error, Result};
use crate::id::{DataCenterId, MachineId};

/// The reports of one boot that are not acknowledged yet, oldest first; it numbers intervals and adds up totals.
///
/// It lives and dies with its process: what it holds in a crash is lost, and the receiver sees that it is.
#[derive(Clone, Debug)]
pub struct Outbox {
    machine: MachineId,
    data_center: DataCenterId,
    boot: u64,
    boot_before: Option<u64>,
    most: usize,
    waiting: VecDeque<Report>,
    next_interval: u64,
    since_boot: Counted,
    dropped: u64,
    ended: Then,
}

impl Outbox {
    /// An empty one, for a boot that begins ([`Key::boot`]), and the boot before if the machine remembers it; at most
    /// `most` reports wait (at least 1).
    pub const fn new(
        machine: MachineId,
        data_center: DataCenterId,
        boot: u64,
        boot_before: Option<u64>,
        most: usize,
    ) -> Self {
        Self {
            machine,
            data_center,
            boot,
            boot_before,
            most: if most == 0 { 1 } else { most },
            waiting: VecDeque::new(),
            next_interval: 0,
            since_boot: Counted::NONE,
            dropped: 0,
            ended: Then::GoesOn,
        }
    }

    /// Makes the report of the next interval. If too many wait, the oldest is dropped, and this report says so.
    ///
    /// # Errors
    /// Those of [`Report::new`]: the interval is [passed over](Self::pass_over). The boot has ended: nothing changes.
    pub fn push(&mut self, epoch: u64, period: Period, records: Vec<Record>, then: Then) -> Result<&Report> {
        if self.ended == Then::Ends {
            return Err(Error::input(format!(
                "boot {} of {} has ended; begin another",
                self.boot, self.machine
            )));
        }
        let interval = self.next_interval;
        let full = self.waiting.len() >= self.most;
        let oldest_unsent =
            self.waiting.get(usize::from(full)).map_or(interval, |report| report.key().interval);
        let header = Header {
            key: Key { machine: self.machine.clone(), boot: self.boot, epoch, interval },
            period,
            data_center: self.data_center.clone(),
            boot_before: self.boot_before,
            since_boot: self.since_boot.plus(Counted::of(&records)),
            oldest_unsent,
            dropped: self.dropped + u64::from(full),
            then,
        };
        let counted = Counted::of(&records);
        let report = match Report::new(header, records) {
            Ok(report) => report,
            Err(error) => {
                self.pass(counted);
                return Err(error);
            }
        };
        if full {
            self.waiting.pop_front();
        }
        self.since_boot = report.header().since_boot;
        self.dropped = report.header().dropped;
        self.next_interval += 1;
        self.ended = then;
        self.waiting.push_back(report);
        Ok(self.waiting.back().expect("it was just pushed"))
    }

    /// There will be no report of an interval that was measured, for example because the clock is before 1970: it is
    /// counted in the totals since boot, and the receiver sees that it is missing.
    pub fn pass_over(&mut self, records: &[Record]) {
        self.pass(Counted::of(records));
    }

    fn pass(&mut self, counted: Counted) {
        self.since_boot = self.since_boot.plus(counted);
        self.next_interval += 1;
    }

    /// What to send, and to send again, oldest first.
    pub fn unsent(&self) -> impl ExactSizeIterator<Item = &Report> {
        self.waiting.iter()
    }

    /// The receiver has it. A key that does not wait here, for example because the acknowledgement comes twice, changes
    /// nothing.
    pub fn acknowledge(&mut self, key: &Key) {
        self.waiting.retain(|report| report.key() != key);
    }

    /// Reports of this boot that were dropped, because too many waited.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::testing::{minutes, outbox, source, steady};
    use super::*;

    #[test]
    fn a_full_outbox_drops_the_oldest_and_says_so_in_the_next_report() {
        let mut outbox = outbox("sjc-m01", 7, 2);
        for nth in 0..4 {
            let period = minutes(nth, nth + 1);
            outbox.push(1, period, vec![steady(source(1, None), period, 5, 9)], Then::GoesOn).unwrap();
        }
        let said: Vec<_> = outbox
            .unsent()
            .map(|report| report.header())
            .map(|h| (h.key.interval, h.oldest_unsent, h.dropped, h.since_boot.sources.granted))
            .collect();
        assert_eq!(said, [(2, 1, 1, 30), (3, 2, 2, 40)]);

        // Acknowledged out of order: the oldest is what still waits.
        let key = outbox.unsent().next().unwrap().key().clone();
        outbox.acknowledge(&key);
        outbox.acknowledge(&key);
        let fourth = outbox.push(2, minutes(4, 5), Vec::new(), Then::Ends).unwrap();
        assert_eq!(
            (fourth.key().interval, fourth.header().oldest_unsent, fourth.header().dropped),
            (4, 3, 2)
        );
        assert!(
            outbox.push(2, minutes(5, 6), Vec::new(), Then::GoesOn).unwrap_err().message().contains("ended")
        );
        assert_eq!((outbox.unsent().len(), outbox.dropped()), (2, 2));
    }

    #[test]
    fn an_interval_whose_report_is_refused_is_missing_and_its_counts_are_in_the_totals() {
        let mut outbox = outbox("sjc-m01", 7, 0);
        let period = minutes(0, 1);
        outbox.push(1, period, Vec::new(), Then::GoesOn).unwrap();
        let mut bad = steady(source(1, None), period, 5, 9);
        bad.min = 6;
        assert!(outbox.push(1, period, vec![bad], Then::Ends).is_err());
        assert_eq!((outbox.unsent().next().unwrap().key().interval, outbox.dropped()), (0, 0));
        let next = outbox.push(1, period, Vec::new(), Then::GoesOn).unwrap();
        assert_eq!((next.key().interval, next.header().since_boot.sources.granted), (2, 10));
    }
}
