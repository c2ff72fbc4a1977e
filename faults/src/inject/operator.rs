//! What operators do: orders, signals, changes of the configuration.

use std::time::Duration;

use rustix::process::Signal;

use super::Scene;
use crate::launcher::{Fact, PATIENCE};
use crate::plugins;
use crate::process;
use crate::world::{MORTALS, VERSIONED, usual_workers};

impl Scene<'_> {
    pub(super) fn rollback(&mut self) -> Result<String, String> {
        let service = self.pick(&VERSIONED)?;
        let old = self.world.service(service).version;
        self.reload(service)?;
        self.world.ledger.raise(service, 0);
        self.world.launcher.order(&format!("/v1/services/{service}/rollback?wait=true"), "")?;
        self.world.service_mut(service)?.version = old;
        self.answers(service, old)?;
        let after = self.reload(service)?;
        Ok(format!("{service}: back to version {old}; then {after}"))
    }

    pub(super) fn restart(&mut self) -> Result<String, String> {
        let service = self.pick(&VERSIONED)?;
        let before = self.workers(service);
        self.world.launcher.order(&format!("/v1/services/{service}/restart?wait=true"), "")?;
        // What is told to who waits may come before it is told in the log.
        let replaced = || !self.workers(service).iter().any(|pid| before.contains(pid));
        if !process::until(Duration::from_secs(2), replaced) {
            return Err(format!("{service}: a worker is still there after a restart"));
        }
        Ok(service.to_owned())
    }

    pub(super) fn scale_by(&mut self, service: &'static str, by: i32, wait: bool) -> Result<(), String> {
        let target = format!("/v1/services/{service}/scale?wait={wait}");
        self.world.launcher.order(&target, &format!("{{\"workers\":\"{by:+}\"}}"))?;
        let wanted = self.world.service_mut(service)?;
        wanted.workers = wanted.workers.saturating_add_signed(by);
        Ok(())
    }

    pub(super) fn scale(&mut self) -> Result<String, String> {
        let service = self.pick(&VERSIONED)?;
        self.scale_by(service, 1, true)?;
        self.pause(0, 500);
        self.scale_by(service, -1, true)?;
        Ok(service.to_owned())
    }

    pub(super) fn good_configuration(&mut self) -> Result<String, String> {
        let mark = self.world.launcher.mark();
        let what = self.random.below(3);
        let said = match what {
            0 => {
                let service = self.pick(&MORTALS)?;
                let (before, usual) = (self.world.service(service).workers, usual_workers(service));
                let wanted = if before == usual { usual + 1 } else { usual };
                self.world.service_mut(service)?.workers = wanted;
                format!("{service}: {wanted} workers")
            }
            1 => {
                self.world.edits.edition += 1;
                format!("edition {} of every service", self.world.edits.edition)
            }
            _ => {
                self.world.edits.extra = !self.world.edits.extra;
                format!("one service {}", if self.world.edits.extra { "more" } else { "less" })
            }
        };
        self.world.configure()?;
        self.world.launcher.wait(mark, 1, PATIENCE, "new configuration", |fact| fact.is("config_applied"))?;
        if what == 1 {
            let promotion = |fact: &Fact| VERSIONED.iter().any(|service| fact.of("promoted", service));
            self.world.launcher.wait(mark, VERSIONED.len(), PATIENCE, "promotion of every service", promotion)?;
        }
        Ok(said)
    }

    pub(super) fn bad_configuration(&mut self) -> Result<String, String> {
        let bad = self.pick(&[
            "services: {",
            "services: { judge: { plugin: judge.so, listen: 127.0.0.1:0, worker: 3 } }\n",
            "services: { judge: { plugin: judge.so, listen: nowhere, workers: 0 } }\n",
            "",
            "\u{0}\u{1}\u{2}",
        ])?;
        let mark = self.world.launcher.mark();
        plugins::replace(&self.world.site.path("config.yaml"), bad.as_bytes())?;
        self.world.launcher.wait(mark, 1, PATIENCE, "refusal", |fact| fact.is("config_rejected"))?;
        self.pause(0, 300);
        self.world.configure()?;
        Ok(format!("{bad:?}"))
    }

    /// Requests with bytes changed, cut, repeated. None of them orders anything: the service that they name does not exist.
    pub(super) fn control_garbage(&mut self) -> Result<String, String> {
        const REQUESTS: [&str; 5] = [
            "GET /v1/status HTTP/1.1\r\nHost: launcher\r\n\r\n",
            "GET /v1/events?follow=true&since=10m&level=info HTTP/1.1\r\nHost: launcher\r\n\r\n",
            "POST /v1/services/nobody/scale?wait=true HTTP/1.1\r\nHost: a\r\nContent-Length: 16\r\n\r\n{\"workers\":\"+1\"}",
            "POST /v1/config/plan HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"pat\r\n0\r\n\r\n",
            "GET /openapi.json HTTP/1.1\r\nHost: launcher\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
        ];
        let count = self.random.between(20, 150);
        for _ in 0..count {
            let mut bytes = self.pick(&REQUESTS)?.as_bytes().to_vec();
            for _ in 0..self.random.between(0, 6) {
                let at = usize::try_from(self.random.below(bytes.len() as u64)).unwrap_or(0);
                match self.random.below(4) {
                    0 => bytes[at] = self.random.next() as u8,
                    1 => bytes.truncate(at + 1),
                    2 => bytes.insert(at, self.random.next() as u8),
                    _ => {
                        let again = bytes[at..].repeat(usize::try_from(self.random.between(1, 3)).unwrap_or(1));
                        bytes.extend(again);
                    }
                }
            }
            self.world.launcher.offend(&bytes);
        }
        self.world.launcher.status()?;
        Ok(format!("{count} requests"))
    }

    pub(super) fn hang_up(&mut self) -> Result<String, String> {
        let master = self.world.launcher.master()?;
        let mark = self.world.launcher.mark();
        for signal in [Signal::HUP, Signal::USR1] {
            process::signal(master, signal);
        }
        self.world.launcher.wait(mark, 2, PATIENCE, "signals", |fact| fact.is("signal"))?;
        Ok("master".to_owned())
    }
}
