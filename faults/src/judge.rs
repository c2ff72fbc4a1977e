//! Which complaints are excused, and by what.
//!
//! A worker that is killed takes the connections with it that it holds: nobody can keep those. The harness reads which
//! they were while the worker stands still, before it dies. Only a failure on one of these is excused, once. A request
//! that is refused, hangs, gets a wrong answer or is told to reconnect has no excuse, whoever died, but for a plain 500 of a
//! plugin that got no memory at that moment.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::http::Trouble;
use crate::ledger::Incident;

/// A worker that the harness had killed, and what it held then.
#[derive(Debug, Clone)]
pub struct Loss {
    /// Its service.
    pub service: &'static str,
    /// Its process.
    pub pid: u32,
    /// When it stood still; what was opened later it cannot hold.
    pub at: Instant,
    /// Ports of the clients whose connections it held.
    pub clients: BTreeSet<u16>,
}

/// A time in which a worker of a service got no memory: then its plugin may answer 500, which is all that it can do.
#[derive(Debug, Clone, Copy)]
pub struct Want {
    /// The service.
    pub service: &'static str,
    /// When it began.
    pub from: Instant,
    /// When it was over.
    pub until: Instant,
}

impl Want {
    fn excuses(&self, incident: &Incident) -> bool {
        matches!(&incident.trouble, Trouble::Wrong(what) if what.starts_with("status 500 "))
            && incident.service == self.service
            && (self.from..=self.until).contains(&incident.at)
    }
}

/// What became of the complaints.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Complaints without an excuse, by their place in what was judged.
    pub guilty: Vec<usize>,
    /// How many were excused.
    pub excused: usize,
}

/// Judges every complaint.
pub fn judge(incidents: &[Incident], losses: &[Loss], wants: &[Want]) -> Verdict {
    let mut used = BTreeSet::new();
    let mut verdict = Verdict::default();
    for (number, incident) in incidents.iter().enumerate() {
        if wants.iter().any(|want| want.excuses(incident)) {
            verdict.excused += 1;
            continue;
        }
        let excuse = losses.iter().enumerate().find(|(loss_number, loss)| {
            matches!(incident.trouble, Trouble::Failed(_))
                && incident.service == loss.service
                && incident.opened <= loss.at
                && loss.at <= incident.at
                && loss.clients.contains(&incident.port)
                && !used.contains(&(*loss_number, incident.port))
        });
        match excuse {
            Some((loss, _)) => {
                used.insert((loss, incident.port));
                verdict.excused += 1;
            }
            None => verdict.guilty.push(number),
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// Opened at second 1, failed at second 3, on port 40000.
    fn incident(begin: Instant) -> Incident {
        let trouble = Trouble::Failed("closed".into());
        Incident {
            service: "victim",
            client: "eager",
            port: 40000,
            opened: begin + S,
            asked: begin + S,
            at: begin + 3 * S,
            trouble,
        }
    }

    fn loss(at: Instant) -> Loss {
        Loss { service: "victim", pid: 7, at, clients: BTreeSet::from([40000, 40001]) }
    }

    fn guilty(incidents: &[Incident], losses: &[Loss]) -> usize {
        judge(incidents, losses, &[]).guilty.len()
    }

    #[test]
    fn a_failure_on_a_connection_that_a_killed_worker_held_is_excused() {
        let begin = Instant::now();
        let verdict = judge(&[incident(begin)], &[loss(begin + 2 * S)], &[]);
        assert_eq!((verdict.guilty.len(), verdict.excused), (0, 1));
    }

    #[test]
    fn a_failure_without_a_kill_is_not_excused() {
        assert_eq!(judge(&[incident(Instant::now())], &[], &[]).guilty, [0]);
    }

    #[test]
    fn what_the_killed_worker_did_not_hold_is_not_excused() {
        let begin = Instant::now();
        let elsewhere = Incident { port: 40002, ..incident(begin) };
        assert_eq!(guilty(&[elsewhere], &[loss(begin + 2 * S)]), 1);
        let other_service = Incident { service: "judge", ..incident(begin) };
        assert_eq!(guilty(&[other_service], &[loss(begin + 2 * S)]), 1);
    }

    #[test]
    fn a_kill_excuses_neither_earlier_failures_nor_later_connections() {
        let begin = Instant::now();
        assert_eq!(guilty(&[incident(begin)], &[loss(begin + 4 * S)]), 1);
        let reused_port = Incident { opened: begin + 2 * S, ..incident(begin) };
        assert_eq!(guilty(&[reused_port], &[loss(begin + S)]), 1);
    }

    #[test]
    fn a_kill_excuses_each_connection_once() {
        let begin = Instant::now();
        let other = Incident { port: 40001, ..incident(begin) };
        assert_eq!(judge(&[incident(begin), incident(begin), other], &[loss(begin + 2 * S)], &[]).guilty, [1]);
    }

    #[test]
    fn only_a_broken_connection_is_excused() {
        let begin = Instant::now();
        let troubles =
            [Trouble::Refused("no".into()), Trouble::Hung, Trouble::Wrong("500".into()), Trouble::ToldToReconnect];
        for trouble in troubles {
            assert_eq!(guilty(&[Incident { trouble, ..incident(begin) }], &[loss(begin + 2 * S)]), 1);
        }
    }

    #[test]
    fn only_a_500_at_the_time_and_of_the_service_that_had_no_memory_is_excused() {
        let begin = Instant::now();
        let want = |service, from: u32, until: u32| Want { service, from: begin + from * S, until: begin + until * S };
        let answered = |what: &str| Incident { trouble: Trouble::Wrong(what.to_owned()), ..incident(begin) };
        let guilty = |incident: Incident, want: Want| judge(&[incident], &[], &[want]).guilty.len();
        let poor = "status 500 500 Internal Server Error";
        assert_eq!(guilty(answered(poor), want("victim", 2, 4)), 0);
        assert_eq!(guilty(answered(poor), want("victim", 4, 5)), 1);
        assert_eq!(guilty(answered(poor), want("victim", 1, 2)), 1);
        assert_eq!(guilty(answered(poor), want("judge", 2, 4)), 1);
        assert_eq!(guilty(answered("version 1 after the promotion of 2"), want("victim", 2, 4)), 1);
        assert_eq!(guilty(incident(begin), want("victim", 2, 4)), 1);
    }
}
