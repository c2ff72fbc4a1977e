//! Workers die, stand still, or are sent away.

use std::time::{Duration, Instant};

use rustix::process::{Resource, Signal};

use super::Scene;
use crate::launcher::{Fact, PATIENCE};
use crate::process;
use crate::world::{MORTALS, PROBATION, VERSIONED, VICTIM, WASM_SERVICE, WILD};

impl Scene<'_> {
    pub(super) fn kill(&mut self) -> Result<String, String> {
        let service = self.pick(&MORTALS)?;
        self.calm(service)?;
        let pid = self.pick(&self.workers(service))?;
        let mark = self.world.launcher.mark();
        let lost = self.put_down(service, pid).ok_or_else(|| format!("worker {pid} of {service} is gone already"))?;
        let exit = self.exited(mark, pid)?;
        // Once the first keeper is dead, workers of an earlier master are nobody's children: how they end is not known.
        let unknown = !self.world.launcher.facts(0, |fact| fact.is("keeper_replaced")).is_empty()
            && exit.text("reason").contains("not known");
        if exit.number("signal") != 9 && !unknown {
            return Err(format!("the end of worker {pid} is not told as what it was: {}", exit.line));
        }
        Ok(format!("{service}: worker {pid}, with {lost} connections"))
    }

    pub(super) fn kill_all(&mut self) -> Result<String, String> {
        let service = self.pick(&MORTALS)?;
        self.calm(service)?;
        let pids = self.workers(service);
        let mark = self.world.launcher.mark();
        for pid in &pids {
            self.freeze(service, *pid);
        }
        let mut lost = 0;
        for pid in &pids {
            lost += self.note_loss(service, *pid);
        }
        for pid in &pids {
            process::signal(*pid, Signal::KILL);
        }
        for pid in &pids {
            self.exited(mark, *pid)?;
        }
        Ok(format!("{service}: {} workers, with {lost} connections", pids.len()))
    }

    /// It kills a worker and tells nobody what is lost.
    pub(super) fn planted_kill(&mut self) -> Result<String, String> {
        let pid = self.pick(&self.workers(VICTIM))?;
        let mark = self.world.launcher.mark();
        process::signal(pid, Signal::KILL);
        self.exited(mark, pid)?;
        // Until everybody who pauses has asked again.
        self.pause(5000, 5000);
        Ok(format!("{VICTIM}: worker {pid}, unknown to the judge"))
    }

    pub(super) fn stop(&mut self) -> Result<String, String> {
        let service = self.pick(&VERSIONED)?;
        let pid = self.pick(&self.workers(service))?;
        self.freeze(service, pid);
        let pause = self.pause(50, 2000);
        process::signal(pid, Signal::CONT);
        Ok(format!("{service}: worker {pid}, for {} ms", pause.as_millis()))
    }

    pub(super) fn stop_and_kill(&mut self) -> Result<String, String> {
        let service = self.pick(&MORTALS)?;
        self.calm(service)?;
        let pid = self.pick(&self.workers(service))?;
        let mark = self.world.launcher.mark();
        self.freeze(service, pid);
        let pause = self.pause(50, 1500);
        let lost = self.put_down(service, pid).ok_or_else(|| format!("stopped worker {pid} is gone"))?;
        self.exited(mark, pid)?;
        Ok(format!("{service}: worker {pid}, after {} ms, with {lost} connections", pause.as_millis()))
    }

    pub(super) fn term(&mut self) -> Result<String, String> {
        let service = self.pick(&VERSIONED)?;
        let pid = self.pick(&self.workers(service))?;
        let mark = self.world.launcher.mark();
        process::signal(pid, Signal::TERM);
        let exit = self.exited(mark, pid)?;
        if exit.number("code") != 0 || exit.number("signal") != 0 {
            return Err(format!("a worker that is sent TERM does not leave in peace: {}", exit.line));
        }
        Ok(format!("{service}: worker {pid}"))
    }

    /// The plugin stops its process before it dies: then its connections are counted.
    pub(super) fn die(&mut self, how: &str) -> Result<String, String> {
        self.calm(VICTIM)?;
        let mark = self.world.launcher.mark();
        let address = self.world.service(VICTIM).address;
        let target = format!("/die/{how}");
        let asking = std::thread::spawn(move || super::ask(address, "GET", &target));
        let mut stands = None;
        process::until(Duration::from_secs(10), || {
            // By `status`: that it is ready may have been among the last words of a master that was killed.
            let serving = self.world.launcher.serving().unwrap_or_default();
            let of_victim = serving.into_iter().filter(|(_, service)| service == VICTIM);
            stands = of_victim.map(|(pid, _)| pid).find(|pid| process::stands(*pid));
            stands.is_some()
        });
        let pid = stands.ok_or("no worker stops itself")?;
        let lost = self.note_loss(VICTIM, pid);
        if how == "memory" {
            let size = process::address_space(pid).ok_or("a stopped process has no size")?;
            process::limit(pid, Resource::As, Some(size << 10))?;
        }
        process::signal(pid, Signal::CONT);
        let exit = self.exited(mark, pid)?;
        if let Ok(Ok(answer)) = asking.join() {
            return Err(format!("a request that kills its worker is answered with {answer:?}"));
        }
        if exit.flag("expected") {
            return Err(format!("a crash is told as expected: {}", exit.line));
        }
        Ok(format!("{VICTIM}: worker {pid}, with {lost} connections"))
    }

    pub(super) fn trap(&mut self) -> Result<String, String> {
        let before = self.workers(WASM_SERVICE);
        let answer = self.ask(WASM_SERVICE, "DELETE", "/")?;
        if answer.0 != 500 {
            return Err(format!("a trap is answered with {answer:?}"));
        }
        if self.workers(WASM_SERVICE) != before {
            return Err("a trap has cost its worker".to_owned());
        }
        Ok(WASM_SERVICE.to_owned())
    }

    pub(super) fn panic(&mut self) -> Result<String, String> {
        let before = self.workers(WILD);
        for target in ["/panic", "/panic-late", "/panic-payload"] {
            let answer = self.ask(WILD, "GET", target)?;
            if answer.0 != 500 {
                return Err(format!("{target} is answered with {answer:?}"));
            }
        }
        // Its response is cut off, which the client sees as no end or as too short a body.
        let _ = self.ask(WILD, "GET", "/panic-body");
        if self.workers(WILD) != before {
            return Err("a panic has cost its worker".to_owned());
        }
        Ok(WILD.to_owned())
    }

    pub(super) fn flood(&mut self) -> Result<String, String> {
        let answer = self.ask(WILD, "GET", "/flood?8")?;
        if answer.0 != 200 { Err(format!("a flood is answered with {answer:?}")) } else { Ok(WILD.to_owned()) }
    }

    /// Each worker of a generation stops itself a moment after it was ready, and is killed then.
    pub(super) fn mortal(&mut self) -> Result<String, String> {
        self.calm(VICTIM)?;
        let dies = self.random.between(100, 250);
        let mark = self.world.launcher.mark();
        self.world.ledger.raise(VICTIM, 0);
        let version = self.next_version(VICTIM)?;
        self.world.put(VICTIM, version, &self.world.bytes(VICTIM, version, u32::try_from(dies).unwrap_or(100)))?;
        let spawned = self.world.launcher.wait(mark, 1, PATIENCE, "start of it", |fact| fact.of("spawned", VICTIM))?;
        let generation = spawned[0].number("generation");
        let deadline = Instant::now() + PATIENCE;
        let (mut killed, mut rolled_back) = (0, false);
        loop {
            let of = |fact: &Fact, kind: &str| fact.of(kind, VICTIM) && fact.number("generation") == generation;
            rolled_back |= !self.world.launcher.facts(mark, |fact| of(fact, "rolled_back")).is_empty();
            let born = self.world.launcher.facts(mark, |fact| of(fact, "spawned"));
            let gone = self.world.launcher.facts(mark, |fact| of(fact, "exited"));
            let pids = born.iter().map(|fact| u32::try_from(fact.number("pid")).unwrap_or_default());
            for pid in pids.filter(|pid| process::stands(*pid)) {
                killed += u32::from(self.put_down(VICTIM, pid).is_some());
            }
            let returned = |fact: &Fact| fact.of("promoted", VICTIM) && fact.number("generation") < generation;
            if rolled_back && born.len() == gone.len() && !self.world.launcher.facts(mark, returned).is_empty() {
                break;
            }
            if Instant::now() > deadline {
                let times = |facts: &[Fact]| facts.iter().map(|fact| fact.number("monotonic_ms")).collect::<Vec<_>>();
                let promoted = self.world.launcher.facts(mark, |fact| of(fact, "promoted"));
                if outlived_probation(&times(&promoted), &times(&gone)) {
                    break;
                }
                return Err(format!("a generation that dies is not given up ({killed} of its workers died)"));
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
        let after = self.reload(VICTIM)?;
        Ok(format!("{VICTIM}: version {version} dies after {dies} ms, {killed} times; then {after}"))
    }
}

/// Whether a generation served for a whole probation without a death, at times in milliseconds: then it is not given
/// up. On a machine that has no time for its workers they live for longer than they should.
fn outlived_probation(promoted: &[u64], deaths: &[u64]) -> bool {
    let Some(&promoted) = promoted.first() else { return false };
    let deaths = deaths.iter().copied().filter(|at| *at > promoted);
    let probation = u64::try_from(PROBATION.as_millis()).unwrap_or(u64::MAX);
    deaths.scan(promoted, |last, at| Some(at - std::mem::replace(last, at))).any(|calm| calm >= probation)
}

#[cfg(test)]
mod tests {
    use super::outlived_probation;

    #[test]
    fn only_a_whole_probation_without_a_death_is_an_excuse() {
        assert!(!outlived_probation(&[], &[1, 2, 3]));
        assert!(!outlived_probation(&[1000], &[1200, 1900, 2600, 3300]));
        assert!(outlived_probation(&[1000], &[500, 1900, 2700, 4200]));
    }
}
