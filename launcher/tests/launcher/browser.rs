//! What an author sees in a browser that is open beside the editor, and that nobody touches.

use std::fs;

use crate::harness::browser::Browser;
use crate::harness::projects::{develop, project};
use crate::harness::{Site, guests};

#[test]
fn a_page_follows_the_source_through_an_edit_a_mistake_and_its_correction() {
    let site = Site::new();
    let project = project(&site, "c", "shop");
    let source = project.join("plugin.c");
    let original = fs::read_to_string(&source).expect("the source");
    let mut launcher = develop(&project, "config.yaml", &[]);
    let address = launcher.address("shop");
    // Perhaps before the first build is done: then the page that says so becomes the plugin's.
    let browser = Browser::open(&format!("http://{address}/"));
    browser.wait("the page", |text| text == "Hello from C!");
    let edited = original.replace("Hello from C!", "Good morning from C!");
    fs::write(&source, &edited).expect("save");
    browser.wait("the edit", |text| text == "Good morning from C!");
    fs::write(&source, format!("{edited}int x = ;\n")).expect("save");
    browser.wait("the mistake", |text| text.contains("expected expression"));
    assert!(browser.text().contains("int x = ;"), "{}", browser.text());
    fs::write(&source, original.replace("Hello from C!", "Good evening from C!")).expect("save");
    browser.wait("the correction", |text| text == "Good evening from C!");
    // A mistake that is taken back: nothing new serves, and the page is as it was.
    let corrected = fs::read_to_string(&source).expect("the source");
    fs::write(&source, format!("{corrected}int y = ;\n")).expect("save");
    browser.wait("the second mistake", |text| text.contains("int y = ;"));
    fs::write(&source, corrected).expect("save");
    browser.wait("the page without it", |text| text == "Good evening from C!");
    launcher.stop();
}

#[test]
fn a_page_that_came_before_the_first_good_build_becomes_the_plugins() {
    let site = Site::new();
    let project = project(&site, "c", "shop");
    let source = project.join("plugin.c");
    let original = fs::read_to_string(&source).expect("the source");
    fs::write(&source, format!("{original}int x = ;\n")).expect("break it");
    let mut launcher = develop(&project, "config.yaml", &[]);
    let browser = Browser::open(&format!("http://{}/", launcher.address("shop")));
    browser.wait("the mistake", |text| text.contains("int x = ;"));
    fs::write(&source, original).expect("save");
    browser.wait("the page", |text| text == "Hello from C!");
    launcher.stop();
}

#[test]
fn a_panic_shows_its_backtrace_on_the_page() {
    let site = Site::new();
    let plugin = guests::native("misbehave");
    let mut launcher =
        site.develop(&format!("services: {{ bad: {{ plugin: {}, listen: 127.0.0.1:0 }} }}", plugin.display()));
    launcher.wait("serving", |event| event.is("serving"));
    let browser = Browser::open(&format!("http://{}/panic", launcher.address("bad")));
    browser.wait("the backtrace", |text| text.contains("plugins/misbehave/src/lib.rs:"));
    assert!(browser.text().contains("it panics as it was told to"), "{}", browser.text());
    launcher.stop();
}
