//! Network namespaces: a closure runs in a fresh one, on a thread of its own. Nothing is left over: the namespace is
//! gone when the thread and its sockets are.

use std::io::Write;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::thread::UnshareFlags;

/// Nothing here takes a second; a test that hangs must not hang all of them.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `body` in a fresh network namespace with `lo` up, and returns what it returns; its panics are the caller's.
/// `/proc/sys/net` is that of the namespace, and writable. Where namespaces cannot be made (no root), says so and
/// returns nothing.
///
/// Threads and processes that `body` starts are in the namespace too.
pub fn in_fresh<T: Send + 'static>(test: &str, body: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, result) = mpsc::sync_channel(1);
    let thread = thread::spawn(move || {
        let entered = enter();
        let value = entered.map(|()| body());
        // The receiver is gone if this took too long.
        let _ = done.send(value);
    });
    match result.recv_timeout(PATIENCE) {
        Ok(Ok(value)) => Some(value),
        Ok(Err(why)) => {
            let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
            None
        }
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{test} is not done after {PATIENCE:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("a thread that returns has sent its value"),
        },
    }
}

fn enter() -> Result<(), String> {
    // SAFETY: this thread, which has just begun, leaves the network namespace of the others; it shares no file
    // descriptor table or memory less than before, and all tests of `netns` go this way.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
        .map_err(|error| format!("no network namespace: {error}; run as root"))?;
    run("ip link set lo up")?;
    // Now packets can reach 127/8.
    UdpSocket::bind("127.0.0.1:0").map(drop).map_err(|error| format!("lo is not up: {error}"))
}

fn run(command: &str) -> Result<(), String> {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a command");
    // The child is in the namespace of the thread that starts it.
    let output = Command::new(program).args(words).output().map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Runs a command, inside the namespace; `ip` of iproute2 is there if [`in_fresh`] got this far.
pub fn sh(command: &str) {
    run(command).unwrap();
}

/// Writes a sysctl of the namespace: `sysctl("net.ipv4.tcp_timestamps", "0")`.
pub fn sysctl(name: &str, value: &str) {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    // An empty value alone would write nothing.
    std::fs::write(&path, format!("{value}\n")).unwrap_or_else(|error| panic!("{path}: {error}"));
}
