//! Replays whose outcome is known.

use crate::fleet::{Latencies, Latency, Reach};
use crate::net::{Origin, Protocol};

use super::Paths;

pub(super) fn ms(ms: u32) -> Latency {
    Latency::from_micros(ms * 1_000)
}

pub(super) fn origin(text: &str) -> Origin {
    Origin::new(Protocol::Tcp, text.parse().unwrap()).unwrap()
}

fn udp(text: &str) -> Origin {
    Origin::new(Protocol::Udp, text.parse().unwrap()).unwrap()
}

/// Data centers `d0` to `d2`, and three origins.
pub(super) fn paths() -> Paths {
    let fleet = crate::epoch::testing::World::new(&[&[1], &[1], &[1]]).fleet();
    let id = |n: usize| format!("d{n}").parse().unwrap();
    let latencies =
        Latencies::measured(&fleet, [(id(0), id(1), ms(10)), (id(0), id(2), ms(50)), (id(1), id(2), ms(45))]);
    let reach = |at: [u32; 3]| Reach::measured(&fleet, (0..3).map(|n| (id(n), ms(at[n])))).unwrap();
    let origins = [
        (origin("203.0.113.10:443"), reach([20, 30, 5])),
        (origin("203.0.113.11:443"), reach([1, 1, 1])),
        (udp("[2001:db8::9]:443"), reach([1, 2, 3])),
    ];
    Paths::new(latencies.unwrap(), origins).unwrap()
}
