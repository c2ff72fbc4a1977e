//! Native plugins: what breaks in one costs what it must, and a broken file costs nothing.

use std::fs;
use std::time::{Duration, Instant};

use crate::harness::http::{Connection, fetch, get};
use crate::harness::load::Connections;
use crate::harness::{Launcher, Load, Site, guests, process};

const HELLO: &str = "services: { hello: { plugin: hello.so, listen: 127.0.0.1:0, workers: 2 } }";

fn hello(version: u32) -> String {
    format!("Hello from C, version {version:02}\n")
}

fn misbehave(site: &Site, more: &str) -> Launcher {
    let plugin = guests::native("misbehave");
    site.run(&format!(
        "
services:
  misbehave:
    plugin: {}
    listen: 127.0.0.1:0
    workers: 1
{more}
",
        plugin.display()
    ))
}

#[test]
fn a_panic_is_a_500_and_the_worker_lives() {
    let site = Site::new();
    let launcher = misbehave(&site, "");
    let address = launcher.address("misbehave");
    let mark = launcher.mark();
    for target in ["/panic", "/panic-late", "/panic-payload"] {
        assert_eq!(fetch(&address, target).status(), 500, "{target}");
        assert_eq!(fetch(&address, "/").text(), "it behaves\n", "after {target}");
    }
    for target in ["/panic-body", "/fail-body", "/short", "/long"] {
        assert!(get(&address, target).is_err(), "{target}: the client must see that it is incomplete");
        assert_eq!(fetch(&address, "/").text(), "it behaves\n", "after {target}");
    }
    let exits = launcher.events_after(mark, |event| event.is("exited"));
    assert!(exits.is_empty(), "{exits:?}");
}

#[test]
fn a_fatal_signal_replaces_the_worker_and_says_where() {
    let site = Site::new();
    let launcher = misbehave(&site, "    restart: { backoff: 1ms..10ms, budget: 100/60s }");
    let address = launcher.address("misbehave");
    for (target, signal, number, place) in [
        ("/segfault", "FATAL SIGSEGV", 11, "misbehave::segfault"),
        ("/abort", "FATAL SIGABRT", 6, "misbehave"),
        ("/overflow", "FATAL SIGSEGV", 11, "misbehave::overflow"),
    ] {
        let mark = launcher.mark();
        assert!(get(&address, target).is_err(), "{target}");
        let exited = launcher.wait_after(mark, "exited", |event| event.is("exited"));
        assert_eq!(exited.number("signal"), number, "{target}: {exited:?}");
        launcher.wait_lines(1, signal, |line| line.text.starts_with(signal));
        launcher.wait_lines(1, place, |line| line.text.starts_with("  #") && line.text.contains(place));
        // Nothing is refused: it waits for the replacement.
        assert_eq!(fetch(&address, "/").text(), "it behaves\n", "after {target}");
    }
    let mark = launcher.mark();
    assert!(get(&address, "/exit").is_err());
    let exited = launcher.wait_after(mark, "exited", |event| event.is("exited"));
    assert_eq!(exited.number("code"), 3);
    assert_eq!(fetch(&address, "/").text(), "it behaves\n");
}

/// Its standard error becomes a pipe that is full, so that it cannot tell where it dies and tries to until an alarm ends it.
const DIES_SLOWLY: &str = "
    if (is(request->target, \"/die\")) {
        int ends[2];
        if (pipe(ends) || dup2(ends[1], 2) < 0) return LAUNCHER_ERROR;
        static const char block[65536];
        if (write(2, block, sizeof block) < 0) return LAUNCHER_ERROR;
        abort();
    }
";

#[test]
fn nobody_waits_for_the_last_words_of_a_worker_that_dies() {
    let site = Site::new();
    let start = "    (void)state;\n    if (is(request->target, \"/later\"))";
    site.write("hello.so", guests::c_hello_with(start, &format!("{DIES_SLOWLY}{start}")));
    let mut launcher = site.run("services: { hello: { plugin: hello.so, listen: 127.0.0.1:0, workers: 1 } }");
    let address = launcher.address("hello");
    let worker = launcher.workers(1)[0];
    let mut idle = Connection::open(&address).expect("connect");
    assert_eq!(idle.request("GET", "/", &[], b"").expect("an answer").status(), 200);

    let mark = launcher.mark();
    assert!(get(&address, "/die").is_err(), "{}", launcher.story());
    assert!(idle.closed().expect("the end of another connection"), "{}", launcher.story());
    let replacement = launcher.wait_after(mark, "ready", |event| event.is("ready"));
    assert_eq!(replacement.number("slot"), 0);
    assert_eq!(fetch(&address, "/").text(), "Hello from C!\n");
    assert!(process::runs(worker), "it has ended already, so that this test shows nothing\n{}", launcher.story());

    let exited = launcher.wait_after(mark, "exited", |event| event.is("exited"));
    assert_eq!(exited.number("pid"), u64::from(worker), "{exited:?}");
    assert_eq!(
        launcher.events_after(mark, |event| event.is("spawned")).len(),
        1,
        "replaced once\n{}",
        launcher.story()
    );
    launcher.stop();
}

#[test]
fn a_plugin_that_refuses_to_start_says_why_and_the_old_one_stays() {
    let site = Site::new();
    let plugin = guests::native("misbehave").display().to_string();
    let yaml = |start: &str| {
        format!(
            "services: {{ x: {{ plugin: {plugin}, listen: 127.0.0.1:0, workers: 1, config: {{ start: {start} }} }} }}"
        )
    };
    let launcher = site.run(&yaml("ok"));
    let address = launcher.address("x");
    for (start, said) in [("refuse", "it does not want to"), ("panic", "panicked"), ("sulk", "sulk")] {
        let mark = launcher.mark();
        site.configure(&yaml(start));
        launcher.signal(nix::sys::signal::Signal::SIGHUP);
        let failed =
            launcher.wait_after(mark, "a failed reload", |event| event.is("reload_failed") || event.is("rolled_back"));
        assert!(failed.text("reason").contains(said), "{start}: {failed:?}");
        assert_eq!(fetch(&address, "/").text(), "it behaves\n");
    }
}

#[test]
fn a_library_in_c_answers_at_once_and_later() {
    let site = Site::new();
    site.write("hello.so", guests::c_hello(1));
    let launcher = site.run(HELLO);
    let address = launcher.address("hello");
    assert_eq!(fetch(&address, "/").text(), hello(1));
    assert_eq!(fetch(&address, "/later").text(), "It took a while.\n");
    assert_eq!(fetch(&address, "/count").text().lines().count(), 10);
    let mut connection = Connection::open(&address).expect("connect");
    let headers = [("transfer-encoding", "chunked"), ("te", "trailers")];
    connection.send_head("POST", "/echo", &headers).expect("send the head");
    connection.send(b"3\r\nabc\r\n0\r\n\r\n").expect("send the body");
    assert_eq!(connection.response("POST").expect("an answer").text(), "abc");
    launcher.wait_lines(1, "the plugin's line", |line| line.text == "INFO the plugin in C starts service=hello");
}

#[test]
fn cargos_relink_and_a_rewrite_in_place_go_live_without_a_failed_request() {
    let site = Site::alone();
    site.write("hello.so", guests::c_hello(1));
    let mut launcher = site.run(HELLO);
    let load = Load::start(&launcher.address("hello"), "/", Connections::Fresh, 2);
    load.more(100);
    for version in 2..6 {
        let bytes = guests::c_hello(version);
        let replaced = if version % 2 == 0 {
            // As cargo does: unlink, then a hard link.
            let built = site.write(&format!("deps/{version}.so"), bytes);
            let replaced = Instant::now();
            fs::remove_file(site.path("hello.so")).expect("remove the library");
            fs::hard_link(built, site.path("hello.so")).expect("link the library");
            replaced
        } else {
            // In place: over the file that was loaded.
            let replaced = Instant::now();
            site.write("hello.so", bytes);
            replaced
        };
        let took = load.first(&hello(version)).duration_since(replaced);
        // A file in change settles first.
        let allowed = if version % 2 == 0 { 150 } else { 400 };
        assert!(took < Duration::from_millis(allowed), "version {version} took {took:?}\n{}", launcher.story());
        launcher.wait("promoted", |event| event.is("promoted") && event.number("generation") == u64::from(version));
        load.more(100);
    }
    load.stop().assert_flawless();
    let deaths = launcher.events_after(0, |event| event.is("exited") && event.has("signal"));
    assert!(deaths.is_empty(), "{deaths:?}");
    launcher.stop();
}

#[test]
fn a_broken_library_changes_nothing() {
    let site = Site::new();
    let good = guests::c_hello(1);
    site.write("hello.so", &good);
    let mut launcher = site.run(HELLO);
    let load = Load::start(&launcher.address("hello"), "/", Connections::Fresh, 2);
    load.more(20);
    let mut foreign = good.clone();
    foreign[18] = if foreign[18] == 62 { 183 } else { 62 };
    let mut other_version = good.clone();
    let magic = good.windows(8).position(|window| window == b"LAUNCHER").expect("a descriptor");
    other_version[magic + 8] = 9;
    let mut nameless = good.clone();
    let name = b"\0launcher_plugin\0";
    let at = good.windows(name.len()).position(|window| window == name).expect("the symbol's name");
    nameless[at + 1] = b'x';
    let mut unresolved = good.clone();
    let used = b"\0pthread_detach";
    let at = good.windows(used.len()).position(|window| window == used).expect("an imported function");
    unresolved[at + 1] = b'q';
    for (what, bytes, said) in [
        ("an empty file", Vec::new(), "empty"),
        ("half a library", good[..good.len() / 2].to_vec(), "truncated"),
        ("a library but for its end", good[..good.len() - 1].to_vec(), "truncated"),
        ("text", b"this is no library\n".to_vec(), "text"),
        ("another machine's", foreign, "this launcher runs on"),
        ("another version of the interface", other_version, "version 9 of the plugin interface"),
        ("no descriptor", nameless, "no symbol `launcher_plugin`"),
        ("an unresolved symbol", unresolved, "undefined symbol `qthread_detach"),
    ] {
        let mark = launcher.mark();
        site.replace("hello.so", bytes);
        let failed =
            launcher.wait_after(mark, "a failed reload", |event| event.is("reload_failed") || event.is("rolled_back"));
        let reason = failed.text("reason");
        assert!(reason.contains("hello.so") && reason.contains(said), "{what}: {reason}");
        load.more(20);
    }
    site.replace("hello.so", guests::c_hello(2));
    load.first(&hello(2));
    load.stop().assert_flawless();
    launcher.stop();
}

#[test]
fn a_plugins_own_tokio_and_its_stop_hook_work() {
    let site = Site::new();
    let plugin = guests::native("json-api");
    let mut launcher = site.run(&format!(
        "services: {{ orders: {{ plugin: {}, listen: 127.0.0.1:0, workers: 1, config: {{ keep: 60, most: 5 }} }} }}",
        plugin.display()
    ));
    let mut connection = Connection::open(&launcher.address("orders")).expect("connect");
    let response = connection.request("POST", "/orders", &[], br#"{"item":"tea"}"#).expect("an answer");
    assert_eq!(response.status(), 201, "{}", response.text());
    assert_eq!(
        connection.request("GET", "/orders/1", &[], b"").expect("an answer").text(),
        r#"{"item":"tea","count":1}"#
    );
    drop(connection);
    launcher.stop();
    launcher.wait_lines(1, "the stop hook's line", |line| line.text == "INFO the shop closes orders=1");
}
