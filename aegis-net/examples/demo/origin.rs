//! One origin process: a customer's server that checks every connection against the soft-unicast table.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use aegis_core::epoch::Layout;
use aegis_core::soft_unicast::Table;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::Result;
use crate::messages::{Seen, send};

/// What all connections share.
struct Books {
    owners: Table,
    seen: Mutex<(Seen, BTreeSet<SocketAddr>)>,
}

impl Books {
    /// Looks up whose the peer is, and compares it with who it says it is. `lasts`: until [`Books::gone`].
    fn check(&self, peer: SocketAddr, said: &str, lasts: bool) {
        let owner = self.owners.owner(peer.ip(), peer.port());
        let owner = owner.and_then(|owner| self.owners.machine_id(owner.machine)).map(|id| id.as_str());
        let (seen, open) = &mut *self.seen.lock().expect("no panic while it is locked");
        seen.connections += 1;
        if owner == Some(said) {
            seen.right += 1;
        } else {
            seen.wrong += 1;
            seen.first_wrong.get_or_insert_with(|| {
                format!("{peer} belongs to {} and was opened by {said}", owner.unwrap_or("nobody"))
            });
        }
        if lasts && !open.insert(peer) {
            seen.duplicates += 1;
        }
    }

    fn gone(&self, peer: SocketAddr) {
        self.seen.lock().expect("no panic while it is locked").1.remove(&peer);
    }
}

pub(crate) fn run(protocol: &str, layout: &str) -> Result<()> {
    crate::machine::descriptors()?;
    let owners = Table::new(&Layout::from_bytes(&std::fs::read(layout)?)?);
    let books = Arc::new(Books { owners, seen: Mutex::default() });
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
                let (seen, open) = &*books.seen.lock().expect("no panic while it is locked");
                Seen { address: Some(address), open: open.len() as u32, ..seen.clone() }
            };
            send(std::io::stdout().lock(), &seen)?;
            if lines.next_line().await?.is_none() {
                return Ok(());
            }
        }
    })
}

async fn serve_tcp(listener: TcpListener, books: Arc<Books>) {
    while let Ok((stream, peer)) = listener.accept().await {
        tokio::spawn(serve_connection(stream, peer, Arc::clone(&books)));
    }
}

/// Reads who it is, checks it, nods, and closes after the peer has closed.
async fn serve_connection(stream: TcpStream, peer: SocketAddr, books: Arc<Books>) {
    let mut stream = BufReader::with_capacity(64, stream);
    let mut said = String::new();
    if stream.read_line(&mut said).await.is_ok_and(|read| read > 0) {
        books.check(peer, said.trim_end(), true);
        let nodded = stream.get_mut().write_all(b"\n").await;
        if nodded.is_ok() {
            let _ = stream.read_line(&mut said).await;
        }
        books.gone(peer);
    }
}

async fn serve_udp(socket: UdpSocket, books: Arc<Books>) {
    let mut said = [0; 300];
    while let Ok((length, peer)) = socket.recv_from(&mut said).await {
        // Two flows with one 4-tuple would be two hellos from one peer.
        books.check(peer, String::from_utf8_lossy(&said[..length]).trim_end(), true);
        let _ = socket.send_to(b"\n", peer).await;
    }
}
