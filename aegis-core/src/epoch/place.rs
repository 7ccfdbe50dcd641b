//! Which granules of an address, once it is known how many: nobody gives up more than it must, and runs stay long.

use super::MachineIndex;

/// The shares of one address, in the order of their slices.
pub(super) type Shares = Vec<(MachineIndex, u16)>;

/// Puts shares into their places. It keeps its memory from address to address.
pub(super) struct Placement {
    usable: Vec<bool>,
    /// By machine position: how many granules it must still give up (negative) or get. All 0 between two addresses.
    wants: Vec<i32>,
}

/// A run of granules of one machine.
struct Run {
    machine: MachineIndex,
    len: usize,
    start: usize,
}

impl Placement {
    /// For a cut whose usable granules are these, and this many machines.
    pub(super) fn new(usable: Vec<bool>, machines: usize) -> Self {
        Self { usable, wants: vec![0; machines] }
    }

    /// Is this granule usable?
    pub(super) fn usable(&self) -> &[bool] {
        &self.usable
    }

    /// The owners of one address: `before` changed as little as `shares` allow. A machine keeps as many of its
    /// granules as its new share has room for; whoever is not in `shares` keeps none.
    pub(super) fn place(
        &mut self,
        shares: &Shares,
        mut owners: Vec<Option<MachineIndex>>,
    ) -> Vec<Option<MachineIndex>> {
        for owner in owners.iter().flatten() {
            self.wants[owner.get()] -= 1;
        }
        for (machine, share) in shares {
            self.wants[machine.get()] += i32::from(*share);
        }
        self.give_up(&mut owners);
        self.fill(shares, &mut owners);
        debug_assert!(
            shares.iter().all(|(machine, _)| self.wants[machine.get()] == 0),
            "more shares than granules"
        );
        owners
    }

    /// Machines with too many granules give up their shortest runs, and of the last one the end that lies next to
    /// what is free: so free granules make long runs too.
    fn give_up(&mut self, owners: &mut [Option<MachineIndex>]) {
        let mut runs = self.runs(owners);
        runs.sort_unstable_by_key(|run| (run.machine, run.len, run.start));
        let mut rests = Vec::new();
        for run in runs {
            let excess = &mut self.wants[run.machine.get()];
            let given = usize::try_from(-*excess).expect("it has too many").min(run.len);
            *excess += count(given);
            if given == run.len {
                owners[run.start..run.start + run.len].fill(None);
            } else if given > 0 {
                rests.push((run, given));
            }
        }
        rests.sort_unstable_by_key(|(run, _)| run.start);
        for (Run { start, len, .. }, given) in rests {
            let free_below = start > 0 && self.usable[start - 1] && owners[start - 1].is_none();
            let from = if free_below { start } else { start + len - given };
            owners[from..from + given].fill(None);
        }
    }

    /// The runs of all machines that have too many granules.
    fn runs(&self, owners: &[Option<MachineIndex>]) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (granule, owner) in owners.iter().enumerate() {
            let Some(machine) = owner.filter(|machine| self.wants[machine.get()] < 0) else { continue };
            match runs.last_mut() {
                Some(run) if run.machine == machine && run.start + run.len == granule => run.len += 1,
                _ => runs.push(Run { machine, len: 1, start: granule }),
            }
        }
        runs
    }

    /// Gives the free granules to those who want more: first to the neighbours of a free run, then to whom it fits
    /// exactly, then in order. What nobody wants stays unassigned.
    fn fill(&mut self, shares: &Shares, owners: &mut [Option<MachineIndex>]) {
        let Self { usable, wants } = self;
        let mut waiting: Vec<MachineIndex> =
            shares.iter().map(|(machine, _)| *machine).filter(|machine| wants[machine.get()] > 0).collect();
        waiting.reverse(); // The next one is the last.
        let most = waiting.iter().map(|machine| wants[machine.get()]).max().unwrap_or(0);
        let take = |wants: &mut [i32], machine: MachineIndex, room: usize| {
            let wanted = &mut wants[machine.get()];
            let taken = room.min(usize::try_from(*wanted).unwrap_or(0));
            *wanted -= count(taken);
            taken
        };
        let mut end = 0;
        while let Some(start) = (end..owners.len()).find(|g| usable[*g] && owners[*g].is_none()) {
            end = (start..owners.len()).find(|g| !usable[*g] || owners[*g].is_some()).unwrap_or(owners.len());
            let (mut lo, mut hi) = (start, end);
            if let Some(below) = lo.checked_sub(1).and_then(|granule| owners[granule]) {
                let taken = take(wants, below, hi - lo);
                owners[lo..lo + taken].fill(Some(below));
                lo += taken;
            }
            if let Some(above) = owners.get(hi).copied().flatten() {
                let taken = take(wants, above, hi - lo);
                owners[hi - taken..hi].fill(Some(above));
                hi -= taken;
            }
            while lo < hi {
                let room = count(hi - lo);
                // Whoever wants more than anybody does need not be looked for.
                let fits = || waiting.iter().rfind(|machine| wants[machine.get()] == room);
                let next = (room <= most).then(fits).flatten().or(waiting.last());
                let Some(machine) = next.copied() else { return };
                let taken = take(wants, machine, hi - lo);
                owners[lo..lo + taken].fill(Some(machine));
                lo += taken;
                while waiting.last().is_some_and(|machine| wants[machine.get()] == 0) {
                    waiting.pop();
                }
            }
        }
    }
}

/// An address has at most 1,024 granules.
fn count(granules: usize) -> i32 {
    i32::try_from(granules).expect("granules of one address")
}
