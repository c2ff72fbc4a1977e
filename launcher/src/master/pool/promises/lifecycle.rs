//! Restart, recycling, stop, and what no input may do.

use super::*;

#[test]
fn a_restart_replaces_worker_by_worker_each_when_its_replacement_is_ready() {
    let mut world = World::serving(limits(3));
    let old: Vec<WorkerId> = world.alive.keys().copied().collect();
    let mut actions = world.event(Event::Restart);
    for (slot, old) in old.iter().enumerate() {
        assert_eq!(spawns(&actions), [(slot as u32, OLD)]);
        assert!(drains(&actions).len() <= 1);
        assert_eq!(world.pool.status(), Status::Reloading);
        let fresh = world.first(|p| p.up() && !p.ready).expect("one boots");
        actions = world.event(Event::Ready(fresh));
        assert_eq!(drains(&actions), [*old]);
    }
    world.reap_all();
    assert_eq!((world.pool.status(), world.pool.next_deadline()), (Status::Serving, None));
}

#[test]
fn a_restart_that_does_not_start_leaves_the_worker_that_it_would_replace() {
    let mut world = World::serving(limits(1));
    let old = world.in_slot(0);
    world.event(Event::Restart);
    for _ in 0..10 {
        match world.first(|p| p.up() && !p.ready) {
            Some(id) => drop(world.event(Event::Exited(id))),
            None => drop(world.tick().expect("the next try is due")),
        }
        assert!(world.pool.worker(old).is_some_and(|w| w.state.serves()));
    }
    assert!(!world.failed);
}

#[test]
fn a_restart_forgets_the_crashes_of_a_failed_service() {
    let mut world = World::serving(limits(1));
    crash_loop(&mut world, 0, |a| *a == Action::Failed);
    assert_eq!(spawns(&world.event(Event::Restart)), [(0, OLD)], "at once");
    assert_eq!(world.ready_all(), [Action::Recovered]);
}

#[test]
fn a_worker_that_asks_to_be_replaced_serves_until_its_replacement_is_ready() {
    let mut world = World::serving(limits(2));
    let worn = world.in_slot(1);
    assert_eq!(spawns(&world.event(Event::Recycle(worn))), [(1, OLD)]);
    assert_eq!(world.event(Event::Recycle(worn)), []);
    assert_eq!(drains(&world.ready_all()), [worn]);
    world.reap_all();
    assert_eq!((world.pool.restarts(Slot(1)), world.pool.status()), (0, Status::Serving));
}

#[test]
fn a_worker_that_asks_again_and_again_cannot_make_the_pool_spin() {
    let mut world = World::serving(limits(1));
    let worn = world.in_slot(0);
    world.event(Event::Recycle(worn));
    world.ready_all();
    for _ in 0..5 {
        let young = world.in_slot(0);
        assert_eq!(world.event(Event::Recycle(young)), []);
        world.reap_all();
        let (waited, actions) = world.tick().expect("its replacement is due");
        assert_eq!((waited, spawns(&actions)), (RECYCLE_AFTER, vec![(0, OLD)]));
        world.ready_all();
    }
}

#[test]
fn a_crash_of_a_worker_that_was_to_be_replaced_is_still_one_replacement() {
    let mut world = World::serving(limits(1));
    let worn = world.in_slot(0);
    world.event(Event::Recycle(worn));
    assert_eq!(world.event(Event::Exited(worn)), [], "its replacement boots already");
    world.ready_all();
    assert_eq!((world.pool.workers().count(), world.pool.status()), (1, Status::Serving));
}

#[test]
fn a_stop_drains_then_kills_and_says_so_once() {
    let mut world = World::serving(limits(2));
    assert_eq!(drains(&world.event(Event::Drain)).len(), 2);
    assert_eq!(world.event(Event::Drain), []);
    assert_eq!(world.pool.status(), Status::Stopping);
    let id = world.first(|_| true).expect("two drain");
    assert_eq!(world.event(Event::Exited(id)), []);
    let (waited, actions) = world.tick().expect("the drain has a deadline");
    assert_eq!((waited, kills(&actions).len()), (limits(2).drain_timeout, 1));
    assert_eq!(world.reap_all(), [Action::Retired(OLD), Action::Stop]);
    assert_eq!(world.event(Event::Reload(NEW)), []);
    assert_eq!(world.event(Event::Kill), []);
    assert_eq!(world.pool.next_deadline(), None);
}

#[test]
fn a_stop_gives_every_worker_its_own_configured_time_however_long() {
    let drain_timeout = OLD_AGE * 3;
    let mut world = World::serving(Limits { drain_timeout, ..limits(1) });
    world.event(Event::Drain);
    assert_eq!(world.tick().expect("the drain has a deadline").0, drain_timeout);
}

#[test]
fn a_stop_kills_what_has_not_started_and_replaces_nobody() {
    let mut world = World::serving(limits(1));
    world.event(Event::Reload(NEW));
    let boots = world.first(|p| !p.ready).expect("one boots");
    let actions = world.event(Event::Drain);
    assert_eq!((kills(&actions), drains(&actions).len()), (vec![boots], 1));
    let drains = world.first(|p| p.drained).expect("one drains");
    assert_eq!(spawns(&world.event(Event::Exited(drains))), []);
    assert!(world.reap_all().contains(&Action::Stop));
}

#[test]
fn a_kill_waits_for_nobody() {
    let mut world = World::serving(limits(2));
    world.event(Event::Drain);
    assert_eq!(kills(&world.event(Event::Kill)).len(), 2);
    assert_eq!(world.event(Event::Kill), []);
    assert!(world.reap_all().contains(&Action::Stop));
}

#[test]
fn an_empty_pool_stops_at_once() {
    assert_eq!(World::new(limits(1)).event(Event::Drain), [Action::Stop]);
}

#[test]
fn news_of_workers_that_are_gone_or_on_their_way_out_changes_nothing() {
    let mut world = World::serving(limits(1));
    for event in [Event::Ready(WorkerId(77)), Event::Exited(WorkerId(77)), Event::Recycle(WorkerId(77))] {
        assert_eq!(world.event(event), []);
    }
    world.event(Event::Reload(NEW));
    world.ready_all();
    let old = world.first(|p| p.drained).expect("it drains");
    assert_eq!(world.event(Event::Ready(old)), []);
    assert_eq!(world.event(Event::Recycle(old)), []);
    assert!(matches!(world.pool.worker(old).map(|w| w.state), Some(State::Draining { .. })));
}

#[test]
fn pools_that_share_ids_never_use_one_twice() {
    let (mut ids, now) = (Ids::after(41), Instant::now());
    let mut all = Vec::new();
    for seed in 0..3 {
        all.extend(Pool::new(limits(2), seed, now).handle(Event::Reload(OLD), now, &mut ids));
    }
    let ids: Vec<u64> =
        all.iter().filter_map(|a| if let Action::Spawn { worker, .. } = a { Some(worker.0) } else { None }).collect();
    assert_eq!(ids, [42, 43, 44, 45, 46, 47]);
}

#[test]
fn no_number_makes_it_panic() {
    for (duration, count) in [(Duration::ZERO, 0), (Duration::MAX, 3)] {
        let extreme = Limits {
            size: count,
            surge: count,
            ready_timeout: duration,
            drain_timeout: duration,
            probation: duration,
            backoff_min: duration,
            backoff_max: duration,
            budget: count,
            budget_window: duration,
            reset_after: duration,
            tries: count,
        };
        let (mut ids, mut now) = (Ids::default(), Instant::now());
        let mut pool = Pool::new(extreme, 1, now);
        pool.handle(Event::Reload(OLD), now, &mut ids);
        for worker in 1..20 {
            pool.handle(Event::Ready(WorkerId(worker)), now, &mut ids);
            pool.handle(Event::Exited(WorkerId(worker)), now, &mut ids);
            now = pool.next_deadline().filter(|at| *at < now + Duration::from_secs(60)).unwrap_or(now);
        }
        pool.handle(Event::Drain, now, &mut ids);
    }
}
