//! The first acts: full shares. Nothing changes hands yet.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use aegis_core::id::MachineId;
use indicatif::{ProgressBar, ProgressStyle};

use crate::company::Company;
use crate::messages::{Answer, Ask, Fill, Filled, Order, Row, Seen};
use crate::stage::Stage;
use crate::{Result, acts, report};

/// What came of it.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) violations: Vec<String>,
    pub(crate) origins: Vec<Seen>,
    /// Where they played, in the order of the stage's servers.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) machines: Vec<Machine>,
    /// How many machines have had a process.
    pub(crate) played: usize,
    pub(crate) took: Duration,
    /// What a machine is told when its share is full.
    pub(crate) refusal: String,
}

/// How full one machine was.
pub(crate) struct Machine {
    pub(crate) id: String,
    pub(crate) rows: Vec<Row>,
    pub(crate) json_lines: String,
    pub(crate) open_metrics: String,
}

/// Plays all acts; files that the processes need go into `out`.
pub(crate) fn play(stage: &Stage, out: &Path) -> Result<Outcome> {
    let started = Instant::now();
    let mut outcome = Outcome { played: stage.cast.len(), ..Outcome::default() };
    let mut company = Company::start(stage, out)?;
    for (name, address) in company.origins() {
        println!("Origin {name} plays at {address}");
    }
    let addresses: Vec<SocketAddr> = company.origins().map(|(_, address)| address).collect();
    let [first, second, udp] = addresses[..] else { unreachable!("three were started") };
    outcome.addresses = addresses;
    let machines = company.players();

    let capacity: u32 = machines.iter().map(|id| stage.ports(&stage.layout, id)).sum();
    let flows = stage.udp_flows * machines.len() as u32;
    let bar = bar(u64::from(3 * capacity + flows));
    // A stranger on the host: somebody else's server on a port of the first machine's share.
    let stranger = stranger(stage);
    if let Some((_, address)) = &stranger {
        println!("A stranger on this host listens on {address}, a port of {}", stage.cast[0].id);
    }

    let mut act = |title: &str, order: &dyn Fn() -> Order, full: bool| {
        bar.set_message(title.to_owned());
        let mut sum = 0;
        for (id, answer) in company.order(&machines, order, &mut |more| bar.inc(u64::from(more)))? {
            match answer {
                Answer::Filled(filled) => {
                    sum += filled.opened;
                    if full {
                        check_full(&id, title, &filled, &mut outcome);
                    }
                }
                Answer::Released(closed) => sum += closed,
                answer => return Err(format!("{id}, {title}: {answer:?}").into()),
            }
        }
        let done = format!("{title}: {sum}, {:.1} s", started.elapsed().as_secs_f64());
        if bar.is_hidden() {
            println!("{done}");
        } else {
            bar.println(done);
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(sum)
    };
    let mut expected =
        act("1 fill every share towards the first origin", &|| Order::Fill(Fill::up(first)), true)?;
    expected += act("2 the same ports towards the second origin", &|| Order::Fill(Fill::up(second)), true)?;
    let udp_act = format!("3 UDP flows of zone {}", stage.udp_zone);
    expected += act(&udp_act, &|| Order::Udp(udp, stage.udp_flows), false)?;
    act("4 close all connections to the first origin", &|| Order::Release(first), false)?;
    expected += act("5 fill every share again", &|| Order::Fill(Fill::up(first)), true)?;
    bar.finish_and_clear();
    drop(stranger);

    for (id, answer) in company.order(&machines, &|| Order::Usage, &mut |_| {})? {
        let Answer::Usage { rows, json_lines, open_metrics } = answer else {
            return Err(format!("{id} answers something else than its usage").into());
        };
        outcome.machines.push(Machine { id: id.to_string(), rows, json_lines, open_metrics });
    }
    report::full_shares(&outcome, out)?;

    let second_part = acts::play(stage, &mut company, [first, second], started)?;
    expected += second_part.opened;
    outcome.played += second_part.joined;
    outcome.origins = company.ask(&Ask::Look)?;
    let seen: u32 = outcome.origins.iter().map(|seen| seen.connections).sum();
    if seen != expected {
        outcome.violations.push(format!("{expected} connections were opened, the origins have seen {seen}"));
    }
    outcome.violations.append(&mut company.violations);
    outcome.took = started.elapsed();
    Ok(outcome)
}

/// A full share: every port is live or a stranger's, and the next acquire was refused as exhausted.
fn check_full(machine: &MachineId, title: &str, filled: &Filled, outcome: &mut Outcome) {
    let Filled { opened, parked, capacity, ref refusal, exhausted, .. } = *filled;
    if opened + parked != capacity {
        outcome
            .violations
            .push(format!("{machine}, {title}: {opened} open + {parked} parked of {capacity} ports"));
    }
    if !exhausted {
        outcome.violations.push(format!("{machine}, {title}: ended by another error: {refusal}"));
    }
    if outcome.refusal.is_empty() {
        outcome.refusal = format!("{machine}: {refusal}");
    }
}

/// A listener on the wildcard address, on a port of the first machine's share: it blocks the port for everybody.
fn stranger(stage: &Stage) -> Option<(TcpListener, SocketAddr)> {
    let (_, ports) = stage.layout.shares_of(&stage.cast[0].id).find(|(ip, _)| stage.is_filled(*ip))?;
    let listener = ports.ports().find_map(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).ok())?;
    let address = listener.local_addr().ok()?;
    Some((listener, address))
}

fn bar(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("[{bar:30}] {human_pos}/{human_len} connections  {msg}")
        .expect("the template is right");
    ProgressBar::new(length).with_style(style.progress_chars("=> "))
}
