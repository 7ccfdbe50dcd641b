//! The plan for the demo's fleet: how many addresses would carry what was open, where, why, and what breaks first.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use aegis_core::epoch::Epoch;
use aegis_core::fleet::{Latencies, Reach};
use aegis_core::fleet_file::FleetFile;
use aegis_core::id::DataCenterId;
use aegis_core::net::Protocol;
use aegis_core::plan::{self, Constraints, OriginDemand, Plan, Prices, Rented, Traffic};

use crate::Result;
use crate::play::Outcome;
use crate::stage::Stage;

/// Prints the plan for the connections to each origin that were open at the peak, and writes it into `out` as a section of
/// a fleet file. A fleet for which there is no plan is told so.
pub(crate) fn plan(stage: &Stage, outcome: &Outcome, out: &Path) -> Result<()> {
    let FleetFile { fleet, policy, .. } = &stage.file;
    let constraints = Constraints { policy: policy.layout()?, ..Constraints::default() };
    println!(
        "The plan for this fleet and the peak of acts 1 to 5, with origins in the city of the first machine:"
    );
    match plan::plan(fleet, &Latencies::estimated(fleet), &demands(stage, outcome)?, &constraints) {
        Ok(plan) => {
            print!("{}", indented(&plan.to_string()));
            println!("  beside IPv6 on the same machines:");
            print!("{}", indented(&plan.compare(fleet, &Prices::default())?.to_string()));
            println!("  As a section of a fleet file: {}", write(stage, &plan, out)?);
        }
        Err(error) => println!("  none: {error}"),
    }
    Ok(())
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// What the machines had open towards each origin for TCP, by the data center that they are in.
fn demands(stage: &Stage, outcome: &Outcome) -> Result<Vec<OriginDemand>> {
    let fleet = &stage.file.fleet;
    let city = fleet.data_center(&stage.cast[0].data_center).expect("the machine is there").coordinates;
    let servers = stage.servers.iter().zip(&outcome.addresses);
    let servers = servers.filter(|(server, _)| server.protocol == Protocol::Tcp).zip(1..);
    let demands = servers.map(|((server, address), nth)| {
        let mut ingress = BTreeMap::<DataCenterId, f64>::new();
        for machine in &outcome.machines {
            let at = &fleet.machine(&machine.id.parse()?).expect("it played").data_center;
            let rows =
                machine.rows.iter().filter(|row| row.origin.as_ref().is_some_and(|(_, to)| to == address));
            *ingress.entry(at.clone()).or_default() += rows.map(|row| f64::from(row.peak)).sum::<f64>();
        }
        let traffic = Traffic::Connections { peak: ingress.values().sum(), closes_per_second: 0.0 };
        // One of the demo's own has no name of an origin.
        let name =
            server.name.split_once(" (").map_or_else(|| format!("server-{nth}"), |(id, _)| id.to_owned());
        OriginDemand::new(name.parse()?, traffic, Duration::ZERO, ingress, Reach::estimated(fleet, city))
    });
    Ok(demands.collect::<aegis_core::Result<_>>()?)
}

/// Writes the holdings and the pool. What is written can be used: the layout of it is built.
fn write(stage: &Stage, plan: &Plan, out: &Path) -> Result<String> {
    let account = stage.file.tenancy.zone(&stage.zone).expect("it was played").account.clone();
    let addresses = (0..).map(|n| Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + n));
    let addresses = addresses.take(plan.addresses.len()).collect();
    let rented = Rented { account, pool: "planned".parse()?, addresses };
    plan.layout(&stage.file.fleet, &rented, None, Epoch::new(1))?;
    let path = out.join("plan.toml");
    std::fs::write(&path, plan.to_toml(&rented)?)?;
    Ok(path.display().to_string())
}
