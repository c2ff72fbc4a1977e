//! Reloads under clients that keep their connection: nobody fails, nobody is refused, nobody reconnects, and after the
//! promotion the next request on a kept connection is the new code's.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Language, Stage};
use crate::clients::{Crowd, Group, Habit, Idle, event_loop};
use crate::random::Random;

/// What a series of reloads showed.
#[derive(Debug)]
pub struct Series {
    /// What was reloaded.
    pub language: Language,
    /// How often.
    pub reloads: u32,
    /// Right answers.
    pub answered: u64,
    /// Complaints, in words.
    pub complaints: Vec<String>,
    /// Connections opened in place of lost ones.
    pub reconnects: u64,
    /// How long the old workers took to leave, each time, milliseconds, sorted.
    pub left: Vec<u64>,
    /// The longest wait for an answer.
    pub worst: Duration,
    /// Versions that answered.
    pub versions: usize,
}

/// `count` reloads under 64 clients that pause up to 5 s and 64 that do not, and three idle connections.
///
/// # Errors
/// A reload is not promoted, or an idle connection is not served by the new code.
pub fn run(binary: &Path, language: Language, hello: &Path, count: u32, seed: u64) -> Result<Series, String> {
    let mut stage = Stage::start(binary, language, hello, 2, "")?;
    let group = |habit| Group { service: "hello", address: stage.address, habit, count: 64 };
    let groups = vec![group(Habit::Eager), group(Habit::Pausing(5000))];
    let mut crowd = Crowd::start(groups, &Random::new(seed), Arc::default())?;
    let runtime = event_loop()?;
    let mut kept = runtime.block_on(Idle::open(stage.address, 3))?;
    let mut left = Vec::new();
    for _ in 0..count {
        let mark = stage.reload()?;
        crowd.ledger.raise("hello", stage.version());
        runtime.block_on(kept.ask(stage.version()))?;
        left.push(stage.left(mark)?);
    }
    crowd.stop()?;
    left.sort_unstable();
    let complaints = crowd.ledger.incidents();
    let complaints = complaints.iter().map(|incident| format!("{}: {}", incident.client, incident.trouble)).collect();
    Ok(Series {
        language,
        reloads: count,
        answered: crowd.ledger.answered.load(std::sync::atomic::Ordering::Relaxed),
        complaints,
        reconnects: crowd.ledger.reconnects(),
        left,
        worst: crowd.ledger.worst(),
        versions: crowd.ledger.versions("hello"),
    })
}
