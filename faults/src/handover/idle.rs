//! Very many idle connections move from one worker to its successor, while a few clients go on asking.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Language, Stage};
use crate::clients::{Crowd, Group, Habit, Idle, event_loop};
use crate::launcher::PATIENCE;
use crate::random::Random;

/// What one hand-over cost.
#[derive(Debug, Clone, Copy)]
pub struct Move {
    /// From the word to leave until the old worker's exit was seen, milliseconds.
    pub took_ms: u64,
    /// The longest wait of the other clients meanwhile.
    pub worst: Duration,
    /// Their longest wait in the second before the hand-over, while nothing else was done.
    pub calm: Duration,
}

/// Opens `connections`, then hands them over `rounds` times.
///
/// # Errors
/// A connection is lost, or the limits of this process are too low.
pub fn run(
    binary: &Path,
    language: Language,
    hello: &Path,
    connections: usize,
    rounds: usize,
) -> Result<Vec<Move>, String> {
    let mut stage = Stage::start(binary, language, hello, 1, "")?;
    let runtime = event_loop()?;
    let mut kept = runtime.block_on(Idle::open(stage.address, connections))?;
    let busy = |habit, count| Group { service: "hello", address: stage.address, habit, count };
    let groups = vec![busy(Habit::Pausing(4), 8)];
    let mut crowd = Crowd::start(groups, &Random::new(1), Arc::default())?;
    let mut moves = Vec::new();
    for _ in 0..rounds {
        crowd.ledger.worst();
        let calm = Instant::now();
        while calm.elapsed() < Duration::from_secs(1) {
            std::thread::park_timeout(Duration::from_millis(50));
        }
        let calm = crowd.ledger.worst();
        let (launcher, ledger) = (Arc::clone(&stage.launcher), Arc::clone(&crowd.ledger));
        let mark = launcher.mark();
        // Only what is between the word to leave and the exit: the start of the new worker is the reload's.
        let watch = std::thread::spawn(move || {
            launcher.wait(mark, 1, PATIENCE, "draining", |fact| fact.is("draining"))?;
            ledger.worst();
            launcher.wait(mark, 1, PATIENCE, "exit", |fact| fact.is("exited"))?;
            Ok::<_, String>(ledger.worst())
        });
        let mark = stage.reload()?;
        let took_ms = stage.left(mark)?;
        let worst = watch.join().map_err(|_| "the watch over the hand-over panicked")??;
        moves.push(Move { took_ms, worst, calm });
    }
    runtime.block_on(kept.ask(stage.version()))?;
    crowd.stop()?;
    Ok(moves)
}
