//! What a worker remembers of an origin, so that it need not look it up at every acquire.

use crate::net::Origin;

use super::pages::PageRef;
use super::pool::{Pool, Sources};
use super::records::Record;

/// An [`OriginHandle`] remembers pages of pools up to this many granules.
const REMEMBERED_PAGES: usize = 64;

/// An older generation of more ports than this is not written down: draws find its ports soon enough.
pub(super) const MOST_STASHED: u32 = 16_384;

/// In pools of up to so many ports they are written down as soon as draws miss.
pub(super) const SMALL_POOL: u32 = 4_096;

/// One origin as seen from one pool: spares a worker the look-up at every acquire.
#[derive(Clone, Debug)]
pub struct OriginHandle {
    pub(super) pool: Pool,
    pub(super) origin: Origin,
    pub(super) record: Record,
    /// The page of each source, as far as known.
    pub(super) pages: Box<[PageRef]>,
    pub(super) stash: Stash,
    /// The last acquire was refused: most likely the next one is too, and then needs no draw.
    pub(super) was_refused: bool,
}

/// The older generation of resting ports, as it was when somebody looked: a worker draws from here what it would
/// otherwise have to count.
///
/// That set only shrinks until the generations change. So a random member of what it was, drawn again if it is none any
/// more, is as likely as any other member of what it is now. Nothing else can be kept like this: free ports may come back.
#[derive(Clone, Debug, Default)]
pub(super) struct Stash {
    /// Source and offset of each.
    pub(super) ports: Vec<(u16, u16)>,
    /// How often the generations of each source's page had changed.
    pub(super) flips: Vec<u64>,
    /// The origin's hint under which they were found: as long as it stands, no port is free.
    pub(super) scarce: u64,
}

impl OriginHandle {
    pub(super) fn new(pool: Pool, origin: Origin, record: Record, sources: &Sources) -> Self {
        let sources = sources.list().len();
        let remembered = if sources <= REMEMBERED_PAGES { sources } else { 0 };
        let pages = vec![PageRef::default(); remembered].into();
        Self { pool, origin, record, pages, stash: Stash::default(), was_refused: false }
    }

    /// The origin.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }
}

/// Origins that a worker has met twice in a row, by a few bits of their address: others push them out.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    places: Vec<Place>,
}

#[derive(Debug, Default)]
struct Place {
    /// Whom it was asked for last, in short.
    last: u32,
    handle: Option<Box<OriginHandle>>,
}

const PLACES: usize = 64;

/// Not keyed: who makes others collide only makes them be looked up.
#[inline]
fn mix(pool: &Pool, origin: &Origin) -> u32 {
    let ip = match origin.ip() {
        core::net::IpAddr::V4(ip) => u64::from(ip.to_bits()),
        core::net::IpAddr::V6(ip) => (ip.to_bits() ^ ip.to_bits() >> 64) as u64,
    };
    let key = ip
        ^ u64::from(origin.port()) << 32
        ^ (origin.protocol() as u64) << 48
        ^ u64::from(pool.key().0) << 50;
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

impl Remembered {
    #[inline]
    pub(super) fn find(&mut self, pool: &Pool, origin: &Origin) -> Option<&mut OriginHandle> {
        let place = self.places.get_mut(mix(pool, origin) as usize % PLACES)?;
        place.handle.as_deref_mut().filter(|handle| handle.origin == *origin && handle.pool.is(pool))
    }

    /// Remembers an origin that is asked for the second time in a row.
    pub(super) fn seen_again(
        &mut self,
        pool: &Pool,
        origin: &Origin,
        record: Record,
        sources: &Sources,
    ) -> Option<&mut OriginHandle> {
        if self.places.is_empty() {
            self.places.resize_with(PLACES, Place::default);
        }
        let mixed = mix(pool, origin);
        let place = &mut self.places[mixed as usize % PLACES];
        if core::mem::replace(&mut place.last, mixed) != mixed {
            return None;
        }
        let handle = OriginHandle::new(pool.clone(), *origin, record, sources);
        Some(place.handle.insert(Box::new(handle)))
    }
}
