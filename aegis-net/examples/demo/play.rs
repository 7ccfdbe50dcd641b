//! The acts of the demo, and the processes that play them.

use std::io::BufReader;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;

use crate::Result;
use crate::messages::{Answer, Filled, Order, Row, Seen, receive, send};
use crate::stage::Stage;

/// After this long the demo gives up: something hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// What came of it.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) violations: Vec<String>,
    pub(crate) origins: Vec<Seen>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) took: Duration,
    /// What a machine is told when its share is full.
    pub(crate) refusal: String,
}

/// The last word of one machine.
pub(crate) struct Machine {
    pub(crate) id: String,
    pub(crate) rows: Vec<Row>,
    pub(crate) json_lines: String,
    pub(crate) open_metrics: String,
}

/// A process of the demo. It ends when its input does, or when this is dropped.
struct Process<T> {
    name: String,
    child: Child,
    stdin: ChildStdin,
    messages: Receiver<T>,
}

impl<T: DeserializeOwned + Send + 'static> Process<T> {
    fn start(name: &str, arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (sender, messages) = mpsc::channel();
        let stdin = child.stdin.take().expect("piped");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            while let Ok(Some(message)) = receive(&mut stdout) {
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        Ok(Self { name: name.to_owned(), child, stdin, messages })
    }

    fn next(&self, deadline: Instant) -> Result<T> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.messages.recv_timeout(left).map_err(|error| match error {
            mpsc::RecvTimeoutError::Timeout => format!("{} has not answered in time", self.name).into(),
            mpsc::RecvTimeoutError::Disconnected => format!("the process of {} has ended", self.name).into(),
        })
    }
}

impl<T> Drop for Process<T> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type MachineProcess = Process<Answer>;
type OriginProcess = Process<Seen>;

/// Plays all acts; files that the processes need go into `out`.
pub(crate) fn play(stage: &Stage, out: &Path) -> Result<Outcome> {
    let started = Instant::now();
    let deadline = started + LIMIT;
    let mut outcome = Outcome::default();
    let bundles = out.join("bundles");
    std::fs::create_dir_all(&bundles)
        .map_err(|error| format!("cannot make the folder {} (--out): {error}", bundles.display()))?;

    let layout = out.join("layout");
    std::fs::write(&layout, stage.layout.to_bytes())?;
    let layout = layout.to_str().ok_or("the folder's name is not UTF-8")?;
    let mut origins = Vec::new();
    for server in &stage.servers {
        let protocol = server.protocol.to_string();
        origins.push(OriginProcess::start(&server.name, &["--as-origin", &protocol, layout])?);
    }
    let mut addresses = Vec::new();
    for origin in &origins {
        let address = origin.next(deadline)?.address.expect("an origin says where it listens");
        println!("Origin {} plays at {address}", origin.name);
        addresses.push(address);
    }
    let [first, second, udp] = addresses[..] else { unreachable!("three were started") };

    let mut machines = Vec::new();
    for actor in &stage.cast {
        let bundle = bundles.join(actor.id.as_str());
        std::fs::write(&bundle, actor.bundle.to_bytes())?;
        let bundle = bundle.to_str().ok_or("the folder's name is not UTF-8")?;
        let arguments = ["--as-machine", bundle, stage.zone.as_str(), stage.udp_zone.as_str()];
        machines.push(MachineProcess::start(actor.id.as_str(), &arguments)?);
    }

    let ports = |actor: &crate::stage::Actor| -> u32 {
        let shares = stage.layout.shares_of(&actor.id);
        shares.filter(|(ip, _)| stage.is_filled(*ip)).map(|(_, ports)| ports.len()).sum()
    };
    let capacity: u32 = stage.cast.iter().map(ports).sum();
    let flows = stage.udp_flows * machines.len() as u32;
    let bar = bar(u64::from(3 * capacity + flows));
    // A stranger on the host: somebody else's server on a port of the first machine's share.
    let stranger = stranger(stage);
    if let Some((_, address)) = &stranger {
        println!("A stranger on this host listens on {address}, a port of {}", stage.cast[0].id);
    }

    let mut act = |title: &str, machines: &mut [MachineProcess], order: &dyn Fn() -> Order, full: bool| {
        bar.set_message(title.to_owned());
        for machine in machines.iter_mut() {
            send(&machine.stdin, &order())?;
        }
        let mut opened = 0;
        for machine in machines.iter() {
            loop {
                match machine.next(deadline)? {
                    Answer::Progress(more) => bar.inc(u64::from(more)),
                    Answer::Filled(filled) => {
                        opened += filled.opened;
                        if full {
                            check_full(&machine.name, title, &filled, &mut outcome);
                        }
                        break;
                    }
                    Answer::Released(closed) => {
                        opened += closed;
                        break;
                    }
                    Answer::Failed(error) => return Err(format!("{}, {title}: {error}", machine.name).into()),
                    Answer::Usage { .. } => unreachable!("not asked"),
                }
            }
        }
        let done = format!("{title}: {opened}, {:.1} s", started.elapsed().as_secs_f64());
        if bar.is_hidden() {
            println!("{done}");
        } else {
            bar.println(done);
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(opened)
    };

    let mut expected =
        act("1 fill every share towards the first origin", &mut machines, &|| Order::Fill(first), true)?;
    expected +=
        act("2 the same ports towards the second origin", &mut machines, &|| Order::Fill(second), true)?;
    let udp_act = format!("3 UDP flows of zone {}", stage.udp_zone);
    expected += act(&udp_act, &mut machines, &|| Order::Udp(udp, stage.udp_flows), false)?;
    act("4 close all connections to the first origin", &mut machines, &|| Order::Release(first), false)?;
    expected += act("5 fill every share again", &mut machines, &|| Order::Fill(first), true)?;
    bar.finish_and_clear();
    drop(stranger);

    for machine in &machines {
        send(&machine.stdin, &Order::Usage)?;
        let Answer::Usage { rows, json_lines, open_metrics } = machine.next(deadline)? else {
            return Err(format!("{} answers something else than its usage", machine.name).into());
        };
        outcome.machines.push(Machine { id: machine.name.clone(), rows, json_lines, open_metrics });
    }
    for origin in &origins {
        send(&origin.stdin, &())?;
        outcome.origins.push(origin.next(deadline)?);
    }
    let seen: u32 = outcome.origins.iter().map(|seen| seen.connections).sum();
    if seen != expected {
        outcome.violations.push(format!("{expected} connections were opened, the origins have seen {seen}"));
    }
    outcome.took = started.elapsed();
    Ok(outcome)
}

/// A full share: every port is live or a stranger's, and the next acquire was refused as exhausted.
fn check_full(machine: &str, title: &str, filled: &Filled, outcome: &mut Outcome) {
    let Filled { opened, parked, capacity, ref refusal, exhausted } = *filled;
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
