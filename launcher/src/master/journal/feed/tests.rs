use std::future::Future;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::super::super::pool::{Generation, Slot, WorkerId};
use super::super::fact::{Stream, WorkerName};
use super::super::record::Line;
use super::*;

fn say(feed: &Feed, service: &str, text: &str) -> u64 {
    let worker =
        WorkerName { service: service.into(), worker: WorkerId(1), slot: Slot(0), generation: Generation(1), pid: 1 };
    let line = Line { worker, stream: Stream::Stdout, text: text.into(), continues: false };
    feed.publish(What::Line(line)).seq
}

fn tell(feed: &Feed, service: &str) -> u64 {
    feed.publish(What::Fact(Fact::ServiceRecovered { service: service.into() })).seq
}

fn whisper(feed: &Feed, service: &str) -> u64 {
    feed.publish(What::Fact(Fact::Superseded { service: service.into(), generation: Generation(1) })).seq
}

fn everything() -> Wanted {
    Wanted { facts: Some(Level::Debug), output: true, services: None }
}

fn only(service: &str) -> Wanted {
    Wanted { services: Some(vec![service.into()]), ..everything() }
}

fn seqs(batch: &Batch) -> Vec<u64> {
    batch.records.iter().map(|record| record.seq).collect()
}

#[test]
fn facts_and_lines_of_all_services_come_in_one_order() {
    let feed = Feed::new();
    for round in 0..50 {
        say(&feed, "a", "x");
        tell(&feed, "a");
        say(&feed, ["b", "c"][round % 2], "y");
    }
    let batch = feed.read(0, &everything(), 1000);
    assert_eq!(seqs(&batch), (1..=150).collect::<Vec<_>>());
    assert_eq!((batch.next, batch.missed), (150, 0));
    let ages: Vec<_> = batch.records.iter().map(|record| record.age).collect();
    assert!(ages.is_sorted(), "the clock goes forward");
}

#[test]
fn a_cursor_goes_on_where_it_stopped() {
    let feed = Feed::new();
    for _ in 0..10 {
        say(&feed, "a", "x");
        tell(&feed, "b");
    }
    let (mut cursor, mut seen) = (0, Vec::new());
    loop {
        let batch = feed.read(cursor, &everything(), 3);
        if batch.records.is_empty() {
            assert_eq!(batch.next, cursor);
            break;
        }
        cursor = batch.next;
        seen.extend(seqs(&batch));
    }
    assert_eq!(seen, (1..=20).collect::<Vec<_>>());
}

#[test]
fn a_follower_gets_what_it_wants_and_passes_over_the_rest() {
    let feed = Feed::new();
    let (a, b, fact, quiet) = (say(&feed, "a", "x"), say(&feed, "b", "x"), tell(&feed, "a"), whisper(&feed, "a"));
    feed.publish(What::Fact(Fact::Stopping { reason: String::new() }));
    assert_eq!(seqs(&feed.read(0, &only("a"), 9)), [a, fact, quiet]);
    assert_eq!(seqs(&feed.read(0, &Wanted { facts: Some(Level::Info), ..only("a") }, 9)), [a, fact]);
    assert_eq!(seqs(&feed.read(0, &Wanted { facts: None, ..everything() }, 9)), [a, b]);
    assert_eq!(seqs(&feed.read(0, &Wanted { output: false, ..only("a") }, 9)), [fact, quiet]);
    let nothing = feed.read(0, &only("nobody"), 9);
    assert_eq!((nothing.records.len(), nothing.next, nothing.missed), (0, 5, 0));
}

#[test]
fn a_flood_displaces_only_its_own_service() {
    let feed = Feed::new();
    let quiet = say(&feed, "quiet", "here");
    let fact = tell(&feed, "quiet");
    let count = 100_000;
    for _ in 0..count {
        say(&feed, "loud", "0123456789");
    }
    assert_eq!(seqs(&feed.read(0, &only("quiet"), 9)), [quiet, fact]);
    let loud = feed.read(0, &Wanted { facts: None, ..only("loud") }, usize::MAX);
    let bytes: usize = loud.records.iter().map(|record| record.weight()).sum();
    assert!(bytes <= LINES.bytes && bytes > LINES.bytes / 2, "{bytes} bytes are remembered");
    assert_eq!(loud.missed + loud.records.len() as u64, count);
}

#[test]
fn what_was_forgotten_is_counted_from_the_cursor_on() {
    let feed = Feed::new();
    let lines = Wanted { facts: None, ..everything() };
    for _ in 0..50_000 {
        say(&feed, "loud", "0123456789");
    }
    let batch = feed.read(0, &lines, 10);
    assert_eq!(batch.missed, batch.records[0].seq - 1);
    assert_eq!(feed.read(batch.next, &lines, 10).missed, 0, "told once");
    assert_eq!(feed.read(1000, &lines, 10).missed, batch.missed - 1000);
}

#[test]
fn what_was_forgotten_is_told_roughly_when_services_talk_in_turn() {
    let feed = Feed::new();
    for _ in 0..50_000 {
        say(&feed, "a", "0123456789");
        say(&feed, "b", "0123456789");
    }
    let wanted = Wanted { facts: None, ..only("a") };
    let first = feed.read(0, &wanted, 1).records[0].seq;
    assert_eq!(feed.read(0, &wanted, 1).missed, first / 2);
    // One that was there lately is told to a run's length; one that was away for long, more than it missed.
    let lately = feed.read(first - 1000, &wanted, 1).missed;
    assert!((500..500 + 32).contains(&lately), "{lately}");
}

#[test]
fn facts_are_bounded_by_number_and_by_bytes() {
    let feed = Feed::new();
    for _ in 0..2 * FACTS.records {
        tell(&feed, "a");
    }
    let batch = feed.read(0, &everything(), usize::MAX);
    assert_eq!((batch.records.len(), batch.missed), (FACTS.records, FACTS.records as u64));
    for _ in 0..200 {
        feed.publish(What::Fact(Fact::Trouble { reason: "x".repeat(32 << 10) }));
    }
    let batch = feed.read(0, &everything(), usize::MAX);
    let bytes: usize = batch.records.iter().map(|record| record.weight()).sum();
    assert!(bytes <= FACTS.bytes, "{bytes} bytes are remembered");
}

#[test]
fn the_last_records_are_exactly_those() {
    let feed = Feed::new();
    for _ in 0..10 {
        say(&feed, "a", "x");
        say(&feed, "b", "x");
        whisper(&feed, "a");
    }
    let all = seqs(&feed.read(0, &only("a"), usize::MAX));
    for count in [0, 1, 2, 7, 20, 100] {
        let cursor = feed.last(&only("a"), count);
        assert_eq!(seqs(&feed.read(cursor, &only("a"), usize::MAX)), all[all.len() - count.min(all.len())..]);
    }
    assert_eq!(feed.last(&only("nobody"), 5), 30, "nothing is wanted: only what is new");
    assert_eq!(Feed::new().last(&everything(), 5), 0);
}

#[test]
fn a_time_is_a_cursor() {
    let feed = Feed::new();
    say(&feed, "a", "x");
    tell(&feed, "a");
    let after = feed.read(0, &everything(), 9).records[1].time + Duration::from_millis(1);
    while SystemTime::now() < after {
        std::hint::spin_loop();
    }
    assert_eq!(feed.since(after), 2, "nothing since then");
    let third = say(&feed, "b", "x");
    assert_eq!(seqs(&feed.read(feed.since(after), &everything(), 9)), [third]);
    assert_eq!(feed.since(SystemTime::UNIX_EPOCH), 0);
}

#[test]
fn services_that_are_gone_are_forgotten_one_day() {
    let feed = Feed::new();
    let names: Vec<String> = (0..GONE + 2).map(|number| format!("service-{number}")).collect();
    for name in &names {
        say(&feed, name, "x");
        feed.publish(What::Fact(Fact::ServiceRemoved { service: name.as_str().into() }));
    }
    let lines = Wanted { facts: None, ..everything() };
    assert_eq!(feed.read(0, &lines, usize::MAX).records.len(), GONE);
    // One that came back is not among them.
    let back = &names[GONE];
    feed.publish(What::Fact(Fact::ServiceAdded { service: back.as_str().into() }));
    for _ in 0..GONE + 1 {
        for name in names.iter().filter(|name| *name != back) {
            feed.publish(What::Fact(Fact::ServiceRemoved { service: name.as_str().into() }));
        }
    }
    assert_eq!(feed.read(0, &Wanted { facts: None, ..only(back) }, 9).records.len(), 1);
}

#[test]
fn who_waits_is_woken_by_what_is_newer_than_the_cursor() {
    let feed = Feed::new();
    let mut cx = Context::from_waker(Waker::noop());
    let (mut one, mut two) = (Box::pin(feed.newer_than(0)), Box::pin(feed.newer_than(1)));
    assert!(one.as_mut().poll(&mut cx).is_pending() && two.as_mut().poll(&mut cx).is_pending());
    say(&feed, "a", "x");
    assert!(one.as_mut().poll(&mut cx).is_ready());
    assert!(two.as_mut().poll(&mut cx).is_pending(), "it knows that one");
    tell(&feed, "a");
    assert_eq!(two.as_mut().poll(&mut cx), Poll::Ready(()));
    assert!(Box::pin(feed.newer_than(1)).as_mut().poll(&mut cx).is_ready(), "it is there already");
}
