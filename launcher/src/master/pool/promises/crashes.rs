//! What failures cost, whom they are blamed on, and where they lead.

use super::*;

#[test]
fn a_worker_that_is_not_ready_in_time_is_killed_and_its_replacement_does_not_wait_for_the_reaper() {
    let mut world = World::new(limits(1));
    world.event(Event::Reload(OLD));
    let (waited, actions) = world.tick().expect("a starting worker arms a timer");
    assert_eq!(waited, limits(1).ready_timeout);
    assert_eq!(kills(&actions), [WorkerId(1)]);
    assert_eq!(spawns(&actions), [(0, OLD)]);
    assert_eq!(world.pool.restarts(Slot(0)), 1);
}

#[test]
fn a_ready_that_arrives_with_the_deadline_is_in_time() {
    let mut world = World::new(limits(1));
    world.event(Event::Reload(OLD));
    world.now = world.pool.next_deadline().expect("armed");
    assert_eq!(world.event(Event::Ready(WorkerId(1))), [Action::Promoted(OLD)]);
}

#[test]
fn after_a_standstill_of_the_master_a_starting_worker_gets_more_time_once() {
    let mut world = World::new(limits(1));
    world.event(Event::Reload(OLD));
    world.now += limits(1).ready_timeout + STALL + Duration::from_secs(1);
    assert_eq!(world.event(Event::Tick), []);
    world.now += STALL * 3;
    assert_eq!(kills(&world.event(Event::Tick)), [WorkerId(1)]);
}

#[test]
fn the_first_replacement_is_immediate_and_the_next_ones_wait_twice_as_long_each_up_to_the_longest() {
    let mut world = World::serving(Limits { budget: 100, ..limits(2) });
    let mut waits = Vec::new();
    for _ in 0..9 {
        let id = world.in_slot(0);
        let crashed = world.event(Event::Exited(id));
        if spawns(&crashed).is_empty() {
            let (waited, actions) = world.tick().expect("the replacement is due");
            assert_eq!(spawns(&actions), [(0, OLD)]);
            waits.push(waited.as_millis());
        } else {
            assert_eq!(spawns(&crashed), [(0, OLD)]);
            waits.push(0);
        }
        world.ready_all();
    }
    assert_eq!(waits[0], 0);
    for (waited, nominal) in waits[1..].iter().zip([100, 200, 400, 800, 1_600, 3_000, 3_000, 3_000]) {
        assert!((nominal * 8 / 10..=nominal * 12 / 10).contains(waited), "{waits:?}");
    }
    let exact = waits[1..].iter().zip([100, 200, 400, 800, 1_600, 3_000, 3_000, 3_000]).filter(|(w, n)| *w == n);
    assert!(exact.count() < 8, "no jitter: {waits:?}");
}

#[test]
fn workers_that_die_together_are_one_incident_and_come_back_together() {
    let mut world = World::serving(limits(16));
    let mut actions = Vec::new();
    for slot in 0..16 {
        let id = world.first(|p| p.ready && p.slot == Slot(slot)).expect("it serves");
        actions.extend(world.event(Event::Exited(id)));
    }
    assert_eq!(spawns(&actions), [(0, OLD)], "the first at once");
    let (waited, actions) = world.tick().expect("the others are due");
    assert!(waited <= Duration::from_millis(120), "{waited:?}");
    assert_eq!(spawns(&actions).len(), 15);
    assert_eq!(world.pool.status(), Status::Degraded);
}

#[test]
fn a_worker_that_stayed_ready_clears_the_count() {
    let mut world = World::serving(Limits { budget: 100, ..limits(1) });
    for _ in 0..4 {
        let id = world.in_slot(0);
        world.event(Event::Exited(id));
        if world.first(|p| p.up()).is_none() {
            world.tick();
        }
        world.ready_all();
    }
    world.now += limits(1).reset_after;
    let id = world.in_slot(0);
    assert_eq!(spawns(&world.event(Event::Exited(id))), [(0, OLD)]);
}

#[test]
fn the_budget_slides_so_that_slow_crashes_never_exhaust_it() {
    let mut world = promoted(Limits { probation: Duration::from_secs(3_600), tries: 100, ..limits(1) });
    for _ in 0..40 {
        world.pass(13_000);
        let id = world.in_slot(0);
        let mut actions = world.event(Event::Exited(id));
        if spawns(&actions).is_empty() {
            actions.extend(world.tick().expect("the replacement is due").1);
        }
        assert!(!actions.contains(&rolled_back(NEW, RollbackReason::Crashed)), "5 in 65 s");
        world.ready_all();
    }
}

#[test]
fn a_crash_loop_within_probation_returns_to_the_previous_generation() {
    let mut world = promoted(limits(3));
    let actions = crash_loop(&mut world, 0, |a| matches!(a, Action::RolledBack { .. }));
    assert!(actions.contains(&rolled_back(NEW, RollbackReason::Crashed)));
    assert_eq!(world.pool.restarts(Slot(0)), limits(3).tries, "as many crashes as a new generation has tries");
    assert_eq!(spawns(&actions).iter().filter(|(_, g)| *g == OLD).count(), 3, "in a hurry: all at once");
    let rest: Vec<WorkerId> = world.alive.iter().filter(|(_, p)| p.generation == NEW).map(|(id, _)| *id).collect();
    assert_eq!(rest.len(), 2, "those who have not crashed serve on");
    let first = world.first(|p| p.generation == OLD).expect("one boots");
    let actions = world.event(Event::Ready(first));
    assert_eq!(actions[0], Action::Promoted(OLD));
    assert_eq!(drains(&actions), rest);
    world.ready_all();
    let actions = world.reap_all();
    assert!(actions.contains(&Action::Retired(NEW)), "nothing returns to a generation that crashed");
    assert_eq!(world.pool.status(), Status::Serving);
    assert_eq!(world.pool.next_deadline(), None);
}

#[test]
fn a_budget_smaller_than_the_tries_ends_probation_earlier() {
    let mut world = promoted(Limits { budget: 1, ..limits(3) });
    crash_loop(&mut world, 0, |a| matches!(a, Action::RolledBack { .. }));
    assert_eq!(world.pool.restarts(Slot(0)), 2, "as many crashes as the budget allows, and one");
}

#[test]
fn a_generation_whose_workers_live_for_seconds_does_not_outlive_its_probation_between_two_crashes() {
    for (lifetime, size) in [(3_000, 1), (3_000, 4), (9_000, 1)] {
        let mut world = promoted(limits(size));
        let mut actions = Vec::new();
        for _ in 0..limits(size).tries {
            world.pass(lifetime);
            let id = world.in_slot(0);
            actions.extend(world.event(Event::Exited(id)));
            while world.first(|p| p.up() && !p.ready).is_none() {
                actions.extend(world.tick().expect("a replacement is due").1);
            }
            actions.extend(world.ready_all());
        }
        assert!(actions.contains(&rolled_back(NEW, RollbackReason::Crashed)), "after {lifetime} ms each");
        assert_eq!(world.pool.serving(), Some(OLD));
    }
}

#[test]
fn a_crash_after_a_whole_probation_without_one_is_not_counted_for_it() {
    let mut world = promoted(limits(1));
    for _ in 0..limits(1).tries + 1 {
        world.pass(10_000);
        let id = world.in_slot(0);
        world.event(Event::Exited(id));
        while world.first(|p| p.up() && !p.ready).is_none() {
            world.tick().expect("a replacement is due");
        }
        world.ready_all();
    }
    assert_eq!(world.pool.serving(), Some(NEW));
}

#[test]
fn the_return_to_a_generation_that_has_served_is_not_given_up() {
    let mut world = promoted(limits(1));
    crash_loop(&mut world, 0, |a| matches!(a, Action::RolledBack { .. }));
    let mut longest = Duration::ZERO;
    for _ in 0..20 {
        let id = world.first(|p| p.generation == OLD).expect("it is tried");
        let mut actions = world.event(Event::Exited(id));
        let mut waited = Duration::ZERO;
        while world.first(|p| p.generation == OLD).is_none() {
            let (longer, more) = world.tick().expect("the next try is due");
            waited += longer;
            actions.extend(more);
        }
        assert!(!actions.iter().any(|a| matches!(a, Action::RolledBack { .. })));
        longest = longest.max(waited);
    }
    assert!(longest >= limits(1).backoff_max.mul_f64(0.8), "tried in a hurry for ever: {longest:?}");
    assert!(world.failed);
    let id = world.first(|p| p.generation == OLD).expect("it is tried");
    let actions = world.event(Event::Ready(id));
    assert!(actions.contains(&Action::Promoted(OLD)) && actions.contains(&Action::Recovered));
}

#[test]
fn a_newer_generation_ends_a_return_and_its_failure_resumes_it() {
    let mut world = promoted(limits(1));
    crash_loop(&mut world, 0, |a| matches!(a, Action::RolledBack { .. }));
    let third = Generation(3);
    let actions = world.event(Event::Reload(third));
    assert!(actions.contains(&rolled_back(OLD, RollbackReason::Superseded)));
    assert_eq!(world.pool.previous(), Some(OLD), "the way back stays open");
    let mut all = Vec::new();
    while world.pool.incoming() == Some(third) {
        match world.first(|p| p.generation == third && p.up()) {
            Some(id) => all.extend(world.event(Event::Exited(id))),
            None => all.extend(world.tick().expect("the next try is due").1),
        }
    }
    assert!(all.contains(&rolled_back(third, RollbackReason::NotStarted)));
    assert_eq!(world.pool.incoming(), Some(OLD));
}

#[test]
fn after_probation_a_crash_loop_keeps_its_generation_at_the_longest_delay_for_ever() {
    let mut world = promoted(limits(2));
    world.now += limits(2).probation;
    for crash in 0..30 {
        let id = world.in_slot(0);
        let mut actions = world.event(Event::Exited(id));
        if spawns(&actions).is_empty() {
            let (waited, due) = world.tick().expect("the replacement is due");
            actions.extend(due);
            assert!(crash < 6 || waited >= limits(2).backoff_max.mul_f64(0.8), "{crash}: {waited:?}");
        }
        assert_eq!(spawns(&actions), [(0, NEW)]);
        assert!(!world.failed, "slot 1 serves");
        world.ready_all();
    }
    assert_eq!(world.pool.serving(), Some(NEW));
}

#[test]
fn with_the_budget_spent_and_nobody_ready_the_service_has_failed_until_somebody_is() {
    let mut world = World::serving(limits(1));
    let actions = crash_loop(&mut world, 0, |a| *a == Action::Failed);
    assert!(!actions.iter().any(|a| matches!(a, Action::RolledBack { .. } | Action::Recovered)));
    assert_eq!(world.pool.status(), Status::Failed);
    let (_, actions) = world.tick().expect("it is tried again");
    assert_eq!(spawns(&actions), [(0, OLD)]);
    assert_eq!(world.ready_all(), [Action::Recovered]);
    assert_eq!(world.pool.status(), Status::Serving);
}

#[test]
fn a_generation_that_cannot_start_is_given_up_after_its_tries_and_the_old_one_is_untouched() {
    let mut world = World::serving(limits(2));
    world.event(Event::Reload(NEW));
    let mut all = Vec::new();
    let mut failures = 0;
    while world.pool.incoming().is_some() {
        match world.first(|p| p.generation == NEW) {
            Some(id) => {
                failures += 1;
                all.extend(world.event(Event::Exited(id)));
            }
            None => all.extend(world.tick().expect("the next try is due").1),
        }
    }
    assert_eq!(failures, 3);
    assert_eq!(all.last_chunk(), Some(&[rolled_back(NEW, RollbackReason::NotStarted), Action::Retired(NEW)]));
    assert!(drains(&all).is_empty() && kills(&all).is_empty());
    assert_eq!(world.pool.status(), Status::Serving);
    assert_eq!(world.pool.next_deadline(), None);
}

#[test]
fn a_generation_that_hangs_at_its_start_is_given_up_with_that_reason() {
    let mut world = World::serving(limits(1));
    world.event(Event::Reload(NEW));
    let mut all = Vec::new();
    for _ in 0..20 {
        if world.pool.incoming().is_some() {
            all.extend(world.tick().expect("the next try is due").1);
            all.extend(world.reap_all());
        }
    }
    assert!(all.contains(&rolled_back(NEW, RollbackReason::NotReady)));
}

#[test]
fn a_generation_that_crashes_after_it_became_ready_but_before_its_promotion_is_given_up() {
    let mut world = World::serving(Limits { surge: 2, ..limits(2) });
    world.event(Event::Reload(NEW));
    let mut all = Vec::new();
    while world.pool.incoming().is_some() {
        match world.first(|p| p.generation == NEW && p.slot == Slot(0)) {
            Some(id) => {
                all.extend(world.event(Event::Ready(id)));
                all.extend(world.event(Event::Exited(id)));
            }
            None => all.extend(world.tick().expect("the next try is due").1),
        }
    }
    assert!(all.contains(&rolled_back(NEW, RollbackReason::Crashed)));
    assert_eq!(kills(&all).len(), 1, "the other one was still starting");
}

#[test]
fn a_first_generation_that_fails_leaves_an_idle_failed_pool_that_a_good_one_heals() {
    let mut world = World::new(limits(2));
    world.event(Event::Reload(OLD));
    let mut all = Vec::new();
    while world.pool.incoming().is_some() {
        match world.first(|p| p.up()) {
            Some(id) => all.extend(world.event(Event::Exited(id))),
            None => all.extend(world.tick().expect("the next try is due").1),
        }
    }
    all.extend(world.reap_all());
    assert!(all.contains(&rolled_back(OLD, RollbackReason::NotStarted)) && all.contains(&Action::Failed));
    assert!(all.contains(&Action::Retired(OLD)) && !all.contains(&Action::Stop));
    assert_eq!((world.pool.status(), world.pool.next_deadline()), (Status::Failed, None));
    assert_eq!(spawns(&world.event(Event::Reload(NEW))).len(), 2);
    let actions = world.ready_all();
    assert!(actions.contains(&Action::Recovered) && actions.contains(&Action::Promoted(NEW)));
}

#[test]
fn a_replacement_inherits_the_slot() {
    let mut world = World::serving(limits(3));
    let id = world.in_slot(1);
    assert_eq!(spawns(&world.event(Event::Exited(id))), [(1, OLD)]);
}

#[test]
fn a_rollback_that_an_operator_asked_for_becomes_urgent_when_the_crash_loop_is_seen() {
    let mut world = promoted(limits(2));
    assert_eq!(spawns(&world.event(Event::Rollback(OLD))), [(0, OLD)], "considerate of those who serve");
    let actions = {
        let mut all = Vec::new();
        while !all.contains(&rolled_back(NEW, RollbackReason::Crashed)) {
            match world.first(|p| p.generation == NEW && p.up() && p.slot == Slot(1)) {
                Some(id) => all.extend(world.event(Event::Exited(id))),
                None => all.extend(world.tick().expect("the replacement is due").1),
            }
        }
        all
    };
    assert!(spawns(&actions).contains(&(1, OLD)), "all at once");
    let first = world.first(|p| p.generation == OLD).expect("it boots");
    assert_eq!(world.event(Event::Ready(first))[0], Action::Promoted(OLD));
}

#[test]
fn a_worker_that_dies_is_replaced_before_it_is_gone_and_blamed_once() {
    let mut world = World::serving(limits(2));
    let id = world.in_slot(1);
    assert_eq!(spawns(&world.event(Event::Dying(id))), [(1, OLD)], "at once");
    assert_eq!(world.event(Event::Dying(id)), [], "it said so twice");
    assert_eq!((world.pool.restarts(Slot(1)), world.pool.status()), (1, Status::Degraded));
    world.ready_all();
    assert_eq!(world.pool.status(), Status::Serving);
    assert_eq!(world.event(Event::Exited(id)), []);
    assert_eq!(world.pool.restarts(Slot(1)), 1);
    assert_eq!(world.pool.next_deadline(), None);
}

#[test]
fn a_worker_that_says_that_it_dies_and_does_not_is_killed() {
    let mut world = World::serving(limits(1));
    let id = world.in_slot(0);
    world.event(Event::Dying(id));
    world.ready_all();
    let (waited, actions) = world.tick().expect("its end is waited for");
    assert_eq!((waited, kills(&actions)), (LAST_WORDS, vec![id]));
    assert_eq!(world.pool.restarts(Slot(0)), 1);
}

#[test]
fn a_worker_that_leaves_may_die_of_a_signal() {
    let mut world = World::serving(limits(1));
    let id = world.in_slot(0);
    world.event(Event::Reload(NEW));
    world.ready_all();
    assert_eq!(world.event(Event::Dying(id)), [], "nothing is to be replaced");
    assert_eq!(world.pool.restarts(Slot(0)), 0);
}
