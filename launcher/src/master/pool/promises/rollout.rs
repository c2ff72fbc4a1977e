//! How one generation takes the place of another.

use super::*;

#[test]
fn a_generation_is_promoted_when_its_last_worker_is_ready_and_only_then_the_old_one_drains() {
    let mut world = World::serving(Limits { surge: 3, ..limits(3) });
    let old: Vec<WorkerId> = world.alive.keys().copied().collect();
    let started = world.event(Event::Reload(NEW));
    assert_eq!(spawns(&started), [(0, NEW), (1, NEW), (2, NEW)]);
    for _ in 0..2 {
        let id = world.first(|p| p.generation == NEW && !p.ready).expect("one boots");
        assert_eq!(world.event(Event::Ready(id)), []);
        assert_eq!(world.pool.status(), Status::Reloading);
    }
    let last = world.first(|p| p.generation == NEW && !p.ready).expect("one boots");
    let actions = world.event(Event::Ready(last));
    assert_eq!(actions[0], Action::Promoted(NEW));
    assert_eq!(drains(&actions), old);
    assert_eq!(world.pool.status(), Status::Serving);
}

#[test]
fn the_first_generation_boots_all_at_once_and_later_ones_as_many_as_the_surge_says() {
    let mut world = World::new(Limits { surge: 2, ..limits(5) });
    assert_eq!(spawns(&world.event(Event::Reload(OLD))).len(), 5);
    world.ready_all();
    assert_eq!(spawns(&world.event(Event::Reload(NEW))).len(), 2);
    let id = world.first(|p| p.generation == NEW).expect("one boots");
    assert_eq!(spawns(&world.event(Event::Ready(id))), [(2, NEW)]);
}

#[test]
fn when_nobody_serves_a_new_generation_boots_all_at_once() {
    let mut world = World::serving(Limits { budget: 0, ..limits(3) });
    while let Some(id) = world.first(|p| p.up()) {
        world.event(Event::Exited(id));
    }
    assert_eq!(world.pool.status(), Status::Failed);
    assert_eq!(spawns(&world.event(Event::Reload(NEW))).len(), 3);
}

#[test]
fn a_newer_generation_takes_the_place_of_one_on_its_way() {
    let mut world = World::serving(Limits { surge: 2, ..limits(2) });
    world.event(Event::Reload(NEW));
    let ready = world.first(|p| p.generation == NEW).expect("one boots");
    world.event(Event::Ready(ready));
    let actions = world.event(Event::Reload(Generation(3)));
    assert_eq!(actions[0], rolled_back(NEW, RollbackReason::Superseded));
    assert_eq!(drains(&actions), [ready]);
    assert_eq!(kills(&actions).len(), 1, "what boots has nothing to finish");
    assert_eq!(spawns(&actions).len(), 2);
    assert!(world.ready_all().contains(&Action::Promoted(Generation(3))));
    assert!(world.reap_all().contains(&Action::Retired(NEW)));
    assert_eq!(world.pool.previous(), Some(OLD));
}

#[test]
fn a_reload_of_what_serves_changes_nothing_and_abandons_what_is_on_its_way() {
    let mut world = World::serving(limits(2));
    assert_eq!(world.event(Event::Reload(OLD)), []);
    world.event(Event::Reload(NEW));
    assert_eq!(world.event(Event::Reload(NEW)), []);
    let actions = world.event(Event::Reload(OLD));
    assert_eq!(actions[0], rolled_back(NEW, RollbackReason::Superseded));
    world.reap_all();
    assert_eq!(world.pool.status(), Status::Serving);
}

#[test]
fn an_operator_returns_to_the_previous_generation_and_to_no_other() {
    let mut world = promoted(limits(1));
    assert_eq!(world.event(Event::Rollback(Generation(9))), []);
    assert_eq!(world.pool.previous(), Some(OLD));
    assert_eq!(spawns(&world.event(Event::Rollback(OLD))), [(0, OLD)]);
    let actions = world.ready_all();
    assert_eq!(actions[0], Action::Promoted(OLD));
    assert_eq!(drains(&actions).len(), 1);
    assert_eq!(world.pool.previous(), Some(NEW), "and forth again");
    world.event(Event::Reload(Generation(3)));
    let actions = world.event(Event::Rollback(OLD));
    assert_eq!(actions[0], rolled_back(Generation(3), RollbackReason::Requested));
}

#[test]
fn a_smaller_size_drains_the_highest_slots_and_a_larger_one_fills_new_ones() {
    let mut world = World::serving(limits(3));
    let (second, third) = (world.in_slot(1), world.in_slot(2));
    assert_eq!(drains(&world.event(Event::Limits(limits(1)))), [second, third]);
    world.reap_all();
    assert_eq!(spawns(&world.event(Event::Limits(limits(4)))), [(1, OLD), (2, OLD), (3, OLD)]);
    world.ready_all();
    assert_eq!(world.pool.status(), Status::Serving);
}

#[test]
fn a_smaller_size_can_complete_a_generation_on_its_way() {
    let mut world = World::serving(limits(2));
    world.event(Event::Reload(NEW));
    let id = world.first(|p| p.generation == NEW && p.slot == Slot(0)).expect("one boots");
    world.event(Event::Ready(id));
    assert!(world.event(Event::Limits(limits(1))).contains(&Action::Promoted(NEW)));
}

#[test]
fn at_most_sixteen_old_generations_drain_and_the_oldest_is_killed_first() {
    let mut world = World::serving(Limits { drain_timeout: OLD_AGE * 3, ..limits(1) });
    for generation in 2..=17 {
        world.pass(1_000);
        world.event(Event::Reload(Generation(generation)));
        assert!(kills(&world.ready_all()).is_empty());
    }
    let oldest = world.first(|p| p.generation == OLD).expect("it drains");
    world.pass(1_000);
    world.event(Event::Reload(Generation(18)));
    assert_eq!(kills(&world.ready_all()), [oldest]);
}

#[test]
fn an_old_generation_drains_for_ten_minutes_at_most() {
    let mut world = World::serving(Limits { drain_timeout: OLD_AGE * 3, ..limits(1) });
    let worn = world.in_slot(0);
    world.event(Event::Recycle(worn));
    world.ready_all();
    world.event(Event::Reload(NEW));
    world.ready_all();
    let (waited, actions) = world.tick().expect("a draining worker arms a timer");
    assert_eq!((waited, kills(&actions).len()), (OLD_AGE, 2), "the one that drained before as well");
}

#[test]
fn a_generation_is_retired_when_nothing_runs_it_and_nothing_returns_to_it() {
    let mut world = promoted(limits(1));
    world.pass(3_600_000);
    assert_eq!(world.event(Event::Tick), [], "generation 1 stays: an operator may want it back");
    world.event(Event::Reload(Generation(3)));
    assert!(world.ready_all().contains(&Action::Retired(OLD)), "generation 2 is the one to return to now");
    assert_eq!(world.reap_all(), []);
    world.event(Event::Reload(Generation(4)));
    assert!(!world.ready_all().contains(&Action::Retired(OLD)));
    assert_eq!(world.reap_all(), []);
    assert_eq!(world.pool.previous(), Some(Generation(3)));
}

#[test]
fn what_still_drains_is_not_retired() {
    let mut world = World::serving(limits(1));
    for generation in [2, 3] {
        world.event(Event::Reload(Generation(generation)));
        assert!(!world.ready_all().iter().any(|a| matches!(a, Action::Retired(_))));
    }
    assert_eq!(world.reap_all(), [Action::Retired(OLD)]);
}

#[test]
fn a_pool_that_has_all_its_workers_arms_no_timer_even_if_a_replacement_would_have_to_wait() {
    let mut world = World::serving(limits(2));
    for _ in 0..2 {
        let id = world.in_slot(1);
        world.event(Event::Exited(id));
        world.ready_all();
    }
    assert!(world.pool.next_deadline().is_some(), "slot 1 waits for its third worker");
    world.event(Event::Limits(limits(1)));
    assert_eq!((world.pool.status(), world.pool.next_deadline()), (Status::Serving, None));
}
