use core::time::Duration;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use std::sync::Arc;

use crate::epoch::form::Form;
use crate::epoch::{Layout, LayoutParts};
use crate::error::{Error, ErrorKind, Result};
use crate::id::MachineId;

const FORM: Form = Form { magic: *b"AEGR", name: "record", version: 1 };

/// What controllers must not forget, and agree on: the layout in force, and when each machine last renewed its tenure,
/// counted in versions of the record.
///
/// It is kept where a value can be compared and swapped: a controller's change holds if the record's version is still the
/// one that it has read.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "Parts")]
pub struct Record {
    pub(super) version: u64,
    /// The version with which each machine of the layout renewed its tenure, or came into it. No two renewals have the
    /// same, not even when a machine was gone between them.
    pub(super) renewals: BTreeMap<MachineId, u64>,
    /// The longest tenure that any controller has given: one whose settings say less waits as long all the same.
    pub(super) longest_tenure: Duration,
    pub(super) layout: Arc<Layout>,
}

/// A record as it is written, before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    version: u64,
    renewals: BTreeMap<MachineId, u64>,
    longest_tenure: Duration,
    layout: LayoutParts,
}

impl TryFrom<Parts> for Record {
    type Error = Error;

    fn try_from(parts: Parts) -> Result<Self> {
        let Parts { version, renewals, longest_tenure, layout } = parts;
        let layout = Layout::try_from(layout)?;
        let fault = |fault| Err(Error::new(ErrorKind::Reload, fault));
        if let Some(machine) = renewals.keys().find(|id| layout.machine_index(id).is_none()) {
            return fault(format!("machine {machine} has a tenure, but is not in the layout"));
        }
        if let Some(machine) = layout.machines().iter().find(|m| !renewals.contains_key(&m.id)) {
            return fault(format!("machine {} is in the layout, but no renewal of it is known", machine.id));
        }
        if let Some((machine, renewal)) = renewals.iter().find(|(_, renewal)| **renewal > version) {
            return fault(format!("machine {machine} has renewed with version {renewal}, after {version}"));
        }
        Ok(Self { version, renewals, longest_tenure, layout: Arc::new(layout) })
    }
}

impl Record {
    /// The first record of a fleet: nobody has a tenure yet.
    pub fn new(layout: Layout) -> Self {
        let renewals = layout.machines().iter().map(|machine| (machine.id.clone(), 0)).collect();
        Self { version: 0, renewals, longest_tenure: Duration::ZERO, layout: Arc::new(layout) }
    }

    /// Grows with every change.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The layout in force.
    pub const fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        FORM.write_bytes(self)
    }

    /// Reads [`to_bytes`](Self::to_bytes).
    ///
    /// # Errors
    /// [`ErrorKind::Reload`] for anything else, saying what is wrong and at which byte.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        FORM.read_bytes::<Parts, Self>(bytes)
    }
}
