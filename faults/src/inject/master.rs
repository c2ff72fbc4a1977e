//! The master stops or dies.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::Scene;
use crate::process;
use crate::world::{MORTALS, VERSIONED};

/// How long the next master may take until it answers, whatever else the machine does.
const LATE: Duration = Duration::from_secs(3);

impl Scene<'_> {
    pub(super) fn master_stopped(&mut self) -> Result<String, String> {
        let master = self.world.launcher.master()?;
        if !(process::signal(master, Signal::STOP) && process::wait_stopped(master)) {
            return Err("the master does not stop".to_owned());
        }
        let said = if self.random.below(2) == 0 {
            let service = self.pick(&MORTALS)?;
            self.calm(service)?;
            let pid = self.pick(&self.workers(service))?;
            format!(", and {service}'s worker {pid} killed with {:?}", self.put_down(service, pid))
        } else {
            String::new()
        };
        let pause = self.pause(100, 2000);
        process::signal(master, Signal::CONT);
        Ok(format!("for {} ms{said}", pause.as_millis()))
    }

    pub(super) fn master_killed(&mut self, during_a_reload: bool) -> Result<String, String> {
        let master = self.world.launcher.master()?;
        let mut said = String::new();
        if during_a_reload {
            let service = self.pick(&VERSIONED)?;
            let version = self.next_version(service)?;
            self.world.put(service, version, &self.world.bytes(service, version, 0))?;
            self.world.service_mut(service)?.version = version;
            let pause = self.pause(0, 80);
            said = format!(", {} ms into {service}'s version {version}", pause.as_millis());
        }
        let before = self.world.launcher.serving()?;
        process::signal(master, Signal::KILL);
        let back = self.another_master(master)?;
        if !during_a_reload && let Some((pid, service)) = before.iter().find(|(pid, _)| !process::runs(*pid)) {
            return Err(format!("worker {pid} of {service} did not survive its master"));
        }
        Ok(format!("status answers after {} ms{said}", back.as_millis()))
    }

    /// Waits until a master answers after the death of this one; how long that took.
    pub(super) fn another_master(&self, master: u32) -> Result<Duration, String> {
        let killed = Instant::now();
        let (mut last, mut late) = (String::new(), false);
        let answered = process::until(Duration::from_secs(10), || {
            // Long enough to say that nobody noticed the death, and short enough to look at who should have.
            match self.world.launcher.status_within(LATE) {
                Ok(status) => status["pid"] != u64::from(master),
                Err(error) => {
                    late = late || killed.elapsed() >= LATE;
                    let doing: Vec<_> = self.world.launcher.family().into_iter().map(process::doing).collect();
                    last = format!(
                        "{last}\n{error} after {:?}; master {master}; {}",
                        killed.elapsed(),
                        doing.join("\n  ")
                    );
                    false
                }
            }
        });
        if !answered {
            return Err(format!("no master answers within 10 s of the death of the last: {last}"));
        }
        if late {
            return Err(format!("no master answers within {LATE:?} of the death of the last: {last}"));
        }
        Ok(killed.elapsed())
    }

    pub(super) fn keeper_killed(&mut self) -> Result<String, String> {
        let keeper = self.world.launcher.keeper()?;
        process::signal(keeper, Signal::KILL);
        let killed = Instant::now();
        let another = || self.world.launcher.keeper().is_ok_and(|pid| pid != keeper);
        if !process::until(Duration::from_secs(10), another) {
            return Err(format!("nobody keeps within 10 s of the death of keeper {keeper}"));
        }
        Ok(format!("kept again after {} ms", killed.elapsed().as_millis()))
    }
}
