//! The faults themselves. Each does what its name says, waits for what must come of it, and leaves the files as they
//! should be; that everything is well again is checked after it.

mod clock;
mod handover;
mod master;
mod memory;
mod operator;
mod plugin;
mod resources;
mod workers;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::disk::Disk;
use crate::fault::Step;
use crate::judge::Loss;
use crate::launcher::{Fact, PATIENCE};
use crate::process;
use crate::random::Random;
use crate::world::{PROBATION, World};

/// What a step needs.
pub struct Scene<'a> {
    /// What it acts upon.
    pub world: &'a mut World,
    /// For what is left open.
    pub random: Random,
    /// What can be filled, if there is such a disk.
    pub disk: Option<&'a Disk>,
}

/// Carries out a step; gives what it did, in words.
///
/// # Errors
/// Something that must come of it does not.
pub fn inject(step: &Step, world: &mut World, disk: Option<&Disk>) -> Result<String, String> {
    let mut scene = Scene { world, random: step.random.clone(), disk };
    match step.fault.name {
        "kill" => scene.kill(),
        "kill-all" => scene.kill_all(),
        "stop" => scene.stop(),
        "stop-kill" => scene.stop_and_kill(),
        "term" => scene.term(),
        "segfault" => scene.die("segv"),
        "abort" => scene.die("abort"),
        "exit" => scene.die("exit"),
        "memory" => scene.die("memory"),
        "trap" => scene.trap(),
        "panic" => scene.panic(),
        "flood" => scene.flood(),
        "reload" => scene.reload_any(),
        "reload-storm" => scene.storm(),
        "half-written" => scene.half_written(),
        "truncated" => scene.truncated(),
        "garbage" => scene.garbage(),
        "missing" => scene.missing(),
        "bad-start" => scene.bad_start(),
        "mortal" => scene.mortal(),
        "rollback" => scene.rollback(),
        "restart" => scene.restart(),
        "scale" => scene.scale(),
        "config-good" => scene.good_configuration(),
        "config-bad" => scene.bad_configuration(),
        "hang-up" => scene.hang_up(),
        "control-garbage" => scene.control_garbage(),
        "handover-stopped" => scene.taker_stopped(),
        "handover-killed" => scene.taker_killed(),
        "giver-killed" => scene.giver_killed(),
        "scale-down-stopped" => scene.scale_down_stopped(),
        "no-descriptors" => scene.no_descriptors(),
        "master-no-descriptors" => scene.master_without_descriptors(),
        "no-memory" => scene.no_memory(),
        "master-no-memory" => scene.master_without_memory(),
        "out-of-memory" => scene.out_of_memory(),
        "master-out-of-memory" => scene.master_out_of_memory(),
        "clock-jump" => scene.clock_jump(),
        "master-stopped" => scene.master_stopped(),
        "disk-full" => scene.disk_full(),
        "master-killed" => scene.master_killed(false),
        "master-killed-in-reload" => scene.master_killed(true),
        "keeper-killed" => scene.keeper_killed(),
        "planted-kill" => scene.planted_kill(),
        other => Err(format!("nobody knows how to do {other:?}")),
    }
}

impl Scene<'_> {
    fn pick<T: Copy>(&mut self, from: &[T]) -> Result<T, String> {
        let at = usize::try_from(self.random.below(from.len() as u64)).unwrap_or(0);
        from.get(at).copied().ok_or_else(|| "there is nothing to pick from".to_owned())
    }

    /// Ready workers of a service, the longest-lived first.
    fn workers(&self, service: &str) -> Vec<u32> {
        let ready = self.world.launcher.ready();
        ready.into_iter().filter(|(_, of)| of == service).map(|(pid, _)| pid).collect()
    }

    /// Waits until a service has left its probation: several crashes within it would lead back to the generation before,
    /// as they should, and no version would be what it is expected to be.
    fn calm(&self, service: &str) -> Result<(), String> {
        let over = PROBATION + Duration::from_millis(200);
        let calm = process::until(PATIENCE, || {
            let trouble = |fact: &Fact| {
                fact.at.elapsed() < over
                    && (fact.of("promoted", service) || fact.of("exited", service) && !fact.flag("expected"))
            };
            self.world.launcher.facts(0, trouble).is_empty()
        });
        if calm { Ok(()) } else { Err(format!("{service} does not come to rest")) }
    }

    fn pause(&mut self, low: u64, high: u64) -> Duration {
        let pause = Duration::from_millis(self.random.between(low, high));
        let end = Instant::now() + pause;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            std::thread::park_timeout(left);
        }
        pause
    }

    /// Stops a worker; false if it has ended instead. While it stands nobody may be there to take connections, and
    /// workers that leave serve on until somebody is: no version can be demanded until they are gone.
    fn freeze(&self, service: &'static str, pid: u32) -> bool {
        self.world.ledger.raise(service, 0);
        process::signal(pid, Signal::STOP) && process::wait_stopped(pid)
    }

    /// Notes what a worker that stands still holds: that is lost when it dies now.
    fn note_loss(&mut self, service: &'static str, pid: u32) -> usize {
        let clients = process::clients_of(pid, &self.world.ports());
        let count = clients.len();
        self.world.losses.push(Loss { service, pid, at: Instant::now(), clients });
        count
    }

    /// Kills a worker with `kill -9`, and knows what is lost by it: connections, or `None` if it had ended already.
    fn put_down(&mut self, service: &'static str, pid: u32) -> Option<usize> {
        if !self.freeze(service, pid) {
            return None;
        }
        let lost = self.note_loss(service, pid);
        process::signal(pid, Signal::KILL);
        Some(lost)
    }

    /// Waits for the end of a worker, as the master tells it.
    fn exited(&self, mark: usize, pid: u32) -> Result<Fact, String> {
        let ended = |fact: &Fact| fact.is("exited") && fact.number("pid") == u64::from(pid);
        let facts = self.world.launcher.wait(mark, 1, PATIENCE, &format!("exit of worker {pid}"), ended)?;
        Ok(facts[0].clone())
    }

    /// One request on a connection of its own.
    fn ask(&self, service: &str, method: &str, target: &str) -> Result<(u16, String), String> {
        ask(self.world.service(service).address, method, target)
    }
}

/// One request on a connection of its own: status and body.
///
/// # Errors
/// There is no answer.
pub fn ask(address: SocketAddr, method: &str, target: &str) -> Result<(u16, String), String> {
    let fail = |error: std::io::Error| format!("{method} {target} of {address}: {error}");
    let mut stream = TcpStream::connect(address).map_err(fail)?;
    stream.set_read_timeout(Some(crate::http::PATIENCE)).map_err(fail)?;
    let request = format!("{method} {target} HTTP/1.1\r\nHost: faults.example\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(fail)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_err(fail)?;
    let text = String::from_utf8_lossy(&bytes);
    let status = text.get(9..12).and_then(|code| code.parse().ok());
    match (status, text.split_once("\r\n\r\n")) {
        (Some(status), Some((_, body))) => Ok((status, body.to_owned())),
        _ => Err(format!("{method} {target} of {address}: no answer, but {text:?}")),
    }
}
