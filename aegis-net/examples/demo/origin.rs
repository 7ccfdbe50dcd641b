//! One origin process: a customer's server that checks every connection against the soft-unicast table, which it gets as
//! a router does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use aegis_core::epoch::Layout;
use aegis_core::soft_unicast::Table;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::Result;
use crate::messages::{Ask, GOODBYE, HELLO, Seen, send};

/// What all connections share.
struct Books(Mutex<Entries>);

struct Entries {
    /// Of the moment.
    owners: Table,
    seen: Seen,
    /// Who opened what is open.
    open: BTreeMap<SocketAddr, String>,
}

impl Books {
    fn entries(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.0.lock().expect("no panic while it is locked")
    }

    /// Looks up whose the peer is, and compares it with who it says it is.
    fn check(&self, peer: SocketAddr, said: &str) {
        let entries = &mut *self.entries();
        entries.seen.connections += 1;
        let fault = fault(&entries.owners, peer, said);
        *if fault.is_none() { &mut entries.seen.right } else { &mut entries.seen.wrong } += 1;
        entries.seen.first_wrong = entries.seen.first_wrong.take().or(fault);
        if entries.open.insert(peer, said.to_owned()).is_some() {
            entries.seen.duplicates += 1;
        }
    }

    /// Looks all up that is open: whatever has moved, it must belong to who opened it.
    fn check_all(&self) {
        let Entries { owners, seen, open } = &mut *self.entries();
        for (peer, said) in open.iter() {
            seen.rechecked += 1;
            if let Some(fault) = fault(owners, *peer, said) {
                seen.astray += 1;
                let epoch = seen.epoch;
                seen.first_astray.get_or_insert_with(|| format!("{fault}; it is open in epoch {epoch}"));
            }
        }
    }

    fn gone(&self, peer: SocketAddr, said: &str) {
        let entries = &mut *self.entries();
        // The tuple may be another machine's by now.
        if entries.open.get(&peer).is_some_and(|opener| opener == said) {
            entries.open.remove(&peer);
        }
    }

    fn obey(&self, ask: Ask) -> Result<()> {
        match ask {
            Ask::Look => self.check_all(),
            Ask::Steer(layout) => {
                let layout = Layout::from_bytes(&layout)?;
                let entries = &mut *self.entries();
                entries.owners = Table::new(&layout);
                entries.seen.epoch = layout.epoch();
            }
            Ask::Forget(machine) => self.entries().open.retain(|_, said| *said != machine),
        }
        Ok(())
    }
}

/// What is wrong, if the peer is not the port's owner.
fn fault(owners: &Table, peer: SocketAddr, said: &str) -> Option<String> {
    let owner = owners.owner(peer.ip(), peer.port());
    let owner = owner.and_then(|owner| owners.machine_id(owner.machine)).map(|id| id.as_str());
    (owner != Some(said))
        .then(|| format!("{peer} belongs to {} and was opened by {said}", owner.unwrap_or("nobody")))
}

pub(crate) fn run(protocol: &str, layout: &str) -> Result<()> {
    crate::machine::descriptors()?;
    let layout = Layout::from_bytes(&std::fs::read(layout)?)?;
    let seen = Seen { epoch: layout.epoch(), ..Seen::default() };
    let entries = Entries { owners: Table::new(&layout), seen, open: BTreeMap::new() };
    let books = Arc::new(Books(Mutex::new(entries)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let address = match protocol {
            "tcp" => {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                let address = listener.local_addr()?;
                tokio::spawn(serve_tcp(listener, Arc::clone(&books)));
                address
            }
            _ => {
                let socket = UdpSocket::bind("127.0.0.1:0").await?;
                let address = socket.local_addr()?;
                tokio::spawn(serve_udp(socket, Arc::clone(&books)));
                address
            }
        };
        // A report for every line asked, the first one unasked; the end of input is the end.
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        loop {
            let seen = {
                let entries = books.entries();
                Seen { address: Some(address), open: entries.open.len() as u32, ..entries.seen.clone() }
            };
            send(std::io::stdout().lock(), &seen)?;
            let Some(line) = lines.next_line().await? else { return Ok(()) };
            let ask: Ask = serde_json::from_str(&line)?;
            let is_new_layout = matches!(ask, Ask::Steer(_));
            books.obey(ask)?;
            if is_new_layout {
                books.check_all();
            }
        }
    })
}

async fn serve_tcp(listener: TcpListener, books: Arc<Books>) {
    while let Ok((stream, peer)) = listener.accept().await {
        tokio::spawn(serve_connection(stream, peer, Arc::clone(&books)));
    }
}

/// Reads who it is, checks it, nods; then says again what it hears, and closes after the peer has.
async fn serve_connection(stream: TcpStream, peer: SocketAddr, books: Arc<Books>) {
    let mut stream = BufReader::with_capacity(64, stream);
    let (mut said, mut line) = (String::new(), String::new());
    if !stream.read_line(&mut said).await.is_ok_and(|read| read > 0) {
        return;
    }
    let said = said.strip_prefix(HELLO).unwrap_or_default().trim_end();
    books.check(peer, said);
    let mut answered = stream.get_mut().write_all(b"\n").await;
    while answered.is_ok() {
        line.clear();
        if !stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
            break;
        }
        if line.starts_with(GOODBYE) {
            books.gone(peer, said);
        }
        answered = stream.get_mut().write_all(line.as_bytes()).await;
    }
    books.gone(peer, said);
}

async fn serve_udp(socket: UdpSocket, books: Arc<Books>) {
    let mut datagram = [0; 300];
    while let Ok((length, peer)) = socket.recv_from(&mut datagram).await {
        let text = String::from_utf8_lossy(&datagram[..length]);
        // Two flows with one 4-tuple would be two hellos from one peer.
        if let Some(said) = text.strip_prefix(HELLO) {
            books.check(peer, said.trim_end());
            let _ = socket.send_to(b"\n", peer).await;
            continue;
        }
        if let Some(said) = text.strip_prefix(GOODBYE) {
            books.gone(peer, said.trim_end());
        }
        let _ = socket.send_to(text.as_bytes(), peer).await;
    }
}
