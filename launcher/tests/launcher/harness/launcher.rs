//! A running launcher seen from outside: its events (stderr), the lines of its workers (stdout), its exit.
//!
//! Dropping it kills whatever it started, so that a failed test leaves nothing behind.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{PATIENCE, process};

/// The program under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_launcher");

/// One line of the event log.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// When the line was read here.
    pub(crate) at: Instant,
    fields: Value,
}

impl Event {
    /// Whether it is this kind of event.
    pub(crate) fn is(&self, kind: &str) -> bool {
        self.fields["event"] == kind
    }

    /// Whether it concerns this service.
    pub(crate) fn of(&self, service: &str) -> bool {
        self.fields["service"] == service
    }

    /// A field as it is.
    pub(crate) fn value(&self, field: &str) -> &Value {
        &self.fields[field]
    }

    /// A field that is a number.
    pub(crate) fn number(&self, field: &str) -> u64 {
        self.fields[field].as_u64().unwrap_or_else(|| panic!("no number `{field}` in the event {}", self.fields))
    }

    /// A field that is text.
    pub(crate) fn text(&self, field: &str) -> &str {
        self.fields[field].as_str().unwrap_or_else(|| panic!("no text `{field}` in the event {}", self.fields))
    }

    /// Whether it has this field, and not as null.
    pub(crate) fn has(&self, field: &str) -> bool {
        !self.fields[field].is_null()
    }
}

/// One line that a worker wrote.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) service: String,
    pub(crate) worker: u64,
    pub(crate) stream: String,
    pub(crate) text: String,
    /// It is a piece of a longer one.
    pub(crate) continues: bool,
}

/// What the readers of both streams have seen.
#[derive(Default)]
struct Seen {
    events: Vec<Event>,
    lines: Vec<Line>,
    stdout: String,
    stderr: String,
    open_streams: u32,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `launcher run` in a process.
pub(crate) struct Launcher {
    child: Child,
    shared: Arc<Shared>,
    description: String,
    exit: Option<ExitStatus>,
    patience: Duration,
}

impl Launcher {
    /// Starts it and reads its streams.
    pub(crate) fn start(command: Command, config: &str) -> Self {
        Self::start_and(command, config, |seen, line| {
            let line = String::from_utf8_lossy(line);
            seen.stdout += &format!("{line}\n");
            if let Ok(fields) = serde_json::from_str::<Value>(&line) {
                let text = |field: &str| fields[field].as_str().unwrap_or_default().to_owned();
                seen.lines.push(Line {
                    service: text("service"),
                    worker: fields["worker"].as_u64().unwrap_or_default(),
                    stream: text("stream"),
                    text: text("line"),
                    continues: fields["continues"] == true,
                });
            }
        })
    }

    /// Starts it; the lines of its standard output are not remembered but given to `take`, without their ends.
    pub(crate) fn start_taking(command: Command, config: &str, mut take: impl FnMut(&[u8]) + Send + 'static) -> Self {
        Self::start_and(command, config, move |_, line| take(line))
    }

    fn start_and(
        mut command: Command,
        config: &str,
        take_output: impl FnMut(&mut Seen, &[u8]) + Send + 'static,
    ) -> Self {
        let description = format!("{command:?}\n--- config.yaml ---\n{config}\n");
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {BINARY}: {error}"));
        let shared = Arc::new(Shared::default());
        shared.seen().open_streams = 2;
        read_lines(child.stderr.take().expect("stderr is piped"), &shared, |seen, line| {
            let line = String::from_utf8_lossy(line);
            seen.stderr += &format!("{line}\n");
            if let Ok(fields) = serde_json::from_str::<Value>(&line) {
                seen.events.push(Event { at: Instant::now(), fields });
            }
        });
        read_lines(child.stdout.take().expect("stdout is piped"), &shared, take_output);
        Self { child, shared, description, exit: None, patience: PATIENCE }
    }

    /// Wait for facts this long, where compilers need it.
    pub(crate) fn be_patient(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Pid of the process that was started and is to be signalled: the keeper.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Pid of the newest master, waited for.
    pub(crate) fn master(&self) -> u32 {
        self.wait("starting", is_master);
        self.masters().last().copied().expect("one was waited for")
    }

    fn masters(&self) -> Vec<u32> {
        self.events_after(0, is_master).iter().map(|event| event.number("pid") as u32).collect()
    }

    /// Kills whoever is known, and their descendants.
    fn kill_all(&self) {
        // First all stand still: the keeper would start another master, and the master another keeper. A child that it has
        // not told of may be one, too. Before any is gone: then nothing tells whose they were.
        let mut all = Vec::new();
        let mut found = self.processes();
        while !found.is_empty() {
            for pid in &found {
                let _ = kill(Pid::from_raw(*pid as i32), Signal::SIGSTOP);
            }
            all.append(&mut found);
            let descendants = all.iter().flat_map(|pid| process::descendants(*pid));
            // What it has told meanwhile counts, too.
            let known = descendants.chain(self.processes());
            let new: BTreeSet<u32> = known.filter(|pid| !all.contains(pid)).collect();
            found.extend(new);
        }
        for pid in all {
            // It may have ended by itself meanwhile.
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
    }

    /// Every process that is known to be of this launcher, but for descendants.
    fn processes(&self) -> Vec<u32> {
        let keepers = self.events_after(0, |event| event.is("keeper_replaced"));
        let keepers = keepers.iter().map(|event| event.number("keeper") as u32);
        // Workers of a master that was killed may be anybody's children.
        let workers = self.events_after(0, |event| event.is("spawned"));
        let workers = workers.iter().map(|event| event.number("pid") as u32);
        // A keeper that a master has made may not have been told of, but it is the parent of the next master.
        let masters = self.masters();
        let parents = masters.iter().filter_map(|pid| process::parent(*pid));
        let all =
            std::iter::once(self.pid()).chain(keepers).chain(masters.iter().copied()).chain(parents).chain(workers);
        let is_ours = |pid: &u32| *pid == self.pid() || process::is_a_launcher(*pid);
        all.filter(is_ours).collect()
    }

    /// Waits until `found` finds what it looks for in what was seen so far.
    fn wait_until<T>(&self, what: &str, mut found: impl FnMut(&Seen) -> Option<T>) -> T {
        let deadline = Instant::now() + self.patience;
        let mut seen = self.shared.seen();
        loop {
            if let Some(found) = found(&seen) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || seen.open_streams == 0 {
                let why = if left.is_zero() { "in time" } else { "before the launcher ended" };
                drop(seen);
                panic!("no `{what}` {why}\n{}", self.story());
            }
            seen = self.shared.changed.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A place in the event log: what follows it is new.
    pub(crate) fn mark(&self) -> usize {
        self.shared.seen().events.len()
    }

    /// The first event that fits, waited for. `fits` is called under the lock of the log: it must not ask this launcher.
    pub(crate) fn wait(&self, what: &str, fits: impl Fn(&Event) -> bool) -> Event {
        self.wait_after(0, what, fits)
    }

    /// The first event after a mark that fits, waited for.
    pub(crate) fn wait_after(&self, mark: usize, what: &str, fits: impl Fn(&Event) -> bool) -> Event {
        self.wait_until(what, |seen| seen.events[mark..].iter().find(|event| fits(event)).cloned())
    }

    /// The first `count` events after a mark that fit, waited for.
    pub(crate) fn wait_many(&self, mark: usize, count: usize, what: &str, fits: impl Fn(&Event) -> bool) -> Vec<Event> {
        self.wait_until(what, |seen| {
            let fitting: Vec<_> = seen.events[mark..].iter().filter(|event| fits(event)).take(count).cloned().collect();
            (fitting.len() == count).then_some(fitting)
        })
    }

    /// The events after a mark that fit, as of now.
    pub(crate) fn events_after(&self, mark: usize, fits: impl Fn(&Event) -> bool) -> Vec<Event> {
        self.shared.seen().events[mark..].iter().filter(|event| fits(event)).cloned().collect()
    }

    /// The lines of workers once there are `count` that fit.
    pub(crate) fn wait_lines(&self, count: usize, what: &str, fits: impl Fn(&Line) -> bool) -> Vec<Line> {
        self.wait_until(what, |seen| {
            let fitting: Vec<_> = seen.lines.iter().filter(|line| fits(line)).cloned().collect();
            (fitting.len() >= count).then_some(fitting)
        })
    }

    /// The first address on which a service listens.
    pub(crate) fn address(&self, service: &str) -> String {
        self.wait("listening", |event| event.is("listening") && event.of(service)).text("address").to_owned()
    }

    /// Pids of the workers that became ready after a mark, waited for.
    pub(crate) fn workers_after(&self, mark: usize, count: usize) -> Vec<u32> {
        let ready = self.wait_many(mark, count, "ready", |event| event.is("ready"));
        ready.iter().map(|event| event.number("pid") as u32).collect()
    }

    /// Pids of the first workers.
    pub(crate) fn workers(&self, count: usize) -> Vec<u32> {
        self.workers_after(0, count)
    }

    /// Sends the launcher a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).expect("signal the master");
    }

    /// Kills master and keeper, so that neither starts the other one again.
    pub(crate) fn kill(&self) {
        let master = self.master();
        self.signal(Signal::SIGSTOP);
        kill(Pid::from_raw(master as i32), Signal::SIGKILL).expect("kill the master");
        self.signal(Signal::SIGKILL);
    }

    /// Waits for the master's end and gives its exit status.
    pub(crate) fn exit(&mut self) -> ExitStatus {
        if self.exit.is_none() {
            if !process::ends(self.pid(), PATIENCE) {
                panic!("the launcher does not end\n{}", self.story());
            }
            self.exit = Some(self.child.wait().expect("wait for the launcher"));
        }
        self.exit.expect("was set just now")
    }

    /// Asks for the end with TERM; it must be clean.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.exit();
        assert_eq!(status.code(), Some(0), "the exit code after TERM\n{}", self.story());
    }

    /// Everything that was printed, for a failure.
    pub(crate) fn story(&self) -> String {
        let seen = self.shared.seen();
        format!("{}--- stderr ---\n{}--- stdout ---\n{}", self.description, tail(&seen.stderr), tail(&seen.stdout))
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        if self.exit.is_some() {
            return;
        }
        if thread::panicking() {
            eprintln!("{}", self.story());
        }
        // Whoever still can write into the streams is a keeper or a master of which nothing is known yet, because what made
        // it died before it could tell.
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            self.kill_all();
            let seen = self.shared.seen();
            if seen.open_streams == 0 || Instant::now() > deadline {
                break;
            }
            drop(self.shared.changed.wait_timeout(seen, Duration::from_millis(50)));
        }
        let _ = self.child.wait();
    }
}

fn is_master(event: &Event) -> bool {
    event.is("starting") || event.is("adopted")
}

fn read_lines(
    stream: impl Read + AsFd + Send + 'static,
    shared: &Arc<Shared>,
    mut take: impl FnMut(&mut Seen, &[u8]) + Send + 'static,
) {
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            take(&mut shared.seen(), line.strip_suffix(b"\n").unwrap_or(&line));
            shared.changed.notify_all();
            line.clear();
        }
        shared.seen().open_streams -= 1;
        shared.changed.notify_all();
    });
}

/// The end of a long text: a failure's reason is seldom at its beginning.
fn tail(text: &str) -> &str {
    const SHOWN: usize = 20_000;
    let mut start = text.len().saturating_sub(SHOWN);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// Whether `condition` comes true in time, asked again after each pause: for facts that nobody announces.
pub(crate) fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        thread::park_timeout(Duration::from_millis(5));
    }
    true
}
