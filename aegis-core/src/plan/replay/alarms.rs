//! Which alarms would that day have raised?

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::capacity::{Alerts, Event, Group, Load, Threshold};
use crate::error::Result;
use crate::id::DataCenterId;
use crate::net::Origin;

use super::outcome::{Interval, Use, Watch};
use super::settings::LONGEST;

/// Watches a replay and samples [`Alerts`] at the end of each interval, by egress IP (of IPv6 the network address of the
/// egress prefix), origin and data center.
#[derive(Clone, Debug)]
pub struct Alarms {
    alerts: Alerts,
    events: Vec<Event>,
    /// Ports of each egress IP in each data center.
    ports: BTreeMap<IpNet, Vec<(DataCenterId, u32)>>,
    /// What was ever in use, by where [`Alarms::loads`] has its data centers.
    known: BTreeMap<(IpNet, Origin), usize>,
    /// For each of `known` one for every data center with ports of the egress IP, used or not: percentages are of them all.
    loads: Vec<Load>,
}

impl Alarms {
    pub(super) fn new(
        thresholds: impl IntoIterator<Item = Threshold>,
        all: impl Iterator<Item = (IpNet, DataCenterId, u32)>,
    ) -> Result<Self> {
        let mut ports: BTreeMap<IpNet, Vec<(DataCenterId, u32)>> = BTreeMap::new();
        for (source, data_center, count) in all {
            ports.entry(source).or_default().push((data_center, count));
        }
        // Every interval has a sample of everything: nothing is ever stale.
        let alerts = Alerts::new(thresholds, LONGEST)?;
        Ok(Self { alerts, events: Vec::new(), ports, known: BTreeMap::new(), loads: Vec::new() })
    }

    /// What has happened, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The alarms as they are now, for those that are still raised.
    pub fn alerts(&self) -> &Alerts {
        &self.alerts
    }

    /// The loads of an egress IP towards an origin, by data center.
    fn loads_of(&mut self, source: IpNet, origin: Origin) -> &mut [Load] {
        let at = self.ports.get(&source).map_or(&[][..], Vec::as_slice);
        let first = *self.known.entry((source, origin)).or_insert_with(|| {
            let first = self.loads.len();
            self.loads.extend(at.iter().map(|(data_center, ports)| Load {
                of: Group {
                    egress_ip: Some(source.network()),
                    origin: Some(origin),
                    data_center: Some(data_center.clone()),
                    ..Group::default()
                },
                in_use: 0,
                peak: 0,
                provisioned: (*ports).into(),
            }));
            first
        });
        &mut self.loads[first..first + at.len()]
    }
}

impl Watch for Alarms {
    fn interval(&mut self, interval: &Interval, uses: &[Use]) {
        for load in &mut self.loads {
            (load.in_use, load.peak) = (0, 0);
        }
        for used in uses {
            let loads = self.loads_of(used.source, used.origin);
            let of_it = |load: &&mut Load| load.of.data_center.as_ref() == Some(&used.data_center);
            if let Some(load) = loads.iter_mut().find(of_it) {
                (load.in_use, load.peak) = (used.last.into(), used.max.into());
            }
        }
        self.events.extend(self.alerts.sample(interval.start + interval.length, &self.loads));
    }
}
