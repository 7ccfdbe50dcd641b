//! A process that the demo has started: it hears through its input, and what it says arrives in a queue.

use std::io::BufReader;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Sender;

use aegis_core::time::Time;
use aegis_net::clock;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Result;
use crate::messages::{receive, send};

/// What a process said, and when that was heard.
pub(crate) struct Heard<T> {
    pub(crate) from: String,
    pub(crate) at: Time,
    /// None: the process has ended.
    pub(crate) message: Option<T>,
}

/// It ends when its input does, or when this is dropped.
pub(crate) struct Process {
    child: Child,
    stdin: ChildStdin,
}

impl Process {
    pub(crate) fn start<T: DeserializeOwned + Send + 'static>(
        name: &str,
        arguments: &[&str],
        heard: Sender<Heard<T>>,
    ) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().expect("piped");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let name = name.to_owned();
        std::thread::spawn(move || {
            // The time is taken here: whoever reads the queue may be busy, and must not take a machine for dead then.
            loop {
                let message = receive(&mut stdout).ok().flatten();
                let is_end = message.is_none();
                let heard_now = Heard { from: name.clone(), at: clock::now(), message };
                if heard.send(heard_now).is_err() || is_end {
                    break;
                }
            }
        });
        Ok(Self { child, stdin })
    }

    pub(crate) fn tell(&self, message: &impl Serialize) -> Result<()> {
        send(&self.stdin, message)
    }
}

impl Drop for Process {
    /// With `SIGKILL`: nothing in the process can do anything about it.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
