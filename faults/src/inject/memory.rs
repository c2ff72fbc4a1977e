//! There is no memory for a while: allocations fail (RLIMIT_AS), or the kernel kills who takes more than it may (cgroups).

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Signal};

use super::Scene;
use crate::group::Group;
use crate::judge::Want;
use crate::launcher::Fact;
use crate::process;
use crate::world::{MORTALS, RUST_SERVICE, VERSIONED, WILD};

/// How long it lasts at most for a worker that does without.
const LASTS: Duration = Duration::from_millis(1500);
/// Connections that take memory.
const STRANGERS: usize = 400;
/// What whoever is to be killed may still take: it is in the middle of something by then.
const LITTLE: u64 = 512 << 10;

impl Scene<'_> {
    /// A worker whose allocation fails aborts. It stops itself before (`plugins/tamper.c`), so that what goes with it is
    /// known.
    pub(super) fn no_memory(&mut self) -> Result<String, String> {
        let service = self.pick(&MORTALS)?;
        self.calm(service)?;
        let pid = self.pick(&self.workers(service))?;
        let mark = self.world.launcher.mark();
        let size = process::address_space(pid).ok_or("the worker is gone")?;
        let more = self.random.below(3) * 256;
        self.world.tamper.stop_before_abort(Some(pid))?;
        let from = Instant::now();
        let before = process::limit(pid, Resource::As, Some((size + more) << 10))?;
        // Strangers, who never say what they want: each costs whoever accepts him some memory.
        let address = self.world.service(service).address;
        let greet = |mut stranger: TcpStream| stranger.write_all(b"GET / HTTP/1.1\r\n").map(|()| stranger);
        let strangers: Vec<_> =
            (0..STRANGERS).filter_map(|_| TcpStream::connect(address).and_then(greet).ok()).collect();
        let begun = Instant::now();
        let stands = process::until(LASTS, || process::stands(pid) || !process::runs(pid));
        drop(strangers);
        let lasted = begun.elapsed().as_millis();
        let lost = if stands && process::runs(pid) { Some(self.note_loss(service, pid)) } else { None };
        self.world.tamper.stop_before_abort(None)?;
        if process::runs(pid) {
            // What stands aborts now: it has asked for memory already and got none.
            process::limit(pid, Resource::As, before)?;
            process::signal(pid, Signal::CONT);
        }
        // What was answered in the last moment is read a moment later.
        let until = Instant::now() + Duration::from_secs(1);
        self.world.wants.push(Want { service, from, until });
        let end = match lost {
            None if stands => return Err(format!("worker {pid} of {service} ended without memory, and not by abort")),
            None => "went on".to_owned(),
            Some(lost) => {
                let exit = self.exited(mark, pid)?;
                format!("{} with {lost} connections", exit.text("reason"))
            }
        };
        Ok(format!("{service}: worker {pid}, {more} KiB more, {lasted} ms, {end}"))
    }

    pub(super) fn master_without_memory(&mut self) -> Result<String, String> {
        let master = self.world.launcher.master()?;
        let size = process::address_space(master).ok_or("the master is gone")?;
        let more = self.random.below(5) * 512;
        let before = process::limit(master, Resource::As, Some((size + more) << 10))?;
        let service = self.pick(&VERSIONED)?;
        let version = self.next_version(service)?;
        self.world.put(service, version, &self.world.bytes(service, version, 0))?;
        let begun = Instant::now();
        process::until(LASTS, || {
            let _ = self.world.launcher.status();
            !process::runs(master)
        });
        let lasted = begun.elapsed().as_millis();
        let said = if process::runs(master) {
            // It may end at this very moment.
            let _ = process::limit(master, Resource::As, before);
            format!("goes on after {lasted} ms")
        } else {
            format!("dies after {lasted} ms, status answers after {} ms", self.another_master(master)?.as_millis())
        };
        let after = self.reload(service)?;
        Ok(format!("master, {more} KiB more, {said}; then {after}"))
    }

    /// Of the service that no client uses: who is killed by the kernel cannot be looked at before.
    pub(super) fn out_of_memory(&mut self) -> Result<String, String> {
        let pid = self.pick(&self.workers(WILD))?;
        let mark = self.world.launcher.mark();
        let group = Group::new("faults-worker", 8 << 20)?;
        for worker in self.workers(WILD) {
            group.take(worker)?;
        }
        let answer = self.ask(WILD, "GET", "/leak?64");
        let exited = |fact: &Fact| fact.of("exited", WILD);
        let facts = self.world.launcher.wait(mark, 1, crate::launcher::PATIENCE, "end of a worker", exited)?;
        if facts[0].number("signal") != 9 && !facts[0].text("reason").contains("not known") {
            return Err(format!("out of memory is told as something else: {}", facts[0].line));
        }
        drop(group);
        Ok(format!("{WILD}: worker {pid} or its neighbour, answered with {:?}", answer.map(|(status, _)| status)))
    }

    pub(super) fn master_out_of_memory(&mut self) -> Result<String, String> {
        let master = self.world.launcher.master()?;
        let (before, mark) = (self.world.launcher.serving()?, self.world.launcher.mark());
        let group = Group::new("faults-master", LITTLE)?;
        group.take(master)?;
        // The master copies a plugin to keep it, which is more than it may have.
        let version = self.next_version(RUST_SERVICE)?;
        self.world.put(RUST_SERVICE, version, &self.world.bytes(RUST_SERVICE, version, 0))?;
        self.world.service_mut(RUST_SERVICE)?.version = version;
        let killed = process::until(Duration::from_secs(10), || !process::runs(master));
        if !killed {
            return Err("the kernel does not kill a master that takes more than it may".to_owned());
        }
        drop(group);
        let back = self.another_master(master)?.as_millis();
        // The next master goes on with the version that this one died of, and has the workers before it leave.
        let left = |pid: u32| {
            let told = |fact: &Fact| fact.is("draining") && fact.number("pid") == u64::from(pid);
            !self.world.launcher.facts(mark, told).is_empty()
        };
        if let Some((pid, service)) = before.iter().find(|(pid, _)| !process::runs(*pid) && !left(*pid)) {
            return Err(format!("worker {pid} of {service} did not survive its master"));
        }
        Ok(format!("master {master}, at {RUST_SERVICE}'s version {version}: status answers after {back} ms"))
    }
}
