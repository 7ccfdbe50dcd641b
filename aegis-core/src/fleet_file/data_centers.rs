//! Which data centers announce a holding? A list, or wishes and a number.

use ipnet::IpNet;

use super::rows::HoldingRow;
use crate::error::{Item, Refusal};
use crate::fleet::{DataCenter, Fleet, Partition};
use crate::id::DataCenterId;
use crate::inventory::{Choice, DataCenters, Wish};

/// The row's data centers; those that announce an address exist and are global, those that do not exist.
pub(super) fn data_centers(holding: &HoldingRow, fleet: &Fleet) -> Result<DataCenters, Refusal> {
    let refuse = |field, reason: String| Refusal::new(Item::named("holding", &holding.id), field, reason);
    let pinned = holding.pinned_data_centers.as_deref();
    let forbidden = holding.forbidden_data_centers.as_deref();
    for (field, list) in [("data_centers", holding.data_centers.as_deref()), ("pinned_data_centers", pinned)]
    {
        for (index, id) in list.unwrap_or_default().iter().enumerate() {
            exists(holding, fleet, field, index, id)?;
            let DataCenter { partition, .. } = fleet.data_center(id).expect("it exists");
            if *partition != Partition::Global {
                let reason = format!(
                    "data center \"{id}\" is in partition \"{partition}\", which gets no global addresses"
                );
                return Err(refuse(field, reason).element(index).against(Item::named("data_center", id)));
            }
        }
    }
    let said = [
        ("pinned_data_centers", pinned.is_some()),
        ("forbidden_data_centers", forbidden.is_some()),
        ("data_center_count", holding.data_center_count.is_some()),
    ];
    let chooses = said.into_iter().find(|(_, said)| *said).map(|(field, _)| field);
    match (&holding.data_centers, chooses) {
        (Some(_), Some(field)) => {
            let reason = format!("data_centers lists exactly those that announce it; remove it, or {field}");
            return Err(refuse(field, reason));
        }
        (Some(list), None) => return Ok(DataCenters::Listed(list.clone())),
        (None, None) => {
            return Ok(match holding.prefix.0 {
                IpNet::V4(_) => DataCenters::Listed(Vec::new()),
                IpNet::V6(_) => DataCenters::Global,
            });
        }
        (None, Some(_)) => {}
    }
    let mut choice = Choice { count: holding.data_center_count, ..Choice::default() };
    for (index, id) in pinned.unwrap_or_default().iter().enumerate() {
        if choice.wishes.insert(id.clone(), Wish::Pinned).is_some() {
            let reason = format!("data center \"{id}\" is pinned twice");
            return Err(refuse("pinned_data_centers", reason).element(index));
        }
    }
    for (index, id) in forbidden.unwrap_or_default().iter().enumerate() {
        exists(holding, fleet, "forbidden_data_centers", index, id)?;
        if let Some(before) = choice.wishes.insert(id.clone(), Wish::Forbidden) {
            let reason = match before {
                Wish::Pinned => format!("data center \"{id}\" is pinned and forbidden at once"),
                Wish::Forbidden => format!("data center \"{id}\" is forbidden twice"),
            };
            return Err(refuse("forbidden_data_centers", reason).element(index));
        }
    }
    Ok(DataCenters::Chosen(choice))
}

fn exists(
    holding: &HoldingRow,
    fleet: &Fleet,
    field: &'static str,
    index: usize,
    id: &DataCenterId,
) -> Result<(), Refusal> {
    if fleet.data_center(id).is_some() {
        return Ok(());
    }
    let reason = format!("data center \"{id}\" does not exist");
    Err(Refusal::new(Item::named("holding", &holding.id), field, reason).element(index))
}
