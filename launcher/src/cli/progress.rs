//! What is shown while an order takes its time: one line that changes on a terminal, a line now and then elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use launcher::api::{Service, State, Status, WorkerState};
use unicode_width::UnicodeWidthChar;

use super::client::Master;
use super::orders::Order;
use super::words;

/// What is done sooner needs no explanation.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two lines where they stay.
const SELDOM: Duration = Duration::from_secs(10);
/// Columns of the line that changes: one that wraps is not overwritten.
const COLUMNS: usize = 79;
/// Services that a line names.
const NAMED: usize = 3;

/// The progress of one order.
pub(super) struct Progress<'a> {
    master: &'a Master,
    order: &'a Order,
    names: &'a [String],
    shown: Shown,
}

/// What stands on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// Terminal: whether a line stands there that has to go.
    Changing { line: bool },
    /// No terminal: when the next line is due.
    Staying { next: Duration },
}

impl<'a> Progress<'a> {
    /// Of an order for these services; none: for all.
    pub(super) fn of(master: &'a Master, order: &'a Order, names: &'a [String]) -> Progress<'a> {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let shown = match io::stderr().is_terminal() && !dumb {
            true => Shown::Changing { line: false },
            false => Shown::Staying { next: SELDOM },
        };
        Progress { master, order, names, shown }
    }

    /// It takes so long by now.
    pub(super) fn tick(&mut self, elapsed: Duration) {
        match &mut self.shown {
            Shown::Changing { .. } if elapsed < PATIENCE => return,
            Shown::Staying { next } if elapsed < *next => return,
            Shown::Staying { next } => *next = elapsed + SELDOM,
            Shown::Changing { .. } => {}
        }
        let status = self.master.get::<Status>("/v1/status").ok();
        let text = words(self.order, self.names, status.as_ref(), elapsed);
        // Nobody is left to tell if this fails.
        let _ = match &mut self.shown {
            Shown::Changing { line } => {
                *line = true;
                write!(io::stderr().lock(), "\r{}\x1b[K", cut(&text, COLUMNS))
            }
            Shown::Staying { .. } => writeln!(io::stderr().lock(), "{text}"),
        };
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if self.shown == (Shown::Changing { line: true }) {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

/// `reload: hello generation 3 … 2 of 4 workers ready, 3 s`
fn words(order: &Order, names: &[String], status: Option<&Status>, elapsed: Duration) -> String {
    let services = status.map_or(&[][..], |status| &status.services);
    let concerned = services.iter().filter(|service| names.is_empty() || names.contains(&service.name));
    let under_way: Vec<String> = concerned.filter_map(|service| of_service(order, service, elapsed)).collect();
    let what = match under_way.len() {
        0 => "still waiting".to_owned(),
        few if few <= NAMED => under_way.join("; "),
        many => format!("{}; and {} more", under_way[..NAMED].join("; "), many - NAMED),
    };
    let text = format!("{}: {what}, {} s", order.verb(), elapsed.as_secs());
    words::Escaped(&text).to_string()
}

/// What a service still has to do; `None`: nothing.
fn of_service(order: &Order, service: &Service, elapsed: Duration) -> Option<String> {
    let Service { name, wanted, workers, .. } = service;
    if matches!(order, Order::Stop | Order::StopLauncher { .. }) {
        let left = words::counted(workers.len(), "worker finishes", "workers finish");
        return (!workers.is_empty()).then(|| format!("{name} … {left}"));
    }
    let ready = || workers.iter().filter(|worker| worker.state == WorkerState::Ready);
    if let Order::Restart = order {
        let new = ready().filter(|worker| worker.uptime_s < elapsed.as_secs_f64()).count();
        let done = new as u64 >= u64::from(*wanted) && service.state == State::Serving;
        return (!done).then(|| format!("{name} … {new} of {wanted} workers replaced"));
    }
    if service.state == State::Serving || service.state == State::Stopped {
        return None;
    }
    let newest = workers.iter().map(|worker| worker.generation).max();
    match newest {
        // Copied, verified, compiled: no worker has it yet.
        _ if service.state == State::Reloading && newest <= service.generation => {
            Some(format!("{name} … its next generation is prepared"))
        }
        Some(generation) => {
            let ready = ready().filter(|worker| worker.generation == generation).count();
            Some(format!("{name} generation {generation} … {ready} of {wanted} workers ready"))
        }
        None => Some(format!("{name} … 0 of {wanted} workers ready")),
    }
}

/// The beginning of a text that a terminal shows in so many columns.
fn cut(text: &str, columns: usize) -> &str {
    let mut used = 0;
    let end = text.char_indices().find(|(_, character)| {
        used += character.width().unwrap_or(0);
        used > columns
    });
    end.map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::{launcher, service, worker};
    use super::*;

    const TIME: Duration = Duration::from_millis(3_400);

    #[test]
    fn a_reload_tells_how_many_workers_are_ready() {
        let (ready, starting) = (WorkerState::Ready, WorkerState::Starting);
        let reloading =
            service("hello", State::Reloading, vec![worker(0, 3, ready), worker(0, 4, ready), worker(1, 4, starting)]);
        let prepared = service("other", State::Reloading, vec![worker(0, 3, ready)]);
        let done = service("done", State::Serving, vec![worker(0, 3, ready)]);
        let status = launcher(vec![done, reloading, prepared]);
        assert_eq!(
            words(&Order::Reload, &[], Some(&status), TIME),
            "reload: hello generation 4 … 1 of 2 workers ready; other … its next generation is prepared, 3 s"
        );
        assert_eq!(words(&Order::Reload, &["done".into()], Some(&status), TIME), "reload: still waiting, 3 s");
        assert_eq!(words(&Order::Reload, &[], None, TIME), "reload: still waiting, 3 s");
    }

    #[test]
    fn a_restart_counts_new_workers_and_a_stop_old_ones() {
        let mut new = worker(0, 3, WorkerState::Ready);
        new.uptime_s = 1.0;
        let old = worker(1, 3, WorkerState::Ready);
        let status = launcher(vec![service("hello", State::Serving, vec![new, old])]);
        assert_eq!(words(&Order::Restart, &[], Some(&status), TIME), "restart: hello … 1 of 2 workers replaced, 3 s");
        assert_eq!(words(&Order::Stop, &[], Some(&status), TIME), "stop: hello … 2 workers finish, 3 s");
    }

    #[test]
    fn a_line_that_changes_never_wraps() {
        assert_eq!(cut("日本語", 5), "日本");
        assert_eq!(cut("abc", 3), "abc");
        let many = (0..9).map(|n| service(&format!("s{n}"), State::Starting, Vec::new())).collect();
        let text = words(&Order::Start, &[], Some(&launcher(many)), TIME);
        assert!(text.ends_with("; and 6 more, 3 s"), "{text}");
    }
}
