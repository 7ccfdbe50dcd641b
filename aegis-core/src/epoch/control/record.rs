use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use std::sync::Arc;

use crate::epoch::form::Form;
use crate::epoch::{Layout, LayoutParts};
use crate::error::{Error, ErrorKind, Result};
use crate::id::MachineId;

const FORM: Form = Form { magic: *b"AEGR", name: "record", version: 1 };

/// What controllers must not forget, and agree on: the layout in force, and which version renewed the tenure of each
/// machine last.
///
/// It is kept where a value can be compared and swapped: a controller's change holds if the record's version is still the
/// one that it has read.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "Parts")]
pub struct Record {
    pub(super) version: u64,
    pub(super) renewals: BTreeMap<MachineId, u64>,
    pub(super) layout: Arc<Layout>,
}

/// A record as it is written, before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    version: u64,
    renewals: BTreeMap<MachineId, u64>,
    layout: LayoutParts,
}

impl TryFrom<Parts> for Record {
    type Error = Error;

    fn try_from(parts: Parts) -> Result<Self> {
        let Parts { version, renewals, layout } = parts;
        let layout = Layout::try_from(layout)?;
        if let Some(machine) = renewals.keys().find(|id| layout.machine_index(id).is_none()) {
            let fault = format!("machine {machine} has a tenure, but is not in the layout");
            return Err(Error::new(ErrorKind::Reload, fault));
        }
        Ok(Self { version, renewals, layout: Arc::new(layout) })
    }
}

impl Record {
    /// The first record of a fleet: nobody has a tenure yet.
    pub fn new(layout: Layout) -> Self {
        Self { version: 0, renewals: BTreeMap::new(), layout: Arc::new(layout) }
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
