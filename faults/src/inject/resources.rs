//! Descriptors, disk space: there are none for a while.

use rustix::process::Resource;

use super::Scene;
use crate::process;
use crate::world::{MORTALS, VERSIONED, WASM_SERVICE};

impl Scene<'_> {
    pub(super) fn no_descriptors(&mut self) -> Result<String, String> {
        let service = self.pick(&VERSIONED)?;
        let pid = self.pick(&self.workers(service))?;
        let open = process::highest_descriptor(pid).ok_or("the worker is gone")? + 1;
        let limit = open + self.random.below(3);
        let before = process::limit(pid, Resource::Nofile, Some(limit))?;
        // With a reload in between it is one that leaves: it may pass on what it has all the same.
        let reloads = self.random.below(2) == 0;
        let outcome = if reloads { self.reload(service) } else { Ok("no reload".to_owned()) };
        let pause = self.pause(100, 1500);
        if process::runs(pid) {
            // It may end at this very moment.
            let _ = process::limit(pid, Resource::Nofile, before);
        }
        Ok(format!("{service}: worker {pid} has {open} and may have {limit}, {} ms; {}", pause.as_millis(), outcome?))
    }

    pub(super) fn master_without_descriptors(&mut self) -> Result<String, String> {
        let master = self.world.launcher.master()?;
        let open = process::highest_descriptor(master).ok_or("the master is gone")? + 1;
        let before = process::limit(master, Resource::Nofile, Some(open + self.random.below(3)))?;
        let service = self.pick(&MORTALS)?;
        self.calm(service)?;
        // A reload cannot be carried out, and a worker that dies cannot be replaced, until there are descriptors again.
        let version = self.next_version(service)?;
        self.world.put(service, version, &self.world.bytes(service, version, 0))?;
        let pid = self.pick(&self.workers(service))?;
        let lost = self.put_down(service, pid);
        let pause = self.pause(100, 1500);
        process::limit(master, Resource::Nofile, before)?;
        // What was refused meanwhile may be asked for again, what was not refused may come late.
        let after = self.reload(service)?;
        Ok(format!("{service}: {open} open, worker {pid} with {lost:?}, {} ms; then {after}", pause.as_millis()))
    }

    pub(super) fn disk_full(&mut self) -> Result<String, String> {
        let disk = self.disk.ok_or("there is no disk to fill")?;
        let filling = disk.fill()?;
        // A component: what it is compiled to would be kept in the cache.
        let full = self.reload(WASM_SERVICE)?;
        self.pause(0, 500);
        drop(filling);
        let after = self.reload(WASM_SERVICE)?;
        Ok(format!("{full}; then {after}"))
    }
}
