//! The faults by name, and the order in which a seed brings them.

use crate::random::Random;

/// What a fault needs besides a launcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// A small file system for the state directory.
    Disk,
    /// A group of processes whose memory can be bounded: cgroups, and root.
    Group,
    /// It is a mistake on purpose, which the harness must find: never drawn unless it is named.
    Planted,
}

/// A kind of fault.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its name on the command line and in results.
    pub name: &'static str,
    /// What happens.
    pub what: &'static str,
    /// What it needs.
    pub needs: Needs,
}

const fn fault(name: &'static str, what: &'static str, needs: Needs) -> Fault {
    Fault { name, what, needs }
}

/// All of them.
pub const FAULTS: &[Fault] = &[
    fault("kill", "kill -9 of a worker", Needs::Nothing),
    fault("kill-all", "kill -9 of all workers of a service at once", Needs::Nothing),
    fault("stop", "a worker is stopped for up to 2 s, and goes on", Needs::Nothing),
    fault("stop-kill", "a worker is stopped, then killed", Needs::Nothing),
    fault("term", "a worker is sent TERM", Needs::Nothing),
    fault("segfault", "a worker's plugin reads address 16", Needs::Nothing),
    fault("abort", "a worker's plugin aborts", Needs::Nothing),
    fault("exit", "a worker's plugin ends its process", Needs::Nothing),
    fault("memory", "a worker's plugin gets no memory any more (RLIMIT_AS) and aborts", Needs::Nothing),
    fault("trap", "a component traps", Needs::Nothing),
    fault("panic", "a native plugin panics, at once and later", Needs::Nothing),
    fault("flood", "a plugin prints 8 MiB", Needs::Nothing),
    fault("reload", "a plugin is replaced", Needs::Nothing),
    fault("reload-storm", "a plugin is replaced five times in a row", Needs::Nothing),
    fault("half-written", "a plugin is written in place, in two halves", Needs::Nothing),
    fault("truncated", "a plugin is cut to a part of its length", Needs::Nothing),
    fault("garbage", "a plugin is replaced by garbage", Needs::Nothing),
    fault("missing", "a plugin is removed for a while", Needs::Nothing),
    fault("bad-start", "a generation that refuses, panics, exits or segfaults when it starts", Needs::Nothing),
    fault("mortal", "a generation whose workers die soon after they were ready", Needs::Nothing),
    fault("rollback", "an operator returns to the generation before", Needs::Nothing),
    fault("restart", "an operator replaces every worker", Needs::Nothing),
    fault("scale", "an operator scales up, then down", Needs::Nothing),
    fault("config-good", "the configuration changes: workers, environment, a service more or less", Needs::Nothing),
    fault("config-bad", "the configuration is broken for a while", Needs::Nothing),
    fault("hang-up", "the master is sent HUP, and USR1", Needs::Nothing),
    fault("control-garbage", "requests that are none, or cut, to the control socket", Needs::Nothing),
    fault("handover-stopped", "a reload; a worker that takes over is stopped for a while", Needs::Nothing),
    fault("handover-killed", "a reload; a worker that takes over is killed", Needs::Nothing),
    fault("giver-killed", "a reload; a worker that hands over is killed", Needs::Nothing),
    fault("scale-down-stopped", "a worker is scaled away while one that stays is stopped", Needs::Nothing),
    fault("no-descriptors", "a worker may open no descriptor for a while", Needs::Nothing),
    fault("master-no-descriptors", "the master may open no descriptor for a while", Needs::Nothing),
    fault(
        "no-memory",
        "a worker gets no memory any more (RLIMIT_AS) while it serves, for a while or to its end",
        Needs::Nothing,
    ),
    fault(
        "master-no-memory",
        "the master gets no memory any more (RLIMIT_AS), for a while or to its end",
        Needs::Nothing,
    ),
    fault("out-of-memory", "the kernel kills a worker for want of memory (cgroup)", Needs::Group),
    fault("master-out-of-memory", "the kernel kills the master for want of memory (cgroup)", Needs::Group),
    fault("clock-jump", "the wall clock jumps: an hour, a day, to 1970, to 2100, and back", Needs::Nothing),
    fault("master-stopped", "the master is stopped for a while", Needs::Nothing),
    fault("disk-full", "the disk of the state directory and the log is full during a reload", Needs::Disk),
    fault("master-killed", "kill -9 of the master", Needs::Nothing),
    fault("master-killed-in-reload", "kill -9 of the master during a reload", Needs::Nothing),
    fault("keeper-killed", "kill -9 of the keeper", Needs::Nothing),
    fault("planted-kill", "a worker is killed and the harness does not know which connections it held", Needs::Planted),
];

/// The fault of that name.
pub fn named(name: &str) -> Option<&'static Fault> {
    FAULTS.iter().find(|fault| fault.name == name)
}

/// Faults in the order of a seed: all that were chosen, shuffled, again and again, so that even a short schedule has
/// most of them.
#[derive(Debug)]
pub struct Schedule {
    chosen: Vec<&'static Fault>,
    left: Vec<&'static Fault>,
    random: Random,
    seed: Random,
    number: u64,
}

/// One of a schedule.
#[derive(Debug)]
pub struct Step {
    /// Its place, from 1.
    pub number: u64,
    /// What to do.
    pub fault: &'static Fault,
    /// For everything that is left open: of this step alone.
    pub random: Random,
}

impl Schedule {
    /// Of a seed.
    pub fn new(seed: u64, chosen: Vec<&'static Fault>) -> Self {
        let seed = Random::new(seed);
        Self { chosen, left: Vec::new(), random: seed.part(0), seed, number: 0 }
    }
}

impl Iterator for Schedule {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.left.is_empty() {
            self.left.clone_from(&self.chosen);
        }
        if self.left.is_empty() {
            return None;
        }
        let at = usize::try_from(self.random.below(self.left.len() as u64)).unwrap_or(0);
        self.number += 1;
        Some(Step { number: self.number, fault: self.left.swap_remove(at), random: self.seed.part(self.number) })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(seed: u64, count: usize) -> Vec<&'static str> {
        Schedule::new(seed, FAULTS.iter().collect()).take(count).map(|step| step.fault.name).collect()
    }

    #[test]
    fn a_seed_repeats_its_schedule() {
        assert_eq!(names(4, 100), names(4, 100));
        assert_ne!(names(4, 100), names(5, 100));
        let draws =
            |seed| Schedule::new(seed, vec![&FAULTS[0]]).take(9).map(|mut s| s.random.next()).collect::<Vec<_>>();
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
        assert_eq!(draws(1).into_iter().collect::<BTreeSet<_>>().len(), 9, "each step draws for itself");
    }

    #[test]
    fn every_round_has_every_fault() {
        let all: BTreeSet<_> = FAULTS.iter().map(|fault| fault.name).collect();
        assert_eq!(all.len(), FAULTS.len(), "names are unique");
        for round in names(1, 3 * FAULTS.len()).chunks(FAULTS.len()) {
            assert_eq!(round.iter().copied().collect::<BTreeSet<_>>(), all);
        }
    }

    #[test]
    fn nothing_chosen_is_an_end() {
        assert!(Schedule::new(1, Vec::new()).next().is_none());
    }
}
