//! Which process is it, and does it still live?

use std::fs;
use std::num::NonZeroU64;
use std::process;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// A process, told from any later one that is given its number: number and start time.
///
/// Whoever shares memory writes the [token](Self::token) into it; when the process is killed, the others find out
/// that it [is dead](Self::is_alive), and clean up. All of them must be in the same process namespace and time
/// namespace, or they see other numbers (sharing through [`Shared`](crate::Shared) makes sure of that).
///
/// ```
/// use aegis_net::Process;
///
/// let token = Process::me().token();
/// // ... in another process:
/// assert!(Process::from_token(token).is_some_and(Process::is_alive));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Process {
    pid: Pid,
    /// Clock ticks since the start of the machine; zero is unknown. Ticks are 10 ms.
    start: u64,
}

/// The kernel counts processes up to 2^22, which leaves 41 bits of ticks: 697 years.
const START_BITS: u32 = 41;
const START_MASK: u64 = (1 << START_BITS) - 1;

impl Process {
    /// This process. A forked child is another one: ask again.
    ///
    /// Without a `/proc` of its process namespace the start time stays unknown. Then the process counts as alive as
    /// long as there is any process with its number.
    pub fn me() -> Self {
        let pid = i32::try_from(process::id()).ok().and_then(Pid::from_raw);
        let pid = pid.expect("process numbers are small and not zero");
        let start = proc_is_ours(pid).then(|| Stat::of(pid)).flatten().map_or(0, |stat| stat.start);
        Self { pid, start: start & START_MASK }
    }

    /// The process of a token; `None` if it is none, whoever wrote it.
    pub fn from_token(token: u64) -> Option<Self> {
        let pid = i32::try_from(token >> START_BITS).ok().and_then(Pid::from_raw)?;
        Some(Self { pid, start: token & START_MASK })
    }

    /// The process as a number, which is never zero.
    pub fn token(self) -> u64 {
        let pid = u64::from(self.pid.as_raw_nonzero().get().unsigned_abs());
        NonZeroU64::new(pid << START_BITS | self.start).expect("its number is not zero").get()
    }

    /// Its number.
    pub fn pid(self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// The process still runs, or at least nobody can tell that it does not.
    ///
    /// It is dead if no process has its number, if the one that has it started at another time, or if it has ended
    /// and only its parent has not noticed yet (zombie). Where `/proc` hides others (`hidepid`) or is not there, it is
    /// alive as long as there is any process with its number: what is left behind is then found later, never too
    /// early.
    pub fn is_alive(self) -> bool {
        match proc_is_ours(Self::me_pid()).then(|| Stat::of(self.pid)).flatten() {
            Some(stat) => {
                let same = self.start == 0 || self.start == stat.start & START_MASK;
                same && !stat.has_ended()
            }
            // EPERM: it is another user's.
            None => test_kill_process(self.pid) != Err(Errno::SRCH),
        }
    }

    fn me_pid() -> Pid {
        rustix::process::getpid()
    }
}

/// `/proc` may be missing, or be that of another process namespace, where numbers mean other processes.
fn proc_is_ours(me: Pid) -> bool {
    let ours = me.as_raw_nonzero().to_string();
    fs::read_link("/proc/self").is_ok_and(|link| link.as_os_str() == ours.as_str())
}

/// What `/proc/PID/stat` says that matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stat {
    state: u8,
    threads: u64,
    start: u64,
}

impl Stat {
    fn of(pid: Pid) -> Option<Self> {
        Self::parse(&fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?)
    }

    /// The second field is the program's name in parentheses; it may contain anything, also spaces and parentheses.
    fn parse(text: &[u8]) -> Option<Self> {
        let name_end = text.iter().rposition(|&byte| byte == b')')?;
        let rest = std::str::from_utf8(&text[name_end + 1..]).ok()?;
        // From field 3, counted from 1 as in proc_pid_stat(5).
        let mut fields = rest.split_ascii_whitespace();
        let &[state] = fields.next()?.as_bytes() else { return None };
        let threads = fields.nth(20 - 4)?.parse().ok()?;
        let start = fields.nth(22 - 21)?.parse().ok()?;
        Some(Self { state, threads, start })
    }

    /// Z is also the state of a process whose first thread has ended while others run.
    fn has_ended(self) -> bool {
        matches!(self.state, b'X' | b'x') || (self.state == b'Z' && self.threads <= 1)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    impl Process {
        /// The process that has this number now.
        fn of(child: &Child) -> Self {
            let pid = Pid::from_child(child);
            Self { pid, start: Stat::of(pid).unwrap().start }
        }
    }

    /// A child that waits until it is killed or its input ends.
    fn child() -> Child {
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn a_process_is_its_token() {
        let me = Process::me();
        assert_eq!(me.pid(), process::id());
        assert!(me.start > 0 && me.token() != 0 && me.is_alive());
        assert_eq!(Process::from_token(me.token()), Some(me));
        let last = Process { pid: Pid::from_raw(1 << 22).unwrap(), start: START_MASK };
        assert_eq!(Process::from_token(last.token()), Some(last));
        assert!(!last.is_alive(), "numbers end before it");
    }

    #[test]
    fn a_token_that_is_none_is_nobody() {
        for token in [0, 1, START_MASK] {
            assert_eq!(Process::from_token(token), None);
        }
        // 23 bits of process number, whatever they are, are asked for without harm.
        assert!(!Process::from_token(u64::MAX).unwrap().is_alive());
    }

    #[test]
    fn a_killed_process_is_dead_before_and_after_its_parent_notices() {
        let mut child = child();
        let process = Process::of(&child);
        assert!(process.is_alive());
        child.kill().unwrap();
        // It does not become anything else than a zombie before it is waited for.
        while Stat::of(process.pid).unwrap().state != b'Z' {
            std::thread::yield_now();
        }
        assert!(!process.is_alive(), "a zombie");
        child.wait().unwrap();
        assert!(!process.is_alive(), "gone");
    }

    #[test]
    fn a_later_process_of_the_same_number_is_another() {
        let me = Process::me();
        assert!(!Process { start: me.start - 1, ..me }.is_alive());
        assert!(!Process { start: me.start + 1, ..me }.is_alive());
        assert!(Process { start: 0, ..me }.is_alive(), "unknown when it started: not known to be dead");
    }

    #[test]
    fn a_program_can_call_itself_what_it_wants() {
        let stat = |name: &str, state| {
            format!("7 ({name}) {state} 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 424242 9 9 9\n")
        };
        let expected = Stat { state: b'S', threads: 3, start: 424_242 };
        for name in ["cat", "a b", ") Z 1 (", "", "((", "))))", "Z 1 2 3"] {
            assert_eq!(Stat::parse(stat(name, 'S').as_bytes()), Some(expected), "{name}");
        }
        let mut not_text = stat("??", 'S').into_bytes();
        (not_text[3], not_text[4]) = (0xff, 0xfe);
        assert_eq!(Stat::parse(&not_text), Some(expected));
        for short in ["", "7", "7 (cat", "7 (cat)", "7 (cat) S", "7 (cat) S 1 2 3", "7 (cat) SS 1 7 7 0 -1 0"]
        {
            assert_eq!(Stat::parse(short.as_bytes()), None, "{short}");
        }
    }

    #[test]
    fn a_process_lives_while_one_of_its_threads_does() {
        let ended = |state, threads| Stat { state, threads, start: 1 }.has_ended();
        assert!(ended(b'Z', 1) && ended(b'Z', 0) && ended(b'X', 1));
        assert!(!ended(b'Z', 2) && !ended(b'R', 1) && !ended(b'S', 1) && !ended(b'T', 1));
    }
}
