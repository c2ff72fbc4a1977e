//! Bodies stream both ways: their size is no matter of memory.

use std::thread;

use crate::harness::http::Connection;
use crate::harness::{Launcher, Site, process};

const GIB: u64 = 1 << 30;

/// What a worker of the kitchen may have resident at most while a body of 1 GiB passes through it.
const MOST_RESIDENT_KIB: u64 = 160 << 10;

fn kitchen(site: &Site) -> Launcher {
    site.kitchen();
    site.run(
        "
services:
  kitchen:
    plugin: kitchen.wasm
    listen: 127.0.0.1:0
    workers: 1
    wasm: { cpu_time: 60s }
",
    )
}

fn assert_bounded(launcher: &Launcher) {
    let peak = process::peak_resident(launcher.workers(1)[0]);
    assert!(peak < MOST_RESIDENT_KIB, "the worker had {peak} KiB resident");
}

#[test]
fn one_gibibyte_streams_up_in_bounded_memory() {
    let site = Site::new();
    let launcher = kitchen(&site);
    let mut connection = Connection::open(&launcher.address("kitchen")).expect("connect");
    connection.send_head("POST", "/upload", &[("content-length", &GIB.to_string())]).expect("send the head");
    let part = vec![0u8; 1 << 20];
    for _ in 0..GIB >> 20 {
        connection.send(&part).expect("send a part of the body");
    }
    let answer = connection.response("POST").expect("an answer");
    assert_eq!((answer.status(), answer.text().split(' ').next()), (200, Some("1073741824")), "{}", answer.text());
    assert_bounded(&launcher);
}

#[test]
fn one_gibibyte_streams_down_in_bounded_memory() {
    let site = Site::new();
    let launcher = kitchen(&site);
    let mut connection = Connection::open(&launcher.address("kitchen")).expect("connect");
    connection.send_head("GET", &format!("/download?bytes={GIB}"), &[]).expect("send the head");
    let head = connection.head("GET").expect("a head");
    assert_eq!(head.header("content-length"), Some("1073741824"));
    let (mut at, mut wrong) = (0u64, 0u64);
    connection
        .body(&head, |part| {
            wrong += part.iter().zip(at..).filter(|(byte, at)| u64::from(**byte) != at % 251).count() as u64;
            at += part.len() as u64;
        })
        .expect("the whole body");
    assert_eq!((at, wrong), (GIB, 0));
    assert_bounded(&launcher);
}

#[test]
fn a_body_is_echoed_while_it_is_sent() {
    let site = Site::new();
    let launcher = kitchen(&site);
    let mut connection = Connection::open(&launcher.address("kitchen")).expect("connect");
    connection.send_head("POST", "/echo", &[("transfer-encoding", "chunked")]).expect("send the head");
    connection.send(b"6\r\nfirst \r\n").expect("send a chunk");
    let head = connection.head("POST").expect("a head before the body ends");
    let mut sender = connection.sender().expect("a second handle");
    // The rest is sent only once the first part is back.
    let mut echoed = Vec::new();
    connection
        .body(&head, |part| {
            if echoed.is_empty() {
                sender.write_all(b"6\r\nsecond\r\n0\r\n\r\n").expect("send the rest");
            }
            echoed.extend_from_slice(part);
        })
        .expect("the whole body");
    assert_eq!(String::from_utf8_lossy(&echoed), "first second");
}

#[test]
fn a_large_body_is_echoed_byte_for_byte() {
    const SIZE: u64 = 64 << 20;
    let site = Site::new();
    let launcher = kitchen(&site);
    let mut connection = Connection::open(&launcher.address("kitchen")).expect("connect");
    connection.send_head("POST", "/echo", &[("content-length", &SIZE.to_string())]).expect("send the head");
    let mut sender = connection.sender().expect("a second handle");
    let writer = thread::spawn(move || {
        for part in 0..SIZE >> 16 {
            let bytes: Vec<u8> = (0..1u64 << 16).map(|at| ((part << 16 | at) % 249) as u8).collect();
            sender.write_all(&bytes).expect("send a part");
        }
    });
    let head = connection.head("POST").expect("a head");
    let (mut at, mut wrong) = (0u64, 0u64);
    connection
        .body(&head, |part| {
            wrong += part.iter().zip(at..).filter(|(byte, at)| u64::from(**byte) != at % 249).count() as u64;
            at += part.len() as u64;
        })
        .expect("the whole body");
    writer.join().expect("the whole body was sent");
    assert_eq!((at, wrong), (SIZE, 0));
    assert_bounded(&launcher);
}

#[test]
fn a_client_that_leaves_in_the_middle_costs_nobody_else() {
    let site = Site::new();
    let launcher = kitchen(&site);
    let address = launcher.address("kitchen");
    let worker = launcher.workers(1);
    for _ in 0..20 {
        let mut connection = Connection::open(&address).expect("connect");
        connection.send_head("GET", &format!("/download?bytes={GIB}"), &[]).expect("send the head");
        connection.head("GET").expect("a head");
        let mut upload = Connection::open(&address).expect("connect");
        upload.send_head("POST", "/upload", &[("content-length", "1000000")]).expect("send the head");
        upload.send(b"only the beginning").expect("send a part");
    }
    assert_eq!(crate::harness::http::fetch(&address, "/hello").text(), "hello\n");
    assert!(process::runs(worker[0]), "the worker died\n{}", launcher.story());
    assert_bounded(&launcher);
}
