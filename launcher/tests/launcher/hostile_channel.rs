//! A worker that speaks to the master as it should not: it is ended and replaced, and nobody else notices.

use crate::harness::control::Control;
use crate::harness::http::{fetch, get};
use crate::harness::launcher::eventually;
use crate::harness::{Event, Launcher, Site, guests, process};

/// One service whose plugin is hostile, beside one that wants to go on.
fn beside_an_honest_one(site: &Site) -> Launcher {
    let plugin = guests::native("misbehave").display().to_string();
    site.write("hello.wasm", guests::hello(1));
    let launcher = site.run(&format!(
        "
services:
  hostile: {{ plugin: {plugin}, listen: 127.0.0.1:0, workers: 1, restart: {{ backoff: 1ms..10ms, budget: 100/60s }} }}
  honest: {{ plugin: hello.wasm, listen: 127.0.0.1:0, workers: 1 }}
"
    ));
    launcher.workers(2);
    launcher
}

/// The master as it was: the same, not grown, with what it had open.
struct Before {
    master: u32,
    descriptors: usize,
    resident: u64,
    honest: u64,
}

impl Before {
    fn of(launcher: &Launcher) -> Self {
        let master = launcher.master();
        let honest = launcher.wait("ready", |event| event.is("ready") && event.of("honest")).number("worker");
        Self { master, descriptors: held(master), resident: process::resident(master), honest }
    }

    fn assert_unharmed(&self, launcher: &Launcher, site: &Site, what: &str) {
        assert_eq!(fetch(&launcher.address("honest"), "/").text(), guests::greeting(1), "{what}");
        let workers = Control::of(site).service("honest")["workers"].clone();
        assert_eq!(workers[0]["id"], self.honest, "{what}: {workers}");
        assert_eq!(launcher.master(), self.master, "{what}: the master died\n{}", launcher.story());
        let closed = eventually(|| held(self.master) <= self.descriptors + 4);
        assert!(closed, "{what}: {} descriptors, then {}", self.descriptors, held(self.master));
        let resident = process::resident(self.master);
        assert!(resident < self.resident + (16 << 10), "{what}: {} KiB, then {resident} KiB", self.resident);
    }
}

/// Descriptors of the master but for those of spare workers, which it makes when it has nothing else to do: of each the
/// channel, the pidfd twice, output and errors.
fn held(master: u32) -> usize {
    loop {
        let spares = process::spares(master).len();
        let all = process::descriptors(master);
        if process::spares(master).len() == spares {
            return all.saturating_sub(5 * spares);
        }
    }
}

fn of_the_hostile(event: &Event, kind: &str) -> bool {
    event.is(kind) && event.of("hostile")
}

#[test]
fn whoever_breaks_the_protocol_is_ended_and_replaced() {
    let site = Site::new();
    let launcher = beside_an_honest_one(&site);
    let before = Before::of(&launcher);
    let address = launcher.address("hostile");
    for how in ["garbage", "large", "descriptors", "few-descriptors", "half", "close", "report"] {
        let mark = launcher.mark();
        // It may be ended before it has answered.
        let _ = get(&address, &format!("/channel-{how}"));
        if how == "few-descriptors" {
            // Nothing forbids it: what nobody wants is closed. It is ended for the next thing.
            before.assert_unharmed(&launcher, &site, how);
            continue;
        }
        launcher.wait_after(mark, "exited", |event| of_the_hostile(event, "exited"));
        launcher.wait_after(mark, "ready", |event| of_the_hostile(event, "ready"));
        assert_eq!(fetch(&address, "/").text(), "it behaves\n", "after {how}");
        before.assert_unharmed(&launcher, &site, how);
    }
}

#[test]
fn whoever_talks_without_end_is_heard_in_turn_and_makes_nothing_grow() {
    let site = Site::new();
    let launcher = beside_an_honest_one(&site);
    let before = Before::of(&launcher);
    let address = launcher.address("hostile");
    let _ = get(&address, "/channel-flood");
    for _ in 0..20 {
        before.assert_unharmed(&launcher, &site, "flood");
    }
    // It is steered like any other.
    let mark = launcher.mark();
    Control::of(&site).post("/v1/services/hostile/restart?wait=true");
    launcher.wait_after(mark, "exited", |event| of_the_hostile(event, "exited"));
    let _ = get(&address, "/channel-lies");
    before.assert_unharmed(&launcher, &site, "lies");
}

#[test]
fn whoever_does_not_read_holds_nobody_up() {
    let site = Site::new();
    let launcher = beside_an_honest_one(&site);
    let before = Before::of(&launcher);
    let control = Control::of(&site);
    let address = launcher.address("hostile");
    std::thread::scope(|scope| {
        // Its loop stands still: nothing is read any more.
        scope.spawn(|| drop(get(&address, "/block")));
        let pid = launcher.wait("ready", |event| of_the_hostile(event, "ready")).number("pid") as u32;
        // More than it has places for: they are refused, and none is kept.
        let refused = eventually(|| {
            let mut asked = control.connect();
            let message = format!("{{\"service\":\"hostile\",\"message\":\"{}\"}}", "x".repeat(30_000));
            let head = format!("POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", message.len());
            asked.send(format!("{head}{message}").as_bytes()).expect("sent");
            before.assert_unharmed(&launcher, &site, "silence");
            launcher.events_after(0, |event| event.is("message_refused")).len() > 4
        });
        assert!(refused, "{}", launcher.story());
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL)
            .expect("kill the worker");
    });
    before.assert_unharmed(&launcher, &site, "after silence");
}
