//! Memory for the tuples in use: what the resident set of a process grows by, which does nothing else.

use std::collections::HashMap;
use std::net::SocketAddrV4;

use crate::contender::{Contender, Scene};
use crate::ours::Bare;
use crate::peers::{DashSet, HaproxyRing, Hashbrown, PapayaSet, SccSet, Sets, Shared};
use crate::random::Random;

/// Who is measured, in the order of the columns.
pub const WHO: [&str; 6] = ["ours", "dashmap", "papaya", "scc", "hashbrown", "HAProxy's ring"];

/// Nobody may take more than this: it is a measurement, not an attack.
const MOST: usize = 1 << 30;

/// How origins are dialled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Name on the command line.
    pub name: &'static str,
    /// Origins.
    pub origins: u32,
    /// Live towards each.
    pub each: u32,
    /// Does each connection end before the next begins?
    pub ends: bool,
}

impl Load {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self { name: "dense", origins: 1_000, each: 1_000, ends: false },
        Self { name: "sparse", origins: 10_000, each: 100, ends: false },
        Self { name: "single", origins: 1_000_000, each: 1, ends: false },
        Self { name: "once", origins: 10_000_000, each: 1, ends: true },
    ];

    /// A hundredth of it, to see that it runs.
    pub fn quick(self) -> Self {
        Self { origins: self.origins / 100, ..self }
    }
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grown {
    /// The resident set grew by this.
    pub bytes: usize,
    /// Leases granted.
    pub tuples: u64,
    /// Why it is less than asked for; empty if it is not.
    pub stopped: String,
}

/// One line, read back by [`Grown::parse`].
impl core::fmt::Display for Grown {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} {} {}", self.bytes, self.tuples, self.stopped)
    }
}

impl Grown {
    /// Reads what `Display` wrote.
    pub fn parse(line: &str) -> Option<Self> {
        let mut parts = line.trim_end().splitn(3, ' ');
        Some(Self {
            bytes: parts.next()?.parse().ok()?,
            tuples: parts.next()?.parse().ok()?,
            stopped: parts.next().unwrap_or_default().to_owned(),
        })
    }
}

/// Measures one of [`WHO`] in this process, which has measured nobody yet.
pub fn measure(load: Load, who: &str) -> Option<Grown> {
    let scene = Scene { granule: 2_048, granules: 1, origins: load.origins };
    // Nobody is told how many tuples will come, except ours when they all stay, which is made for so many origins.
    let silent = |_: u32| "a false refusal".to_owned();
    Some(match who {
        "ours" => grow(
            load,
            || if load.ends { Bare::by_default(scene) } else { Bare::sized_for(scene) },
            |ours, o| ours.reason(o),
        ),
        "dashmap" => grow(load, || Sets::<DashSet>::with_room_for(scene, 0), |_, o| silent(o)),
        "papaya" => grow(load, || Sets::<PapayaSet>::with_room_for(scene, 0), |_, o| silent(o)),
        "scc" => grow(load, || Sets::<SccSet>::with_room_for(scene, 0), |_, o| silent(o)),
        "hashbrown" => grow(load, || Sets::<Hashbrown>::with_room_for(scene, 0), |_, o| silent(o)),
        "HAProxy's ring" => grow(load, || Rings::new(scene), |_, o| silent(o)),
        _ => return None,
    })
}

fn grow<C: Contender>(load: Load, new: impl FnOnce() -> C, reason: impl Fn(&mut C, u32) -> String) -> Grown {
    let before = resident();
    let grown = |now: usize| now.saturating_sub(before);
    let mut contender = new();
    let mut tuples = 0;
    let mut stopped = String::new();
    'origins: for origin in 0..load.origins {
        if origin % 1_000 == 0 {
            // A hundred thousand new origins every second.
            contender.set_time(u64::from(origin) / 100);
            if grown(resident()) > MOST {
                stopped = format!("stopped above {} MiB", MOST >> 20);
                break;
            }
        }
        for _ in 0..load.each {
            match contender.acquire(origin) {
                Some(lease) if load.ends => contender.release(lease),
                // It may go: nothing ends by being dropped.
                Some(lease) => drop(lease),
                None => {
                    stopped = format!("refused: {}", reason(&mut contender, origin));
                    break 'origins;
                }
            }
            tuples += 1;
        }
    }
    Grown { bytes: grown(resident()), tuples, stopped }
}

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size()
}

/// A ring for every destination, made when it is first dialled.
#[derive(Debug)]
struct Rings {
    scene: Scene,
    by_origin: HashMap<SocketAddrV4, HaproxyRing>,
}

impl Rings {
    fn new(scene: Scene) -> Self {
        Self { scene, by_origin: HashMap::new() }
    }
}

impl Contender for Rings {
    type Lease = (SocketAddrV4, u16);

    fn acquire(&mut self, origin: u32) -> Option<Self::Lease> {
        let (address, lo) = (self.scene.origin(origin), u32::from(self.scene.lo()));
        let ports = lo..lo + self.scene.ports();
        let ring = self.by_origin.entry(address).or_insert_with(|| HaproxyRing::new(ports));
        Some((address, ring.take(&mut Random::new(0))?))
    }

    fn release(&mut self, (address, port): Self::Lease) {
        self.by_origin[&address].give(port);
    }

    fn port(&self, lease: &Self::Lease) -> u16 {
        lease.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for stopped in ["", "refused: no room"] {
            let grown = Grown { bytes: 5, tuples: 7, stopped: stopped.into() };
            assert_eq!(Grown::parse(&grown.to_string()), Some(grown));
        }
        assert_eq!(Grown::parse("nonsense"), None);
    }

    #[test]
    fn whoever_holds_a_tuple_for_every_origin_is_measured() {
        for who in WHO {
            let load = Load { name: "test", origins: 50, each: 3, ends: false };
            let grown = measure(load, who).expect("it is one of them");
            assert_eq!((grown.tuples, grown.stopped.as_str()), (150, ""), "{who}");
        }
    }
}
