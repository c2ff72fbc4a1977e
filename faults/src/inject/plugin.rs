//! Plugin files change, well or badly.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::time::Duration;

use super::Scene;
use crate::launcher::{Fact, PATIENCE};
use crate::process;
use crate::world::{VERSIONED, WILD};

impl Scene<'_> {
    /// A version that there was never before.
    pub(super) fn next_version(&mut self, service: &'static str) -> Result<u32, String> {
        let wanted = self.world.service_mut(service)?;
        wanted.newest += 1;
        Ok(wanted.newest)
    }

    /// It serves from now on, and no request that comes now may get an older one.
    pub(super) fn promoted(&mut self, service: &'static str, version: u32) -> Result<(), String> {
        self.world.service_mut(service)?.version = version;
        self.world.ledger.raise(service, version);
        Ok(())
    }

    /// It serves, but somebody who should have taken connections stood still or died, so that a worker that leaves may
    /// serve on for a while: no version is demanded yet.
    pub(super) fn serves(&mut self, service: &'static str, version: u32) -> Result<(), String> {
        self.world.ledger.raise(service, 0);
        self.world.service_mut(service)?.version = version;
        Ok(())
    }

    /// A place in the log, and the newest generation of a service there.
    pub(super) fn mark(&self, service: &'static str) -> (usize, u64) {
        let mark = self.world.launcher.mark();
        let facts = self.world.launcher.facts(0, |fact| fact.of("spawned", service));
        (mark, facts.iter().map(|fact| fact.number("generation")).max().unwrap_or_default())
    }

    /// Waits for the promotion of a newer generation than there was. An older one may be promoted, too: it is returned to.
    pub(super) fn wait_promotion(&self, (mark, newest): (usize, u64), service: &'static str) -> Result<(), String> {
        let promotion = |fact: &Fact| fact.of("promoted", service) && fact.number("generation") > newest;
        self.world.launcher.wait(mark, 1, PATIENCE, &format!("promotion of {service}"), promotion).map(drop)
    }

    /// A good reload.
    pub(super) fn reload(&mut self, service: &'static str) -> Result<String, String> {
        let version = self.next_version(service)?;
        let mark = self.mark(service);
        self.world.put(service, version, &self.world.bytes(service, version, 0))?;
        self.wait_promotion(mark, service)?;
        self.promoted(service, version)?;
        Ok(format!("{service}: version {version}"))
    }

    pub(super) fn reload_any(&mut self) -> Result<String, String> {
        let service = self.pick(&VERSIONED)?;
        self.reload(service)
    }

    pub(super) fn storm(&mut self) -> Result<String, String> {
        let service = self.pick(&VERSIONED)?;
        let mut last = 0;
        for _ in 0..5 {
            last = self.next_version(service)?;
            self.world.put(service, last, &self.world.bytes(service, last, 0))?;
            self.pause(0, 60);
        }
        // How many of them are promoted on the way is the launcher's choice; that it ends with the last is not.
        self.answers(service, last)?;
        self.serves(service, last)?;
        Ok(format!("{service}: up to version {last}"))
    }

    /// Waits until a version answers.
    pub(super) fn answers(&self, service: &'static str, version: u32) -> Result<(), String> {
        let mut last = String::new();
        let answered = process::until(PATIENCE, || match self.ask(service, "GET", "/") {
            Ok((_, body)) => {
                last = body;
                crate::plugins::told(last.as_bytes()) == Some(version)
            }
            Err(error) => {
                last = error;
                false
            }
        });
        if answered { Ok(()) } else { Err(format!("{service}: version {version} does not answer, but {last:?}")) }
    }

    pub(super) fn half_written(&mut self) -> Result<String, String> {
        let service = self.pick(&VERSIONED)?;
        let version = self.next_version(service)?;
        let bytes = self.world.bytes(service, version, 0);
        let half = usize::try_from(self.random.between(1, bytes.len() as u64 - 1)).unwrap_or(1);
        let path = self.world.file(service);
        let fail = |error| format!("cannot write {}: {error}", path.display());
        let mark = self.mark(service);
        let mut file = OpenOptions::new().write(true).truncate(true).open(&path).map_err(fail)?;
        file.write_all(&bytes[..half]).map_err(fail)?;
        // Shorter and longer than `reload.settle`: the half is taken for the whole, refused, and then it is completed.
        let pause = self.pause(20, 500);
        file.write_all(&bytes[half..]).map_err(fail)?;
        drop(file);
        self.wait_promotion(mark, service)?;
        self.promoted(service, version)?;
        Ok(format!("{service}: version {version}, {half} bytes, the others {} ms later", pause.as_millis()))
    }

    /// Waits until a bad file is refused; that nothing has changed is checked afterwards as always.
    fn refused(&self, mark: usize, service: &'static str) -> Result<(), String> {
        let outcome =
            |fact: &Fact| ["reload_failed", "rolled_back", "promoted"].iter().any(|kind| fact.of(kind, service));
        let facts = self.world.launcher.wait(mark, 1, PATIENCE, &format!("refusal of {service}"), outcome)?;
        if facts[0].is("promoted") { Err(format!("a bad plugin was promoted: {}", facts[0].line)) } else { Ok(()) }
    }

    pub(super) fn truncated(&mut self) -> Result<String, String> {
        let service = self.pick(&VERSIONED)?;
        let length = self.world.bytes(service, 1, 0).len() as u64;
        let left = self.random.below(length - 1);
        let path = self.world.file(service);
        let mark = self.world.launcher.mark();
        let cut = OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(left));
        cut.map_err(|error| format!("cannot cut {}: {error}", path.display()))?;
        self.refused(mark, service)?;
        let version = self.world.service(service).version;
        self.answers(service, version)?;
        let after = self.reload(service)?;
        Ok(format!("{service}: {left} of {length} bytes; then {after}"))
    }

    pub(super) fn garbage(&mut self) -> Result<String, String> {
        let service = self.pick(&VERSIONED)?;
        let mut bytes: Vec<u8> = (0..self.random.between(1, 50_000)).map(|_| self.random.next() as u8).collect();
        // Half of it begins like what it should be.
        let start: &[u8] = if self.random.below(2) == 0 { &self.world.bytes(service, 1, 0)[..64] } else { &[] };
        bytes.splice(0..0, start.iter().copied());
        let mark = self.world.launcher.mark();
        let number = self.next_version(service)?;
        self.world.put(service, number, &bytes)?;
        self.refused(mark, service)?;
        let after = self.reload(service)?;
        Ok(format!("{service}: {} bytes; then {after}", bytes.len()))
    }

    pub(super) fn missing(&mut self) -> Result<String, String> {
        let service = self.pick(&VERSIONED)?;
        let path = self.world.file(service);
        let beside = self.world.site.path("away");
        let fail = |error| format!("cannot move {}: {error}", path.display());
        fs::rename(&path, &beside).map_err(fail)?;
        let pause = self.pause(10, 600);
        let version = self.world.service(service).version;
        self.answers(service, version)?;
        fs::rename(&beside, &path).map_err(fail)?;
        let after = self.reload(service)?;
        Ok(format!("{service}: for {} ms; then {after}", pause.as_millis()))
    }

    pub(super) fn bad_start(&mut self) -> Result<String, String> {
        let start = self.pick(&["refuse", "panic", "exit", "abort", "segfault"])?;
        let before = self.workers(WILD);
        let mark = self.world.launcher.mark();
        self.world.edits.start = Some(start);
        self.world.configure()?;
        self.refused(mark, WILD)?;
        let mark = self.world.launcher.mark();
        self.world.edits.start = None;
        self.world.configure()?;
        self.world.launcher.wait(mark, 1, PATIENCE, "application of the old configuration", |fact| {
            fact.is("config_applied") || fact.is("unchanged") || fact.of("promoted", WILD)
        })?;
        // It may be the old generation that serves on, or a new one with the old settings; never none.
        let same = process::until(Duration::from_secs(1), || self.workers(WILD) == before);
        Ok(format!("{WILD}: {start}{}", if same { "" } else { ", and new workers after it" }))
    }
}
