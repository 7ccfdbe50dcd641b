use serde::{Deserialize, Serialize};

use super::GranuleSize;
use crate::error::{Error, Result};
use crate::net::PortRange;

/// How one IPv4 address is cut: the size of its granules, and which of them may be used.
///
/// A granule is usable if *every* port of it lies inside the usable range and outside every reserved range; judging
/// it by its first port would give away ports that are not there. Granules are numbered `port >> shift`, usable or
/// not. Port 0 is never in a usable granule, and there is at least one usable granule.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "Parts", deny_unknown_fields)]
pub struct Cut {
    granule: GranuleSize,
    usable: PortRange,
    reserved: Vec<PortRange>,
}

/// A cut as it is written, before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    granule: GranuleSize,
    usable: PortRange,
    reserved: Vec<PortRange>,
}

impl TryFrom<Parts> for Cut {
    type Error = Error;

    fn try_from(parts: Parts) -> Result<Self> {
        Self::new(parts.granule, parts.usable, parts.reserved)
    }
}

impl Cut {
    /// Cuts addresses into granules of `granule` ports, of which those wholly inside `usable` and clear of `reserved`
    /// may be used. Reserved ranges may come in any order and overlap; they are kept sorted and merged.
    ///
    /// # Errors
    /// Port 0 would be in a usable granule; no granule would be usable.
    pub fn new(
        granule: GranuleSize,
        usable: PortRange,
        reserved: impl IntoIterator<Item = PortRange>,
    ) -> Result<Self> {
        let cut = Self { granule, usable, reserved: merged(reserved) };
        if cut.granule_of(0).is_some() {
            return Err(Error::input(format!(
                "port 0 would be usable (granules of {granule}, usable ports {usable}); it is no source port: \
                 start the usable range at 1 or later, or reserve a range that begins with 0"
            )));
        }
        if cut.granules().next().is_none() {
            return Err(Error::input(format!(
                "no granule of {granule} ports lies wholly inside {usable} and outside the reserved ranges; \
                 use smaller granules or reserve less"
            )));
        }
        Ok(cut)
    }

    /// The size of a granule.
    pub const fn granule(&self) -> GranuleSize {
        self.granule
    }

    /// The ports that may be used at all.
    pub const fn usable(&self) -> PortRange {
        self.usable
    }

    /// The ports inside [`usable`](Self::usable) that may not be used, in order, disjoint.
    pub fn reserved(&self) -> &[PortRange] {
        &self.reserved
    }

    /// The numbers of the usable granules, ascending.
    pub fn granules(&self) -> impl Iterator<Item = u16> {
        (0..self.granule.granules_per_address()).filter(|index| self.range(*index).is_some())
    }

    /// The ports of granule `index`; none if it is not usable or does not exist.
    pub fn range(&self, index: u16) -> Option<PortRange> {
        if index >= self.granule.granules_per_address() {
            return None;
        }
        let lo = index << self.granule.shift();
        // `ports() - 1` fits, and cannot carry out of the low bits: no port is ever 65,536.
        let range = PortRange::new(lo, lo | (self.granule.ports() - 1) as u16).ok()?;
        let inside = self.usable.lo() <= range.lo() && range.hi() <= self.usable.hi();
        (inside && !self.reserved.iter().any(|r| r.overlaps(range))).then_some(range)
    }

    /// The number of the usable granule that `port` lies in; none for a port that is reserved, outside, or in a
    /// granule that is partly so.
    pub fn granule_of(&self, port: u16) -> Option<u16> {
        let index = port >> self.granule.shift();
        self.range(index).map(|_| index)
    }
}

impl Default for Cut {
    /// Granules of 2,048 ports, the first one reserved: 31 usable granules, 2048-4095 to 63488-65535.
    fn default() -> Self {
        let granule = GranuleSize::default();
        let first = PortRange::new(0, (granule.ports() - 1) as u16).expect("0 is the smallest port");
        Self::new(granule, PortRange::ALL, [first]).expect("port 0 is reserved and 31 granules are left")
    }
}

/// The same ports as `ranges`, in order, with touching and overlapping ranges joined: equal cuts are equal values.
fn merged(ranges: impl IntoIterator<Item = PortRange>) -> Vec<PortRange> {
    let mut ranges: Vec<PortRange> = ranges.into_iter().collect();
    ranges.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if u32::from(range.lo()) <= u32::from(last.hi()) + 1 => {
                *last =
                    PortRange::new(last.lo(), last.hi().max(range.hi())).expect("joined ranges only grow");
            }
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(ports: u32, usable: &str, reserved: &[&str]) -> Result<Cut> {
        let reserved = reserved.iter().map(|r| r.parse().unwrap());
        Cut::new(GranuleSize::new(ports).unwrap(), usable.parse().unwrap(), reserved)
    }

    #[test]
    fn port_0_is_never_usable() {
        for reserved in [&[][..], &["2048-4095"]] {
            let e = cut(2_048, "0-65535", reserved).unwrap_err();
            assert!(e.message().contains("port 0 would be usable"), "{e}");
        }
        assert_eq!(cut(2_048, "1-65535", &[]).unwrap().granules().count(), 31);
        assert_eq!(cut(2_048, "0-65535", &["0"]).unwrap().granules().count(), 31);
    }

    #[test]
    fn a_granule_that_is_partly_reserved_is_not_usable() {
        let cut = cut(1_024, "1024-65535", &["3071", "65535"]).unwrap();
        assert_eq!(cut.granule_of(2_048), None, "only its last port is reserved, all of it is lost");
        assert_eq!(cut.granule_of(3_072), Some(3));
        assert_eq!(cut.granule_of(65_000), None);
        assert_eq!(cut.granule_of(64_511), Some(62));
    }

    #[test]
    fn a_cut_without_a_granule_is_refused() {
        let e = cut(32_768, "1-65534", &[]).unwrap_err();
        assert!(e.message().contains("no granule of 32768 ports"), "{e}");
    }

    #[test]
    fn equal_cuts_are_equal_values_and_read_back() {
        let a = cut(64, "1-65535", &["100-199", "150-300", "301-310", "5-9"]).unwrap();
        assert_eq!(a, cut(64, "1-65535", &["5-9", "100-310"]).unwrap());
        let json = serde_json::to_string(&a).unwrap();
        assert_eq!(json, r#"{"granule":64,"usable":"1-65535","reserved":["5-9","100-310"]}"#);
        assert_eq!(serde_json::from_str::<Cut>(&json).unwrap(), a);
        let e =
            serde_json::from_str::<Cut>(r#"{"granule":64,"usable":"0-65535","reserved":[]}"#).unwrap_err();
        assert!(e.to_string().contains("port 0"), "{e}");
    }

    fn any_range() -> impl Strategy<Value = PortRange> {
        (any::<u16>(), any::<u16>()).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_port_is_judged_by_all_ports_of_its_granule(
            shift in 6..=15_u32,
            usable in any_range(),
            reserved in prop::collection::vec(any_range().prop_map(|r| {
                PortRange::new(r.lo(), r.lo().saturating_add(r.hi() % 512)).unwrap()
            }), 0..4),
        ) {
            let granule = GranuleSize::new(1 << shift).unwrap();
            let free = |p: u16| p != 0 && usable.contains(p) && !reserved.iter().any(|r| r.contains(p));
            let Ok(cut) = Cut::new(granule, usable, reserved.iter().copied()) else { return Ok(()) };
            for index in 0..granule.granules_per_address() {
                let first = u32::from(index) << shift;
                let all_free = (first..first + granule.ports()).all(|p| free(u16::try_from(p).unwrap()));
                let first = u16::try_from(first).unwrap();
                prop_assert_eq!(cut.granule_of(first), all_free.then_some(index));
                prop_assert_eq!(cut.granule_of(first + (granule.ports() - 1) as u16), all_free.then_some(index));
                if let Some(range) = cut.range(index) {
                    prop_assert_eq!((range.lo(), range.len()), (first, granule.ports()));
                }
            }
        }
    }
}
