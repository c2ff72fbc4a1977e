//! A changed plugin is live a moment later and no request notices; a broken one changes nothing.

use std::fs;
use std::time::{Duration, Instant};

use crate::harness::http::{Connection, fetch};
use crate::harness::load::Connections;
use crate::harness::{Event, Launcher, Load, Site, guests};

const HELLO: &str = "
services:
  hello: { plugin: hello.wasm, listen: 127.0.0.1:0, workers: 2 }
";

/// Replaces version 1 of the plugin by version 2 in some way, under load on fresh connections.
fn replaced_under_load(site: &Site, yaml: &str, replace: impl FnOnce(&Site)) {
    let mut launcher = site.run(yaml);
    let load = Load::start(&launcher.address("hello"), "/", Connections::Fresh, 3);
    load.more(100);
    replace(site);
    load.first(&guests::greeting(2));
    launcher.wait("promoted", |event| event.is("promoted") && event.number("generation") > 1);
    load.more(200);
    let tally = load.stop();
    tally.assert_flawless();
    let texts: Vec<_> = tally.texts.keys().map(String::as_str).collect();
    assert_eq!(texts, [guests::greeting(1), guests::greeting(2)], "{}", tally.summary());
    assert_eq!(fetch(&launcher.address("hello"), "/").text(), guests::greeting(2));
    launcher.stop();
}

#[test]
fn a_renamed_file_goes_live_without_a_failed_request() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    replaced_under_load(&site, HELLO, |site| site.replace("hello.wasm", guests::hello(2)));
}

#[test]
fn a_file_rewritten_in_place_goes_live_without_a_failed_request() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    replaced_under_load(&site, HELLO, |site| {
        site.write("hello.wasm", guests::hello(2));
    });
}

#[test]
fn a_file_unlinked_and_linked_anew_goes_live_without_a_failed_request() {
    // What cargo does with its artifacts.
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    replaced_under_load(&site, HELLO, |site| {
        let built = site.write("deps/hello.wasm", guests::hello(2));
        fs::remove_file(site.path("hello.wasm")).expect("remove the plugin");
        fs::hard_link(built, site.path("hello.wasm")).expect("link the plugin");
    });
}

#[test]
fn a_file_removed_and_added_again_goes_live_without_a_failed_request() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let mut launcher = site.run(HELLO);
    let load = Load::start(&launcher.address("hello"), "/", Connections::Fresh, 3);
    load.more(100);
    fs::remove_file(site.path("hello.wasm")).expect("remove the plugin");
    load.more(300); // the old code serves on without its file
    site.write("hello.wasm", guests::hello(2));
    load.first(&guests::greeting(2));
    load.more(200);
    load.stop().assert_flawless();
    launcher.stop();
}

#[test]
fn a_swapped_symlink_goes_live_without_a_failed_request() {
    let site = Site::new();
    site.write("releases/1/hello.wasm", guests::hello(1));
    site.write("releases/2/hello.wasm", guests::hello(2));
    site.link("current", "releases/1");
    replaced_under_load(&site, &HELLO.replace("hello.wasm", "current/hello.wasm"), |site| {
        site.link("next", "releases/2");
        fs::rename(site.path("next"), site.path("current")).expect("swap the link");
    });
}

#[test]
fn a_file_behind_two_links_goes_live_without_a_failed_request() {
    // How Kubernetes mounts a ConfigMap: the file is a link through a link that is swapped.
    let site = Site::new();
    site.write("mount/..1/hello.wasm", guests::hello(1));
    site.link("mount/..data", "..1");
    site.link("mount/hello.wasm", "..data/hello.wasm");
    replaced_under_load(&site, &HELLO.replace("hello.wasm", "mount/hello.wasm"), |site| {
        site.write("mount/..2/hello.wasm", guests::hello(2));
        site.link("mount/..data_tmp", "..2");
        fs::rename(site.path("mount/..data_tmp"), site.path("mount/..data")).expect("swap the link");
        fs::remove_dir_all(site.path("mount/..1")).expect("remove the old directory");
    });
}

#[test]
fn a_replaced_directory_goes_live_without_a_failed_request() {
    let site = Site::new();
    site.write("release/hello.wasm", guests::hello(1));
    replaced_under_load(&site, &HELLO.replace("hello.wasm", "release/hello.wasm"), |site| {
        site.write("upload/hello.wasm", guests::hello(2));
        fs::rename(site.path("release"), site.path("old")).expect("move the old directory away");
        fs::rename(site.path("upload"), site.path("release")).expect("move the new directory in");
    });
}

#[test]
fn kept_connections_move_to_the_new_code_without_a_failed_request() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let launcher = site.run(HELLO);
    let load = Load::start(&launcher.address("hello"), "/", Connections::Kept, 4);
    load.more(200);
    site.replace("hello.wasm", guests::hello(2));
    load.first(&guests::greeting(2));
    load.more(500);
    load.stop().assert_flawless();
}

#[test]
fn an_atomic_replacement_is_live_within_150_ms() {
    let site = Site::alone();
    site.write("hello.wasm", guests::hello(1));
    let launcher = site.run(HELLO);
    let load = Load::start(&launcher.address("hello"), "/", Connections::Fresh, 1);
    load.more(20);
    let mut waits: Vec<_> = (2..9)
        .map(|version| {
            let mark = launcher.mark();
            let beside = site.write("hello.wasm.new", guests::hello(version));
            let replaced = Instant::now();
            fs::rename(beside, site.path("hello.wasm")).expect("replace the plugin");
            let wait = load.first(&guests::greeting(version)).duration_since(replaced);
            launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
            wait
        })
        .collect();
    load.stop().assert_flawless();
    waits.sort_unstable();
    println!("from the file to the first answer of its code: {waits:?}");
    assert!(waits[3] < Duration::from_millis(150), "{waits:?}\n{}", launcher.story());
}

#[test]
fn a_larger_component_is_replaced_under_load_too() {
    let site = Site::new();
    site.kitchen();
    let (next, text) = guests::kitchen_version(7);
    let launcher = site.run("services: { kitchen: { plugin: kitchen.wasm, listen: 127.0.0.1:0 } }");
    let load = Load::start(&launcher.address("kitchen"), "/version", Connections::Fresh, 2);
    load.more(50);
    site.replace("kitchen.wasm", next);
    load.first(&text);
    load.stop().assert_flawless();
}

#[test]
fn a_request_in_flight_is_finished_by_the_old_code() {
    let site = Site::new();
    site.kitchen();
    let (next, text) = guests::kitchen_version(2);
    let launcher = site.run("services: { kitchen: { plugin: kitchen.wasm, listen: 127.0.0.1:0, workers: 1 } }");
    let address = launcher.address("kitchen");
    let old = launcher.workers(1)[0];
    let mut slow = Connection::open(&address).expect("connect");
    slow.send_head("GET", "/slow-body?chunks=30&ms=50", &[]).expect("send");
    let head = slow.head("GET").expect("a head");
    let mark = launcher.mark();
    site.replace("kitchen.wasm", next);
    launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
    assert_eq!(fetch(&address, "/version").text(), text);
    let mut body = Vec::new();
    slow.body(&head, |part| body.extend_from_slice(part)).expect("the whole body");
    assert_eq!(String::from_utf8_lossy(&body).lines().count(), 30);
    let exited =
        launcher.wait_after(mark, "exited", |event| event.is("exited") && event.number("pid") == u64::from(old));
    assert_eq!(exited.number("code"), 0, "{exited:?}");
}

#[test]
fn the_same_bytes_again_start_nothing() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let launcher = site.run(HELLO);
    let mark = launcher.mark();
    site.replace("hello.wasm", guests::hello(1));
    // Whatever the first replacement starts comes before what the second one starts.
    site.replace("hello.wasm", guests::hello(2));
    let promoted = launcher.wait_after(mark, "promoted", |event| event.is("promoted"));
    assert_eq!(promoted.number("generation"), 2, "{}", launcher.story());
    assert_eq!(fetch(&launcher.address("hello"), "/").text(), guests::greeting(2));
}

#[test]
fn a_storm_of_replacements_ends_with_the_last_one() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let launcher = site.run(HELLO);
    let load = Load::start(&launcher.address("hello"), "/", Connections::Fresh, 2);
    load.more(20);
    for version in 2..=40 {
        site.replace("hello.wasm", guests::hello(version));
    }
    load.first(&guests::greeting(40));
    load.stop().assert_flawless();
    // The newest generation that was started is that of the last file: its answers were seen.
    let started = launcher.events_after(0, |event| event.is("reload_started"));
    let newest = started.iter().map(|event| event.number("generation")).max().expect("at least one was started");
    launcher.wait("last promotion", |event| event.is("promoted") && event.number("generation") == newest);
    // Both generations serve until the old one has left.
    let workers = launcher.events_after(0, |event| event.is("spawned") && event.number("generation") < newest).len();
    let left = launcher.wait_many(0, workers, "exit of every old worker", |event| event.is("exited"));
    assert!(left.iter().all(|event| event.number("generation") < newest), "{left:?}");
    for _ in 0..20 {
        assert_eq!(fetch(&launcher.address("hello"), "/").text(), guests::greeting(40));
    }
}

/// Puts each broken file in place of version 1; then a good one.
fn broken_then_good(broken: &[(&str, Vec<u8>, &str)]) {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let mut launcher = site.run(HELLO);
    let address = launcher.address("hello");
    let workers = launcher.workers(2);
    let load = Load::start(&address, "/", Connections::Fresh, 2);
    let mut mark = launcher.mark();
    for (what, bytes, said) in broken {
        site.replace("hello.wasm", bytes);
        let failed = wait_failure(&launcher, mark);
        let reason = failed.text("reason").to_owned();
        assert!(reason.contains("hello.wasm"), "{what}: the reason names no file: {reason}");
        assert!(reason.to_lowercase().contains(said), "{what}: the reason does not say {said:?}: {reason}");
        assert!(launcher.events_after(mark, |event| event.is("promoted")).is_empty(), "{what} was promoted");
        mark = launcher.mark();
        load.more(20);
    }
    let exits = launcher.events_after(0, |event| event.is("exited") && workers.contains(&(event.number("pid") as u32)));
    assert!(exits.is_empty(), "a worker of the old generation left: {exits:?}");
    let tally = load.tally();
    assert_eq!(tally.texts.keys().collect::<Vec<_>>(), [&guests::greeting(1)], "{}", tally.summary());

    site.replace("hello.wasm", guests::hello(2));
    load.first(&guests::greeting(2));
    load.stop().assert_flawless();
    launcher.stop();
}

fn wait_failure(launcher: &Launcher, mark: usize) -> Event {
    launcher
        .wait_after(mark, "reload_failed or rolled_back", |event| event.is("reload_failed") || event.is("rolled_back"))
}

#[test]
fn a_file_that_is_no_component_changes_nothing() {
    let good = guests::hello(2);
    let core = wat::parse_str("(module (func (export \"handle\")))").expect("a core module");
    broken_then_good(&[
        ("an empty file", Vec::new(), "empty"),
        ("a truncated component", good[..good.len() - 7].to_vec(), ""),
        ("half a component", good[..good.len() / 2].to_vec(), ""),
        ("eight bytes of a component", good[..8].to_vec(), ""),
        ("text", b"this is no component\n".to_vec(), ""),
        ("binary garbage", (0..5000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect(), ""),
        ("a core module", core, "component"),
    ]);
}

#[test]
fn a_component_that_cannot_be_served_changes_nothing() {
    let missing = guests::hello_wat().replacen(
        "(component\n",
        "(component\n  (import \"acme:missing/thing@1.0.0\" (instance (export \"f\" (func))))\n",
        1,
    );
    let crashing = guests::hello_wat().replacen(
        "(func $handle-returned",
        "(func $crash unreachable) (start $crash)\n    (func $handle-returned",
        1,
    );
    broken_then_good(&[
        ("a component without a handler", guests::component("(component)"), "wasi:http"),
        ("a component with a missing import", guests::component(&missing), "acme:missing/thing"),
        ("a component that crashes at its start", guests::component(&crashing), ""),
    ]);
}

#[test]
fn a_half_written_file_waits_for_its_other_half() {
    use std::io::Write;
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let launcher = site.run(HELLO);
    let load = Load::start(&launcher.address("hello"), "/", Connections::Fresh, 1);
    let bytes = guests::hello(2);
    let mut file = fs::File::create(site.path("hello.wasm")).expect("truncate the plugin");
    for part in bytes.chunks(bytes.len() / 5) {
        file.write_all(part).expect("write a part");
        load.more(10);
    }
    drop(file);
    load.first(&guests::greeting(2));
    load.stop().assert_flawless();
}
