//! Scripted histories: one a promise.

mod crashes;
mod lifecycle;
mod rollout;

use std::time::{Duration, Instant};

use super::world::{World, limits};
use super::{
    Action, Event, Generation, Ids, LAST_WORDS, Limits, OLD_AGE, Pool, RECYCLE_AFTER, RollbackReason, STALL, Slot,
    State, Status, WorkerId,
};

const OLD: Generation = Generation(1);
const NEW: Generation = Generation(2);

fn spawns(actions: &[Action]) -> Vec<(u32, Generation)> {
    let spawn = |a: &Action| match a {
        Action::Spawn { slot, generation, .. } => Some((slot.0, *generation)),
        _ => None,
    };
    actions.iter().filter_map(spawn).collect()
}

fn drains(actions: &[Action]) -> Vec<WorkerId> {
    actions.iter().filter_map(|a| if let Action::Drain(id) = a { Some(*id) } else { None }).collect()
}

fn kills(actions: &[Action]) -> Vec<WorkerId> {
    actions.iter().filter_map(|a| if let Action::Kill(id) = a { Some(*id) } else { None }).collect()
}

fn rolled_back(generation: Generation, reason: RollbackReason) -> Action {
    Action::RolledBack { generation, reason }
}

/// Old and new generation have served, everything is reaped, and probation has just begun.
fn promoted(limits: Limits) -> World {
    let mut world = World::serving(limits);
    world.event(Event::Reload(NEW));
    assert!(world.ready_all().contains(&Action::Promoted(NEW)));
    world.reap_all();
    world
}

/// The worker in `slot` crashes, its replacement becomes ready as soon as the backoff lets it, and so on, until
/// `done`; returns what the pool said in that time.
fn crash_loop(world: &mut World, slot: u32, done: impl Fn(&Action) -> bool) -> Vec<Action> {
    let mut all = Vec::new();
    for _ in 0..50 {
        let id = world.in_slot(slot);
        all.extend(world.event(Event::Exited(id)));
        if all.iter().any(&done) {
            return all;
        }
        while spawns(&all).is_empty() || world.first(|p| p.up() && !p.ready).is_none() {
            all.extend(world.tick().expect("a replacement is due").1);
        }
        all.extend(world.ready_all());
    }
    panic!("the crash loop has no end: {all:?}");
}
