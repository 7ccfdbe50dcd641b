use crate::error::{Error, Result};
use crate::net::PortRange;

/// A port range divided into equal parts, in order, as deterministic address mapping does (RFC 7422 section 2).
///
/// What equal parts leave over at the end of the range is nobody's, never a neighbour's.
///
/// ```
/// use aegis_core::slices::EqualParts;
///
/// let parts = EqualParts::new("1024-65535".parse()?, 16)?.first(14)?; // RFC 7422: the rest is dynamic
/// assert_eq!(parts.range(0).unwrap().to_string(), "1024-5055");
/// assert_eq!(parts.part_of(2_001), Some(0));
/// assert_eq!(parts.part_of(58_204), None);
/// # Ok::<(), aegis_core::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EqualParts {
    whole: PortRange,
    /// Ports per part, at least 1.
    ports: u32,
    /// `count * ports` is at most the length of `whole`.
    count: u32,
}

impl EqualParts {
    /// Divides `whole` into `count` equal parts, as large as possible.
    ///
    /// # Errors
    /// No parts, or more parts than ports.
    pub fn new(whole: PortRange, count: u32) -> Result<Self> {
        if !(1..=whole.len()).contains(&count) {
            return Err(Error::input(format!(
                "{whole} cannot be divided into {count} equal parts; use 1 to {}",
                whole.len()
            )));
        }
        Ok(Self { whole, ports: whole.len() / count, count })
    }

    /// The same division, of which only the first `count` parts are given out.
    ///
    /// # Errors
    /// `count` is 0 or more than there are.
    pub fn first(self, count: u32) -> Result<Self> {
        if !(1..=self.count).contains(&count) {
            return Err(Error::input(format!("the first {count} of {} parts; use 1 to {0}", self.count)));
        }
        Ok(Self { count, ..self })
    }

    /// How many parts are given out.
    pub const fn count(self) -> u32 {
        self.count
    }

    /// Ports per part.
    pub const fn ports(self) -> u32 {
        self.ports
    }

    /// The ports of part `part`, counted from 0; none if there is no such part.
    pub fn range(self, part: u32) -> Option<PortRange> {
        if part >= self.count {
            return None;
        }
        let lo = u32::from(self.whole.lo()) + part * self.ports;
        let port = |p: u32| u16::try_from(p).expect("a part lies inside the whole range");
        PortRange::new(port(lo), port(lo + self.ports - 1)).ok()
    }

    /// The part that `port` lies in, counted from 0; none if it is outside or left over.
    pub fn part_of(self, port: u16) -> Option<u32> {
        let offset = u32::from(port).checked_sub(self.whole.lo().into())?;
        let part = offset / self.ports;
        (part < self.count).then_some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn impossible_divisions_are_refused() {
        let ten = PortRange::new(10, 19).unwrap();
        for count in [0, 11] {
            let e = EqualParts::new(ten, count).unwrap_err();
            assert!(e.message().contains(&format!("10-19 cannot be divided into {count}")), "{e}");
        }
        let parts = EqualParts::new(ten, 3).unwrap();
        assert!(parts.first(0).is_err() && parts.first(4).is_err());
        assert_eq!(parts.part_of(19), None, "the leftover port is nobody's");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn every_port_is_in_the_part_that_contains_it(a: u16, b: u16, count in 1..200_u32) {
            let whole = PortRange::new(a.min(b), a.max(b)).unwrap();
            let Ok(parts) = EqualParts::new(whole, count) else { return Ok(()) };
            let ranges: Vec<PortRange> = (0..count).map(|p| parts.range(p).unwrap()).collect();
            prop_assert_eq!(parts.range(count), None);
            for port in PortRange::ALL.ports() {
                let naive = ranges.iter().position(|r| r.contains(port));
                prop_assert_eq!(parts.part_of(port).map(|p| p as usize), naive);
            }
        }
    }
}
