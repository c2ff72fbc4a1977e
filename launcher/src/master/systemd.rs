//! What systemd is told (`Type=notify`, `Type=notify-reload`, sd_notify(3)): ready, reloading, stopping, a line for
//! `systemctl status`, and a sign of life from the master's own loop, so that a master that hangs is noticed.
//!
//! Nothing of it exists when nobody asked for it. A task sends, so a receiver that does not read stops nobody.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::journal::feed::{Feed, Wanted};
use super::journal::record::What;
use super::journal::{Fact, Level};
use super::service::{Preparation, Service};
use super::{Master, Phase};
use crate::keeping::ToKeeper;
use crate::sys::notify;

/// Messages that may wait for systemd to read them; one more is dropped.
const UNREAD: usize = 64;
/// Characters of a fact in the status.
const HEADLINE: usize = 200;

/// systemd, or who passes for it.
#[derive(Debug)]
pub(super) struct Systemd {
    /// The process that systemd knows.
    pid: u32,
    messages: Messages,
    /// How often to give a sign of life, and when the next is due.
    watchdog: Option<(Duration, Instant)>,
    /// What it knows.
    told: Told,
    status: String,
    /// The last fact that is worth a line, and the place in the history up to which it was looked for.
    last: Option<String>,
    seen: u64,
}

/// Where messages go.
#[derive(Debug)]
enum Messages {
    /// To a task that sends them.
    Sent(mpsc::Sender<String>),
    /// To the keeper, which systemd believes: it is the main process. They are fetched after every event.
    Kept(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Ready,
    Reloading,
    Stopping,
}

impl Systemd {
    /// Who wants to be told; must be called within a runtime.
    pub(super) fn connect(keeper: Option<u32>) -> std::io::Result<Option<Systemd>> {
        let pid = keeper.unwrap_or_else(std::process::id);
        let Some(socket) = notify::connect()? else { return Ok(None) };
        let messages = if keeper.is_some() {
            Messages::Kept(Vec::new())
        } else {
            let (messages, outgoing) = mpsc::channel(UNREAD);
            tokio::spawn(send_all(tokio::net::UnixDatagram::from_std(socket)?, outgoing));
            Messages::Sent(messages)
        };
        // Half of it, so that one that is late does no harm.
        let every = notify::watchdog(pid).map(|within| (within / 2).max(Duration::from_millis(1)));
        let watchdog = every.map(|every| (every, Instant::now()));
        Ok(Some(Systemd { pid, messages, watchdog, told: Told::Nothing, status: String::new(), last: None, seen: 0 }))
    }

    /// When the next sign of life is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.watchdog.map(|(_, due)| due)
    }

    fn tell(&mut self, message: String) {
        match &mut self.messages {
            Messages::Sent(messages) => drop(messages.try_send(message)),
            Messages::Kept(messages) => messages.push(message),
        }
    }

    /// What the keeper is to pass on.
    fn fetch(&mut self) -> Vec<String> {
        match &mut self.messages {
            Messages::Sent(_) => Vec::new(),
            Messages::Kept(messages) => std::mem::take(messages),
        }
    }

    fn beat(&mut self, now: Instant) {
        if let Some((every, due)) = &mut self.watchdog
            && *due <= now
        {
            *due = now + *every;
            self.tell("WATCHDOG=1".to_owned());
        }
    }

    fn become_told(&mut self, next: Told) {
        let message = match next {
            _ if next == self.told => return,
            Told::Nothing => return,
            // `launcher run --daemon` made this process, and systemd started another.
            Told::Ready => format!("READY=1\nMAINPID={}", self.pid),
            Told::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={}", notify::monotonic_usec()),
            Told::Stopping => "STOPPING=1".to_owned(),
        };
        self.told = next;
        self.tell(message);
    }

    fn look_for_news(&mut self, feed: &Feed) {
        let wanted = Wanted { facts: Some(Level::Info), output: false, services: None };
        let batch = feed.read(self.seen, &wanted, usize::MAX);
        self.seen = batch.next;
        if let Some(news) = batch.records.iter().rev().find_map(|record| headline(&record.what)) {
            self.last = Some(news);
        }
    }

    fn say(&mut self, status: String) {
        if status != self.status {
            self.tell(format!("STATUS={status}"));
            self.status = status;
        }
    }
}

async fn send_all(socket: tokio::net::UnixDatagram, mut messages: mpsc::Receiver<String>) {
    while let Some(message) = messages.recv().await {
        // If it is gone, nobody is there to be told.
        let _ = socket.send(message.as_bytes()).await;
    }
}

/// A fact that whoever asks for the status wants to hear of, in one line.
fn headline(what: &What) -> Option<String> {
    let What::Fact(fact) = what else { return None };
    let worth_it = match fact {
        Fact::ConfigApplied { changed, .. } => !changed.is_empty(),
        Fact::Promoted { .. }
        | Fact::RolledBack { .. }
        | Fact::ReloadFailed { .. }
        | Fact::ServiceFailed { .. }
        | Fact::ServiceRecovered { .. }
        | Fact::ConfigRejected { .. } => true,
        _ => false,
    };
    worth_it.then(|| {
        let sentence = fact.sentence();
        let line = sentence.lines().next().unwrap_or_default().chars().take(HEADLINE).collect::<String>();
        fact.service().map_or_else(|| line.clone(), |service| format!("{service}: {line}"))
    })
}

impl Master {
    /// A reload was asked for: systemd waits for the word that it is over. Each one is told, because what was asked
    /// for last counts.
    pub(super) fn tell_of_reload(&mut self) {
        if let Some(systemd) = &mut self.systemd
            && self.phase == Phase::Serving
        {
            systemd.told = Told::Ready;
            systemd.become_told(Told::Reloading);
        }
    }

    /// After every event: tell systemd what is new.
    pub(super) fn inform_systemd(&mut self) {
        let Some(systemd) = &mut self.systemd else { return };
        systemd.beat(Instant::now());
        systemd.look_for_news(self.journal.feed());
        match self.phase {
            Phase::Starting => {}
            Phase::Serving if systemd.told != Told::Reloading => systemd.become_told(Told::Ready),
            Phase::Serving => {
                if self.readings.is_empty() && self.services.values().all(settled) {
                    systemd.become_told(Told::Ready);
                }
            }
            Phase::Stopping(_) => systemd.become_told(Told::Stopping),
        }
        let services = self.services.values().filter(|service| service.is_present());
        let ready = services.clone().flat_map(|service| service.pool.workers());
        let ready = ready.filter(|(_, worker)| worker.state.serves()).count();
        let status = match self.phase {
            Phase::Starting => "starting".to_owned(),
            Phase::Serving => {
                let last = systemd.last.as_ref().map_or_else(String::new, |last| format!("; last: {last}"));
                format!("{}, {} ready{last}", many(services.count(), "service"), many(ready, "worker"))
            }
            Phase::Stopping(_) => format!("stopping, {} left", many(self.workers.len(), "worker")),
        };
        systemd.say(status);
        for message in systemd.fetch() {
            self.tell_keeper(ToKeeper::Notify(message));
        }
    }
}

/// Nothing is on its way.
fn settled(service: &Service) -> bool {
    matches!(service.preparation, Preparation::Idle) && service.pool.incoming().is_none() && service.promotion.is_none()
}

fn many(count: usize, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}
