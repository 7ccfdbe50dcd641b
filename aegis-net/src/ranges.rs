//! Sets of ports, as sorted ranges that do not touch.

use aegis_core::net::PortRange;

/// A set of ports.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ports(Vec<PortRange>);

impl Ports {
    pub(crate) fn ranges(&self) -> &[PortRange] {
        &self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn contains(&self, port: u16) -> bool {
        let after = self.0.partition_point(|range| range.lo() <= port);
        after > 0 && self.0[after - 1].contains(port)
    }

    /// The ports that are not in `others`.
    pub(crate) fn without(&self, others: &Self) -> Self {
        let mut left = Vec::new();
        for range in &self.0 {
            // Wide enough for one past the last port.
            let mut next = u32::from(range.lo());
            for other in others.0.iter().filter(|other| other.overlaps(*range)) {
                push(&mut left, next, u32::from(other.lo()));
                next = u32::from(other.hi()) + 1;
            }
            push(&mut left, next, u32::from(range.hi()) + 1);
        }
        Self(left)
    }

    pub(crate) fn within(&self, others: &Self) -> Self {
        self.without(&self.without(others))
    }

    /// At most `count` ranges that cover these, by filling the smallest gaps.
    pub(crate) fn widened(&self, count: usize) -> Self {
        let too_many = self.0.len().saturating_sub(count.max(1));
        let mut by_gap: Vec<_> = (1..self.0.len()).collect();
        by_gap.sort_by_key(|at| self.0[*at].lo() - self.0[at - 1].hi());
        let mut joins_the_last = vec![false; self.0.len()];
        for at in &by_gap[..too_many] {
            joins_the_last[*at] = true;
        }
        let mut widened: Vec<PortRange> = Vec::new();
        for (next, joins) in self.0.iter().zip(joins_the_last) {
            match widened.last_mut() {
                Some(last) if joins => *last = range(last.lo(), next.hi()),
                _ => widened.push(*next),
            }
        }
        Self(widened)
    }
}

/// Appends the ports from `lo` to below `end`, if there are any.
fn push(ranges: &mut Vec<PortRange>, lo: u32, end: u32) {
    if lo < end {
        let port = |port: u32| u16::try_from(port).expect("between two ports of a range");
        ranges.push(range(port(lo), port(end - 1)));
    }
}

fn range(lo: u16, hi: u16) -> PortRange {
    PortRange::new(lo, hi).expect("callers give the lower one first")
}

impl FromIterator<PortRange> for Ports {
    fn from_iter<I: IntoIterator<Item = PortRange>>(ranges: I) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        ranges.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
        for next in ranges {
            match merged.last_mut() {
                Some(last) if u32::from(next.lo()) <= u32::from(last.hi()) + 1 => {
                    *last = range(last.lo(), last.hi().max(next.hi()));
                }
                _ => merged.push(next),
            }
        }
        Self(merged)
    }
}

impl std::fmt::Display for Ports {
    /// As `net.ipv4.ip_local_reserved_ports` is written: `2048-4095,6144`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match range.len() {
                1 => write!(f, "{comma}{}", range.lo())?,
                _ => write!(f, "{comma}{range}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> Ports {
        text.split(',').filter(|part| !part.is_empty()).map(|part| part.parse().unwrap()).collect()
    }

    #[test]
    fn neighbours_and_overlaps_become_one_range() {
        assert_eq!(
            ports("10-20,15-17,21,30-40,25-35,65535,65000-65534").to_string(),
            "10-21,25-40,65000-65535"
        );
    }

    #[test]
    fn what_is_left_has_the_right_ends() {
        let all = ports("0-65535");
        assert_eq!(all.without(&ports("0-9,20-65535")).to_string(), "10-19");
        assert_eq!(all.without(&ports("0,65535")).to_string(), "1-65534");
        assert_eq!(all.without(&all).to_string(), "");
        assert_eq!(ports("5-9").without(&ports("7")).to_string(), "5-6,8-9");
        assert_eq!(ports("5-9,20-30").within(&ports("8-25")).to_string(), "8-9,20-25");
    }

    #[test]
    fn contains_agrees_with_the_ranges() {
        let set = ports("10-20,25,30-40");
        for port in 0..50 {
            assert_eq!(set.contains(port), set.ranges().iter().any(|range| range.contains(port)), "{port}");
        }
    }

    #[test]
    fn widening_fills_the_smallest_gaps_first() {
        assert_eq!(ports("1,3,10,20,23").widened(2).to_string(), "1-10,20-23");
        assert_eq!(ports("1,3").widened(2), ports("1,3"));
        assert_eq!(ports("").widened(2), ports(""));
        assert_eq!(ports("1,3,10,20,23").widened(1).to_string(), "1-23");
        // Of gaps that are as wide the first.
        assert_eq!(ports("1,11,21,31").widened(3).to_string(), "1-11,21,31");
    }
}
