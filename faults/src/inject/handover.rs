//! Connections are on their way from one worker to another, and one of the two stops or dies.

use rustix::process::Signal;

use super::Scene;
use crate::launcher::{Fact, PATIENCE};
use crate::process;
use crate::world::{MORTALS, VERSIONED};

impl Scene<'_> {
    /// Begins a reload and waits for the first fact of that kind; the version, the place in the log, the worker.
    fn begin_reload(&mut self, service: &'static str, kind: &str) -> Result<(u32, (usize, u64), u32), String> {
        let version = self.next_version(service)?;
        let mark = self.mark(service);
        self.world.put(service, version, &self.world.bytes(service, version, 0))?;
        let fits = |fact: &Fact| fact.of(kind, service);
        let facts = self.world.launcher.wait(mark.0, 1, PATIENCE, &format!("{kind} of {service}"), fits)?;
        Ok((version, mark, u32::try_from(facts[0].number("pid")).unwrap_or_default()))
    }

    pub(super) fn taker_stopped(&mut self) -> Result<String, String> {
        let service = self.pick(&VERSIONED)?;
        let (version, mark, pid) = self.begin_reload(service, "ready")?;
        self.freeze(service, pid);
        let pause = self.pause(20, 1500);
        process::signal(pid, Signal::CONT);
        self.wait_promotion(mark, service)?;
        self.serves(service, version)?;
        Ok(format!("{service}: version {version}, worker {pid} for {} ms", pause.as_millis()))
    }

    pub(super) fn taker_killed(&mut self) -> Result<String, String> {
        let service = self.pick(&MORTALS)?;
        self.calm(service)?;
        let (version, mark, pid) = self.begin_reload(service, "ready")?;
        if self.random.below(2) == 0 {
            self.freeze(service, pid);
        }
        let pause = self.pause(0, 150);
        let lost = self.put_down(service, pid).ok_or_else(|| format!("worker {pid} of {service} is gone already"))?;
        self.wait_promotion(mark, service)?;
        self.serves(service, version)?;
        Ok(format!("{service}: version {version}, worker {pid} after {} ms, with {lost}", pause.as_millis()))
    }

    pub(super) fn giver_killed(&mut self) -> Result<String, String> {
        let service = self.pick(&MORTALS)?;
        self.calm(service)?;
        let (version, mark, pid) = self.begin_reload(service, "draining")?;
        let said = match self.put_down(service, pid) {
            Some(lost) => format!("with {lost} connections"),
            None => "which was quicker".to_owned(),
        };
        self.wait_promotion(mark, service)?;
        self.serves(service, version)?;
        Ok(format!("{service}: version {version}, worker {pid} {said}"))
    }

    pub(super) fn scale_down_stopped(&mut self) -> Result<String, String> {
        let service = self.pick(&VERSIONED)?;
        let pid = self.pick(&self.workers(service))?;
        self.freeze(service, pid);
        // It may be this one that goes: then it leaves when it goes on.
        let ordered = self.scale_by(service, -1, false);
        let pause = self.pause(50, 1500);
        process::signal(pid, Signal::CONT);
        ordered?;
        self.scale_by(service, 1, true)?;
        Ok(format!("{service}: worker {pid} for {} ms", pause.as_millis()))
    }
}
