//! The journal with a file, and what becomes of the file.

use std::fs;
use std::path::Path;
use std::time::Instant;

use super::super::pool::{Generation, Slot, WorkerId};
use super::feed::Wanted;
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn journal(path: &Path, max_size: u64, keep: u32) -> Journal {
    let file = Some(config::LogFile { path: path.to_owned(), max_size, keep });
    Journal::start(Settings { format: LogFormat::Pretty, level: Level::Info, file, terminal: false, terse: false })
        .expect("a thread starts")
}

fn worker() -> WorkerName {
    WorkerName { service: "hello".into(), worker: WorkerId(1), slot: Slot(0), generation: Generation(1), pid: 1 }
}

fn print(journal: &Journal, line: &str) {
    journal.output(&worker(), Stream::Stdout, line.as_bytes(), false);
}

/// Waits for a fact of the history.
fn wait(journal: &Journal, what: &str, fits: impl Fn(&Fact) -> bool) {
    let wanted = Wanted { facts: Some(Level::Debug), output: false, services: None };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let batch = journal.feed().read(0, &wanted, usize::MAX);
        if batch.records.iter().any(|record| matches!(&record.what, What::Fact(fact) if fits(fact))) {
            return;
        }
        assert!(Instant::now() < deadline, "no {what} in {:?}", batch.records);
        std::thread::yield_now();
    }
}

#[test]
fn everything_is_in_the_file_without_colours() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("launcher.log");
    let journal = journal(&path, 1 << 20, 3);
    journal.record(&Fact::Trouble { reason: "yellow on a terminal".to_owned() });
    print(&journal, "from a worker \x1b[31m");
    journal.record(&Fact::ServiceAdded { service: "hello".into() });
    journal.record(&Fact::Superseded { service: "hello".into(), generation: Generation(1) });
    journal.say("for people");
    journal.finish();
    let text = fs::read_to_string(&path).expect("the file");
    assert_eq!(text, "yellow on a terminal\nhello/0 | from a worker \\u{1b}[31m\nhello: added\n");
}

#[test]
fn a_full_file_is_rotated_between_lines_and_the_oldest_goes() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("launcher.log");
    let journal = journal(&path, 4096, 3);
    for number in 0..2000 {
        print(&journal, &format!("line {number:06} {}", "x".repeat(40)));
    }
    journal.finish();
    let mut numbers = Vec::new();
    for name in ["launcher.log.3", "launcher.log.2", "launcher.log.1", "launcher.log"] {
        let text = fs::read_to_string(directory.path().join(name)).expect(name);
        assert!(text.len() <= 4096 && text.ends_with('\n'), "{name} has {} bytes", text.len());
        for line in text.lines() {
            let number = line.strip_prefix("hello/0 | line ").and_then(|rest| rest.split(' ').next());
            numbers.push(number.expect("a whole line").parse::<u32>().expect("a number"));
        }
    }
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "none is missing: {numbers:?}");
    assert_eq!(numbers.last(), Some(&1999));
    assert!(!directory.path().join("launcher.log.4").exists());
}

#[test]
fn a_file_that_was_moved_away_is_followed_until_it_is_opened_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, moved) = (directory.path().join("launcher.log"), directory.path().join("launcher.log-yesterday"));
    let journal = journal(&path, 1 << 20, 3);
    print(&journal, "one");
    journal.finish();
    fs::rename(&path, &moved).expect("moved");
    print(&journal, "two");
    journal.finish();
    journal.reopen();
    wait(&journal, "reopened", |fact| matches!(fact, Fact::LogReopened { .. }));
    print(&journal, "three");
    journal.finish();
    assert_eq!(fs::read_to_string(&moved).expect("the old file"), "hello/0 | one\nhello/0 | two\n");
    let new = fs::read_to_string(&path).expect("the new file");
    assert!(new.starts_with("the log ") && new.ends_with("was opened anew\nhello/0 | three\n"), "{new}");
}

#[test]
fn a_full_disk_is_told_once_and_stops_nobody() {
    let journal = journal(Path::new("/dev/full"), 4096, 3);
    let since = Instant::now();
    for number in 0..100_000 {
        print(&journal, &format!("line {number}"));
    }
    assert!(since.elapsed() < Duration::from_secs(5), "it waits for the disk");
    wait(&journal, "failure", |fact| matches!(fact, Fact::LogFailed { .. }));
    let wanted = Wanted { facts: Some(Level::Info), output: false, services: None };
    let facts = journal.feed().read(0, &wanted, usize::MAX).records;
    let failures = facts.iter().filter(|record| matches!(&record.what, What::Fact(Fact::LogFailed { .. })));
    assert_eq!(failures.count(), 1, "{facts:?}");
}

#[test]
fn a_file_that_cannot_be_opened_gets_its_lines_once_it_can() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("later/launcher.log");
    let journal = journal(&path, 4096, 3);
    print(&journal, "early");
    wait(&journal, "failure", |fact| matches!(fact, Fact::LogFailed { .. }));
    fs::create_dir(directory.path().join("later")).expect("made");
    journal.reopen();
    wait(&journal, "reopened", |fact| matches!(fact, Fact::LogReopened { .. }));
    journal.finish();
    let text = fs::read_to_string(&path).expect("the file");
    assert!(text.contains("hello/0 | early\n"), "{text}");
}

#[test]
fn a_link_in_the_files_place_is_not_followed() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, victim) = (directory.path().join("launcher.log"), directory.path().join("victim"));
    fs::write(&victim, "precious").expect("written");
    std::os::unix::fs::symlink(&victim, &path).expect("linked");
    let journal = journal(&path, 4096, 3);
    print(&journal, "early");
    wait(&journal, "failure", |fact| matches!(fact, Fact::LogFailed { .. }));
    assert_eq!(fs::read_to_string(&victim).expect("readable"), "precious");
}

#[test]
fn a_new_file_is_not_for_everybody() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("launcher.log");
    let journal = journal(&path, 4096, 3);
    print(&journal, "one");
    journal.finish();
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o137, 0);
}
