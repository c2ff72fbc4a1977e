//! `launcher status`: every service and its workers.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use launcher::api::{Kind, LastReload, ReloadResult, Service, State, Status, Worker, WorkerState};

use super::client::{Failure, Master, segment};
use super::table::{Cell, Colour, Colours, Side, Table};
use super::{Ended, Format, print, print_json, words};

/// `launcher status [SERVICE…]`
pub(crate) fn status(config: &Path, names: &[String], format: Format) -> Result<Ended, Failure> {
    let master = Master::of(config)?;
    let (mut status, mut text) = master.send("GET", "/v1/status", None)?.answer(None)?.json_and_text::<Status>()?;
    if !names.is_empty() {
        for name in names {
            if !status.services.iter().any(|service| service.name == *name) {
                // The master knows the names, and what a wrong one was probably meant to be.
                status.services.push(master.get(&format!("/v1/services/{}", segment(name)))?);
            }
        }
        status.services.retain(|service| names.contains(&service.name));
    }
    match format {
        Format::Json if names.is_empty() => {
            // As it came, with what a newer master says beyond what is known here.
            text.truncate(text.trim_ascii_end().len());
            text.push(b'\n');
            print(&text)?;
        }
        Format::Json => print_json(&status)?,
        Format::Table => print(render(&status, Colours::of(&io::stdout())).as_bytes())?,
    }
    Ok(Ended::Done)
}

fn render(status: &Status, colours: Colours) -> String {
    let Status { version, pid, keeper: _, upgrade: _, uptime_s, config, services } = status;
    let head = format!("launcher {version}, pid {pid}, up {}, {config}", words::age(*uptime_s));
    let mut table = Table::new(&[
        ("SERVICE", Side::Left),
        ("STATE", Side::Left),
        ("GEN", Side::Right),
        ("PID", Side::Right),
        ("UP", Side::Right),
        ("RESTARTS", Side::Right),
        ("MEMORY", Side::Right),
        ("CPU", Side::Right),
        ("CONNS", Side::Right),
        ("REQUESTS", Side::Right),
    ]);
    for service in services {
        add_service(&mut table, service);
    }
    format!("{}\n{}", words::Escaped(&head), table.render(colours))
}

fn add_service(table: &mut Table, service: &Service) {
    let workers = &service.workers;
    let ready = workers.iter().filter(|worker| worker.state == WorkerState::Ready && serves(service, worker)).count();
    let (name, colour) = state(service.state);
    // Where nobody counts there is no number; where nobody works it is 0.
    let counted =
        |number: fn(&Worker) -> Option<u64>| workers.is_empty() || workers.iter().any(|w| number(w).is_some());
    let connections = counted(|worker| worker.connections).then(|| {
        let open = workers.iter().filter_map(|worker| worker.connections);
        open.fold(0, u64::saturating_add)
    });
    let requests =
        counted(|worker| worker.requests).then(|| of_slots(workers, |worker| worker.requests.unwrap_or_default()));
    table.row(vec![
        Cell::coloured(&service.name, Colour::Bold),
        Cell::coloured(format!("{name} {ready}/{}", service.wanted), colour),
        Cell::new(service.generation.map_or_else(|| "-".to_owned(), |generation| generation.to_string())),
        "".into(),
        "".into(),
        of_slots(workers, |worker| worker.restarts.into()).to_string().into(),
        known(sum(workers.iter().filter_map(|worker| worker.pss_bytes)), words::mebibytes),
        known(sum(workers.iter().filter_map(|worker| worker.cpu_s)), words::processor_time),
        known(connections, |number| number.to_string()),
        known(requests, |number| number.to_string()),
    ]);
    let kind = match service.kind {
        Kind::Http => "http",
        Kind::Socket => "socket",
        Kind::Command => "command",
    };
    let place = match service.listeners.as_slice() {
        [] => String::new(),
        listeners => format!(" on {}", listeners.join(", ")),
    };
    table.line(format!("  {kind}{place}, {}", service.plugin), Colour::Dim);
    if let Some(reason) = &service.reason {
        table.line(format!("  {name}: {}", words::first_line(reason)), colour);
    }
    if let Some(last) = service.last_reload.as_ref().filter(|last| last.result == ReloadResult::RolledBack) {
        table.line(format!("  {}", rolled_back(last)), Colour::Yellow);
    }
    for worker in workers {
        add_worker(table, worker);
    }
}

fn add_worker(table: &mut Table, worker: &Worker) {
    let (name, colour) = match worker.state {
        WorkerState::Starting => ("starting", Colour::Cyan),
        WorkerState::Ready => ("ready", Colour::Green),
        WorkerState::Draining => ("draining", Colour::Dim),
    };
    table.row(vec![
        format!("  {}", worker.slot).into(),
        Cell::coloured(name, colour),
        worker.generation.to_string().into(),
        worker.pid.to_string().into(),
        words::age(worker.uptime_s).into(),
        Cell::coloured(worker.restarts.to_string(), if worker.restarts > 0 { Colour::Yellow } else { Colour::Plain }),
        known(worker.pss_bytes, words::mebibytes),
        known(worker.cpu_s, words::processor_time),
        known(worker.connections, |number| number.to_string()),
        known(worker.requests, |number| number.to_string()),
    ]);
    // The end of a worker that was drained is no news.
    if let Some(exit) = worker.last_exit.as_ref().filter(|exit| worker.restarts > 0 && exit.code != Some(0)) {
        let line = format!("    the one before {}, {} ago", words::first_line(&exit.reason), words::age(exit.ago_s));
        table.line(line, Colour::Dim);
    }
}

/// Whether a worker runs what the service serves.
fn serves(service: &Service, worker: &Worker) -> bool {
    service.generation.is_none_or(|generation| worker.generation == generation)
}

fn state(state: State) -> (&'static str, Colour) {
    match state {
        State::Starting => ("starting", Colour::Cyan),
        State::Serving => ("serving", Colour::Green),
        State::Reloading => ("reloading", Colour::Cyan),
        State::Degraded => ("degraded", Colour::Yellow),
        State::Failed => ("failed", Colour::Red),
        State::Stopped => ("stopped", Colour::Dim),
    }
}

fn rolled_back(last: &LastReload) -> String {
    let reason = words::first_line(last.reason.as_deref().unwrap_or("no reason is known"));
    let took = words::took(last.took_ms);
    match last.generation {
        Some(generation) => {
            format!("generation {generation} was rolled back after {took}: {reason} ({})", last.trigger)
        }
        None => format!("the last reload was refused after {took}: {reason} ({})", last.trigger),
    }
}

fn known<T>(value: Option<T>, words: impl FnOnce(T) -> String) -> Cell {
    value.map_or_else(|| "-".into(), |value| words(value).into())
}

/// `None` of nothing: a service without workers has no memory, not 0 bytes of it.
fn sum<T: std::ops::Add<Output = T>>(values: impl Iterator<Item = T>) -> Option<T> {
    values.reduce(|sum, value| sum + value)
}

/// A count that belongs to a slot and not to the worker in it: where two workers share a slot, it is counted once.
fn of_slots(workers: &[Worker], count: impl Fn(&Worker) -> u64) -> u64 {
    let mut slots = BTreeMap::new();
    for worker in workers {
        let slot = slots.entry(worker.slot).or_insert(0);
        *slot = count(worker).max(*slot);
    }
    slots.into_values().fold(0, u64::saturating_add)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use launcher::api::Exit;

    pub(in crate::cli) fn worker(slot: u32, generation: u64, state: WorkerState) -> Worker {
        Worker {
            id: u64::from(slot) + 10 * generation,
            slot,
            pid: 4_194_000 + slot,
            generation,
            state,
            uptime_s: 187_200.0,
            restarts: 0,
            pss_bytes: Some(24 << 20),
            cpu_s: Some(6.26),
            connections: Some(3),
            accepted: Some(40),
            requests: Some(12_345_678),
            last_exit: None,
        }
    }

    pub(in crate::cli) fn service(name: &str, state: State, workers: Vec<Worker>) -> Service {
        Service {
            name: name.to_owned(),
            kind: Kind::Http,
            plugin: "plugins/hello.wasm".to_owned(),
            generation: Some(3),
            previous: Some(2),
            state,
            reason: None,
            listeners: vec!["127.0.0.1:8080".to_owned(), "unix:/run/hello".to_owned()],
            wanted: 2,
            workers,
            last_reload: None,
        }
    }

    pub(in crate::cli) fn launcher(services: Vec<Service>) -> Status {
        let (version, config) = ("0.1.0".to_owned(), "/srv/config.yaml".to_owned());
        Status { version, pid: 4_194_303, keeper: None, upgrade: None, uptime_s: 187_200.0, config, services }
    }

    #[test]
    fn services_and_their_workers_fit_a_hundred_columns() {
        let mut crashed = worker(1, 3, WorkerState::Ready);
        crashed.restarts = 2;
        crashed.last_exit =
            Some(Exit { reason: "was killed by SIGSEGV".into(), code: None, signal: Some(11), ago_s: 200.0 });
        let mut old = worker(0, 2, WorkerState::Draining);
        old.pss_bytes = None;
        let mut first = service("front-end", State::Serving, vec![worker(0, 3, WorkerState::Ready), crashed, old]);
        first.last_reload = Some(LastReload {
            generation: Some(4),
            result: ReloadResult::RolledBack,
            reason: Some("a worker exited with code 3\n  more".into()),
            took_ms: 3_210,
            trigger: "plugins/hello.wasm changed".into(),
        });
        let mut second = service("b", State::Failed, Vec::new());
        second.generation = None;
        second.listeners.clear();
        second.reason = Some("they keep\x1b[2J crashing".into());
        let text = render(&launcher(vec![first, second]), Colours::Off);
        let expected = "\
launcher 0.1.0, pid 4194303, up 2d 4h, /srv/config.yaml
SERVICE    STATE        GEN      PID     UP  RESTARTS  MEMORY   CPU  CONNS  REQUESTS
front-end  serving 2/2    3                         2  48 MiB   18s      9  24691356
  http on 127.0.0.1:8080, unix:/run/hello, plugins/hello.wasm
  generation 4 was rolled back after 3.2 s: a worker exited with code 3 … (plugins/hello.wasm changed)
  0        ready          3  4194000  2d 4h         0  24 MiB  6.3s      3  12345678
  1        ready          3  4194001  2d 4h         2  24 MiB  6.3s      3  12345678
    the one before was killed by SIGSEGV, 3m ago
  0        draining       2  4194000  2d 4h         0       -  6.3s      3  12345678
b          failed 0/2     -                         0       -     -      0         0
  http, plugins/hello.wasm
  failed: they keep\\u{1b}[2J crashing
";
        assert_eq!(text, expected);
        let free = |line: &str| line.contains("rolled back");
        assert!(text.lines().all(|line| free(line) || line.chars().count() <= 100), "{text}");
    }

    #[test]
    fn on_a_terminal_the_state_has_a_colour() {
        let text = render(&launcher(vec![service("a", State::Degraded, Vec::new())]), Colours::On);
        assert!(text.contains("\x1b[33mdegraded 0/2\x1b[0m"), "{text:?}");
    }
}
