//! Every example starts and answers as it is written, but for its address and its directory.

use std::fs;

use crate::harness::http::fetch;
use crate::harness::{Site, guests};

#[test]
fn every_example_starts_and_answers() {
    guests::examples();
    let mut examples: Vec<_> = fs::read_dir(guests::project().join("examples"))
        .expect("read the examples")
        .map(|entry| entry.expect("read the examples").path().join("config.yaml"))
        .filter(|config| config.exists())
        .collect();
    examples.sort();
    assert!(!examples.is_empty(), "there is no example");
    let site = Site::new();
    for (example, number) in examples.iter().zip(1..) {
        let yaml = fs::read_to_string(example).expect("read the configuration");
        // Each has an address of loopback to itself: services name each other's ports.
        let address = format!("127.77.{}.{number}", std::process::id() % 250);
        let yaml = yaml.replace("127.0.0.1", &address);
        let yaml = yaml.replace("../../", &format!("{}/", guests::project().display()));
        let mut launcher = site.run(&yaml);
        let services = yaml.matches("plugin:").count();
        for listening in launcher.wait_many(0, services, "listening", |event| event.is("listening")) {
            let response = fetch(listening.text("address"), "/");
            assert!(response.status() < 500, "{}: {} {}", example.display(), response.status(), response.text());
        }
        launcher.stop();
    }
}
