use std::fs::{self, File};
use std::time::Duration;

use http::Method;

use super::*;

fn entry() -> Entry {
    Entry {
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_510_375_123),
        begun: Instant::now(),
        method: Method::GET,
        target: "/a?b=\"c\"".to_owned(),
        version: Version::HTTP_11,
        referer: Some("http://example.com/".to_owned()),
        user_agent: None,
        status: Some(StatusCode::NOT_FOUND),
        length: None,
        sent: 17,
        given: true,
    }
}

fn identity() -> Identity {
    Identity { service: "hello".to_owned(), slot: 3 }
}

#[test]
fn the_combined_format_is_what_its_readers_expect() {
    let mut text = Vec::new();
    line::combined("127.0.0.1", &entry(), &mut text);
    assert_eq!(
        String::from_utf8_lossy(&text),
        "127.0.0.1 - - [24/Nov/2026:08:52:55 +0000] \"GET /a?b=\\x22c\\x22 HTTP/1.1\" 404 17 \
         \"http://example.com/\" \"-\"\n"
    );
}

#[test]
fn a_line_of_json_has_every_field() {
    let mut text = Vec::new();
    let took = Duration::from_micros(1500);
    line::json(&identity(), "127.0.0.1", &entry(), End::Complete, took, &mut text);
    let object: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let wanted = serde_json::json!({
        "time": "2026-11-24T08:52:55.123Z",
        "service": "hello",
        "slot": 3,
        "client": "127.0.0.1",
        "method": "GET",
        "target": "/a?b=\"c\"",
        "protocol": "HTTP/1.1",
        "status": 404,
        "bytes": 17,
        "duration_ms": 1.5,
        "referer": "http://example.com/",
    });
    assert_eq!(object, wanted);
    text.clear();
    let unanswered = Entry { status: None, ..entry() };
    line::json(&identity(), "127.0.0.1", &unanswered, End::Cut, took, &mut text);
    let object: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!((&object["status"], &object["cut"]), (&499.into(), &true.into()));
}

#[test]
fn what_a_client_sends_cannot_forge_a_line_or_reach_a_terminal() {
    assert_eq!(line::shown(b"a\"b\\ \x1b[2J\xff\n", 100), "a\"b\\\\ \\x1b[2J\\xff\\x0a");
    assert_eq!(line::shown(&[b'x'; 2000], 1024).len(), 1024 + 3);
    let agent = line::shown(b"x\" 200 0 \"-\" \"", 100);
    let mut text = Vec::new();
    line::combined("::1", &Entry { user_agent: Some(agent), ..entry() }, &mut text);
    assert_eq!(text.iter().filter(|byte| **byte == b'"').count(), 6);
}

#[test]
fn lines_come_to_the_file_and_then_to_the_new_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    let open = |path| File::create(path).expect("a file").into();
    let log = AccessLog::start(identity(), AccessFormat::Json, open(&one)).expect("a thread");
    log.write(|to| to.extend_from_slice(b"first\n"));
    log.flush();
    assert_eq!(fs::read(&one).expect("readable"), b"first\n");
    log.replace(open(&two));
    log.write(|to| to.extend_from_slice(b"second\n"));
    log.flush();
    assert_eq!(fs::read(&one).expect("readable"), b"first\n");
    assert_eq!(fs::read(&two).expect("readable"), b"second\n");
}

#[test]
fn a_disk_that_takes_nothing_holds_nobody_up() {
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let log = AccessLog::start(identity(), AccessFormat::Json, full.into()).expect("a thread");
    let since = Instant::now();
    for _ in 0..100_000 {
        log.write(|to| to.extend_from_slice(&[b'x'; 100]));
    }
    log.flush();
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
}
