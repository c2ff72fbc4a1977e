//! What guests print is read line by line, marked, and never blocks them.

use crate::harness::Site;
use crate::harness::http::fetch;

const KITCHEN: &str = "
services:
  kitchen: { plugin: kitchen.wasm, listen: 127.0.0.1:0, workers: 1 }
";

#[test]
fn lines_of_a_guest_come_out_marked() {
    let site = Site::new();
    site.kitchen();
    let mut launcher = site.run(KITCHEN);
    fetch(&launcher.address("kitchen"), "/stdout");
    let lines = launcher.wait_lines(3, "line", |line| line.service == "kitchen" && line.text.starts_with("a line"));
    let worker = launcher.wait("ready", |event| event.is("ready")).number("worker");
    for (text, stream) in
        [("a line on stdout", "stdout"), ("a line on stderr", "stderr"), ("a line without an end", "stdout")]
    {
        let line = lines.iter().find(|line| line.text == text).unwrap_or_else(|| panic!("no {text:?} in {lines:?}"));
        assert_eq!((line.stream.as_str(), line.worker), (stream, worker), "{line:?}");
    }
    launcher.stop();
}

#[test]
fn a_guest_that_prints_much_is_not_blocked() {
    let site = Site::new();
    site.kitchen();
    let launcher = site.run(KITCHEN);
    let address = launcher.address("kitchen");
    // About 3 MB, fifty times what a pipe holds.
    assert_eq!(fetch(&address, "/chatter?lines=50000").text(), "50000\n");
    assert_eq!(fetch(&address, "/hello").text(), "hello\n");
}
