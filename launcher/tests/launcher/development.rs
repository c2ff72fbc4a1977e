//! `launcher dev`: a save is served a moment later, a mistake is shown where one looks, and nothing is left behind.
//!
//! The "compiler" of most tests is a script, so that a build takes milliseconds, fails on demand, or never ends.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::http::{Connection, Response, fetch};
use crate::harness::launcher::eventually;
use crate::harness::{Event, Launcher, PATIENCE, Site, guests, process};

const PAGE: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");

/// A service whose sources are a text and whose build turns it into a component that answers the text. The build
/// fails if the text is "mistake".
fn shop(site: &Site, text: &str) -> String {
    site.write("hello.txt", guests::hello_wat());
    site.write("src/greeting.txt", text);
    site.write(
        "build.sh",
        "set -e\n\
         greeting=$(cat src/greeting.txt)\n\
         if [ \"$greeting\" = mistake ]; then echo 'src/greeting.txt:1: \u{1b}[31mno such word\u{1b}[0m <mistake>' >&2; exit 3; fi\n\
         sed \"s/Hello from WebAssembly!/$(printf %-23s \"$greeting\" | tr ' ' .)/\" hello.txt >shop.new\n\
         mv shop.new shop.wat\n",
    );
    site.write(".gitignore", "*.new\n");
    "services: { shop: { plugin: shop.wat, build: sh build.sh, listen: 127.0.0.1:0 } }".to_owned()
}

fn ask(address: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    let mut connection = Connection::open(address).expect("connect");
    connection.request("GET", target, headers, b"").unwrap_or_else(|error| panic!("GET {target}: {error}"))
}

fn swapped(launcher: &Launcher, mark: usize) -> Event {
    launcher.wait_after(mark, "swapped", |event| event.is("swapped"))
}

#[test]
fn a_save_is_served_and_told_in_one_line() {
    let site = Site::new();
    let mut launcher = site.develop(&shop(&site, "one"));
    let first = swapped(&launcher, 0);
    assert_eq!(first.number("generation"), 1);
    let address = launcher.address("shop");
    assert!(fetch(&address, "/").text().starts_with("one"));
    for (number, text) in [(2, "two"), (3, "three"), (4, "four")] {
        let mark = launcher.mark();
        if number == 3 {
            site.replace("src/greeting.txt", text);
        } else {
            site.write("src/greeting.txt", text);
        }
        let told = swapped(&launcher, mark);
        // Whoever reads the line reaches the new code.
        assert!(fetch(&address, "/").text().starts_with(text), "{}", launcher.story());
        assert_eq!(told.number("generation"), number);
        assert!(told.text("message").starts_with("src/greeting.txt changed: built in "), "{}", told.text("message"));
        assert_eq!(launcher.events_after(mark, |event| event.is("swapped")).len(), 1);
    }
    launcher.stop();
}

#[test]
fn a_failed_build_keeps_the_last_good_generation_and_is_shown_until_it_is_good_again() {
    let site = Site::new();
    let mut launcher = site.develop(&shop(&site, "good"));
    swapped(&launcher, 0);
    let address = launcher.address("shop");
    let mark = launcher.mark();
    site.write("src/greeting.txt", "mistake");
    let failed = launcher.wait_after(mark, "build_failed", |event| event.is("build_failed"));
    assert!(failed.text("output").contains("no such word <mistake>"), "{}", failed.text("output"));
    assert!(failed.text("message").ends_with("generation 1 goes on"), "{}", failed.text("message"));
    // A program gets what serves; a browser sees why it is old. The plugin answers plain text, which has no place for
    // an overlay.
    assert!(fetch(&address, "/").text().starts_with("good"));
    let shown = || ask(&address, "/", &[PAGE]).text();
    assert!(eventually(|| shown().contains("no such word</span> &lt;mistake&gt;")), "{}", shown());
    // What was served is asked for again: nothing new to serve, and nothing wrong any more.
    let mark = launcher.mark();
    site.write("src/greeting.txt", "good");
    launcher.wait_after(mark, "rebuilt", |event| event.is("rebuilt"));
    assert!(eventually(|| shown().starts_with("good")), "{}", shown());
    launcher.stop();
}

#[test]
fn something_answers_before_the_first_build_is_good() {
    let site = Site::new();
    let mut launcher = site.develop(&shop(&site, "mistake"));
    let address = launcher.address("shop");
    launcher.wait("build_failed", |event| event.is("build_failed"));
    let page = || ask(&address, "/anything", &[PAGE]);
    assert!(eventually(|| page().text().contains("no such word")), "{}", page().text());
    assert_eq!(page().status(), 503);
    let words = fetch(&address, "/");
    assert_eq!((words.status(), words.text().contains("no such word <mistake>")), (503, true), "{}", words.text());
    site.write("src/greeting.txt", "at last");
    assert_eq!(swapped(&launcher, 0).number("generation"), 1);
    assert!(fetch(&address, "/").text().starts_with("at.last"));
    launcher.stop();
}

#[test]
fn a_newer_save_ends_a_build_that_it_made_stale() {
    let site = Site::new();
    let yaml = shop(&site, "quick");
    let script = fs::read_to_string(site.path("build.sh")).expect("the script");
    // A build that would never end, with a child of its own.
    let slow = "if grep -q slow src/greeting.txt; then sleep 1000 & echo $! >.pid; wait; fi\n";
    site.write("build.sh", format!("{slow}{script}"));
    let mut launcher = site.develop(&yaml);
    swapped(&launcher, 0);
    let mark = launcher.mark();
    site.write("src/greeting.txt", "slow");
    let pid = || fs::read_to_string(site.path(".pid")).ok().and_then(|text| text.trim().parse::<u32>().ok());
    assert!(eventually(|| pid().is_some()), "{}", launcher.story());
    site.write("src/greeting.txt", "newer");
    let told = swapped(&launcher, mark);
    assert_eq!(told.number("generation"), 2, "the stale build made nothing");
    assert!(fetch(&launcher.address("shop"), "/").text().starts_with("newer"));
    assert!(eventually(|| !process::runs(pid().expect("a pid"))), "the stale build goes on");
    launcher.stop();
}

#[test]
fn the_end_leaves_neither_builds_nor_workers_behind() {
    let site = Site::new();
    let yaml = shop(&site, "quick");
    // One that leaves its process group.
    site.write("build.sh", "setsid sleep 1000 & echo $! >.pid; sleep 1000");
    let mut launcher = site.develop(&yaml);
    launcher.address("shop");
    let pid = || fs::read_to_string(site.path(".pid")).ok().and_then(|text| text.trim().parse::<u32>().ok());
    assert!(eventually(|| pid().is_some()), "{}", launcher.story());
    let all = process::descendants(launcher.pid());
    assert!(all.len() >= 3, "a worker, a build and its child: {all:?}");
    launcher.signal(Signal::SIGINT);
    assert_eq!(launcher.exit().code(), Some(0), "{}", launcher.story());
    for left in all.into_iter().chain(pid()) {
        assert!(eventually(|| !process::runs(left)), "process {left} goes on");
    }
}

#[test]
fn what_a_build_writes_leads_to_no_further_build_for_ever() {
    let site = Site::new();
    let yaml = shop(&site, "one");
    let script = fs::read_to_string(site.path("build.sh")).expect("the script");
    // The runs are counted in a file that is ignored.
    site.write("build.sh", format!("date +%N >stamp.txt; echo run >>runs.new\n{script}"));
    let mut launcher = site.develop(&yaml);
    launcher
        .wait("the warning", |event| event.is("trouble") && event.text("reason").starts_with("stamp.txt is written"));
    swapped(&launcher, 0);
    let address = launcher.address("shop");
    // A build may still run, which takes the save up or is joined by it: so what is served tells.
    for text in ["two", "three"] {
        site.write("src/greeting.txt", text);
        assert!(eventually(|| fetch(&address, "/").text().starts_with(text)), "{}", launcher.story());
    }
    let runs = fs::read_to_string(site.path("runs.new")).expect("runs").lines().count();
    assert!(runs <= 8, "{runs} builds\n{}", launcher.story());
    launcher.stop();
}

#[test]
fn what_git_ignores_is_no_source() {
    let site = Site::new();
    let yaml = shop(&site, "one");
    site.write(".gitignore", "*.new\nnotes/\n!src/keep.new\n");
    let mut launcher = site.develop(&yaml);
    swapped(&launcher, 0);
    let mark = launcher.mark();
    site.write("notes/a.txt", "x");
    site.write("b.new", "x");
    site.write("src/.greeting.txt.swp", "x");
    site.write("src/keep.new", "x");
    let told = launcher.wait_after(mark, "rebuilt", |event| event.is("rebuilt"));
    assert!(told.text("message").starts_with("src/keep.new changed"), "{}", told.text("message"));
    launcher.stop();
}

#[test]
fn several_services_are_built_each_by_its_own_command() {
    let site = Site::new();
    shop(&site, "one");
    let build = |name: &str| format!("cd {name} && sh build.sh");
    for name in ["left", "right"] {
        for file in ["hello.txt", "src/greeting.txt", "build.sh"] {
            site.write(&format!("{name}/{file}"), fs::read(site.path(file)).expect("a file"));
        }
    }
    let service =
        |name: &str| format!("{name}: {{ plugin: {name}/shop.wat, build: {}, listen: 127.0.0.1:0 }}", build(name));
    let mut launcher = site.develop(&format!("services: {{ {}, {} }}", service("left"), service("right")));
    launcher.wait_many(0, 2, "swapped", |event| event.is("swapped"));
    site.write("left/src/greeting.txt", "new");
    assert!(eventually(|| fetch(&launcher.address("left"), "/").text().starts_with("new")), "{}", launcher.story());
    assert!(fetch(&launcher.address("right"), "/").text().starts_with("one"));
    launcher.stop();
}

#[test]
fn an_idle_launcher_sleeps() {
    let site = Site::alone();
    let mut launcher = site.develop(&shop(&site, "one"));
    swapped(&launcher, 0);
    fetch(&launcher.address("shop"), "/");
    let slept = eventually(|| {
        let before = process::sleeps(launcher.pid());
        std::thread::sleep(Duration::from_millis(300));
        process::woke_since(launcher.pid(), &before) == 0
    });
    assert!(slept, "it wakes all the time\n{}", launcher.story());
    launcher.stop();
}

#[test]
fn a_state_is_streamed_and_the_stream_ends_when_its_worker_leaves() {
    let site = Site::new();
    let mut launcher = site.develop(&shop(&site, "one"));
    swapped(&launcher, 0);
    let address = launcher.address("shop");
    let mut connection = Connection::open(&address).expect("connect");
    connection.send_head("GET", "/__launcher/dev", &[("accept", "text/event-stream")]).expect("send");
    let head = connection.head("GET").expect("a head");
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    site.write("src/greeting.txt", "mistake");
    let mut heard = String::new();
    let mut mended = false;
    let began = Instant::now();
    connection
        .body(&head, |part| {
            heard.push_str(&String::from_utf8_lossy(part));
            if heard.contains("no such word") && !mended {
                mended = true;
                site.write("src/greeting.txt", "two");
            }
        })
        .expect("the stream ends as it should");
    assert!(heard.contains("\"build\":\"good\"") && mended, "{heard}");
    // Not at the deadline of the drain.
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(fetch(&address, "/").text().starts_with("two"));
    launcher.stop();
}

/// A plugin in C whose routes are pages and things that are none.
fn pages(site: &Site) -> String {
    let project = guests::project();
    let header = fs::read(project.join("worker-sdk/include/worker.h")).expect("worker.h");
    site.write("worker.h", header);
    let template = fs::read_to_string(project.join("launcher/templates/c/plugin.c")).expect("the template");
    let routes = "
    if (is(request->target, \"/json\")) {
        static const launcher_header JSON = { LAUNCHER_STR(\"content-type\"), LAUNCHER_STR(\"application/json\") };
        return answer(response, 200, &JSON, (launcher_str)LAUNCHER_STR(\"{}\"));
    }
    if (is(request->target, \"/packed\")) {
        static const launcher_header PACKED[] = {
            { LAUNCHER_STR(\"content-type\"), LAUNCHER_STR(\"text/html\") },
            { LAUNCHER_STR(\"content-encoding\"), LAUNCHER_STR(\"gzip\") },
        };
        int32_t code = answer(response, 200, PACKED, (launcher_str)LAUNCHER_STR(\"packed\"));
        response->headers_len = 2;
        return code;
    }
    if (is(request->target, \"/crash\")) *(volatile int *)8 = 1;
    if (is(request->target, \"/\"))";
    site.write(
        "plugin.c",
        template.replacen("\n    if (is(request->target, \"/\"))", routes, 1).replace("{{name}}", "pages"),
    );
    "services: { pages: { plugin: pages.so, build: 'cc -shared -fPIC -g plugin.c -o pages.so', listen: 127.0.0.1:0 } }"
        .to_owned()
}

#[test]
fn a_page_gets_the_script_and_nothing_else_is_touched() {
    const BARE: &str = "<!doctype html>\n<h1>Hello from C!</h1>\n";
    let site = Site::new();
    let mut launcher = site.develop(&pages(&site));
    swapped(&launcher, 0);
    let address = launcher.address("pages");
    let page = ask(&address, "/", &[PAGE]);
    let text = page.text();
    assert!(text.starts_with(BARE) && text.contains("<script src=\"/__launcher/dev.js\""), "{text}");
    assert_eq!(page.head.header("content-length"), Some(text.len().to_string().as_str()));
    let mut connection = Connection::open(&address).expect("connect");
    let head = connection.request("HEAD", "/", &[PAGE], b"").expect("an answer");
    assert_eq!(head.head.header("content-length"), Some(text.len().to_string().as_str()));
    // The connection is in step after it.
    assert_eq!(connection.request("GET", "/", &[PAGE], b"").expect("an answer").text(), text);
    let script = ask(&address, "/__launcher/dev.js", &[]);
    assert!(script.text().contains("EventSource"), "{}", script.text());

    assert_eq!(fetch(&address, "/").text(), BARE, "a program asked");
    assert_eq!(ask(&address, "/", &[PAGE, ("sec-fetch-dest", "empty")]).text(), BARE, "a script of a page asked");
    assert_eq!(ask(&address, "/json", &[PAGE]).text(), "{}");
    assert_eq!(ask(&address, "/packed", &[PAGE]).text(), "packed");
    launcher.stop();
    // In production none of it is there.
    let mut launcher = site.run(&pages(&site));
    let address = launcher.address("pages");
    assert_eq!(ask(&address, "/", &[PAGE]).text(), BARE);
    assert_eq!(ask(&address, "/__launcher/dev", &[PAGE]).status(), 404);
    launcher.stop();
}

#[test]
fn a_broken_build_covers_the_page_that_still_serves() {
    let site = Site::new();
    let mut launcher = site.develop(&pages(&site));
    swapped(&launcher, 0);
    let address = launcher.address("pages");
    let source = fs::read_to_string(site.path("plugin.c")).expect("the source");
    site.write("plugin.c", format!("{source}\nint x = ;\n"));
    launcher.wait("build_failed", |event| event.is("build_failed"));
    let page = || ask(&address, "/", &[PAGE]).text();
    assert!(eventually(|| page().contains("launcher-overlay")), "{}", page());
    let text = page();
    assert!(text.starts_with("<!doctype html>\n<h1>Hello from C!</h1>"), "{text}");
    assert!(text.contains("expected expression"), "{text}");
    // What the page itself fetches stays what it is.
    assert_eq!(ask(&address, "/json", &[("accept", "application/json")]).text(), "{}");
    site.write("plugin.c", source);
    assert!(eventually(|| !page().contains("launcher-overlay")), "{}", page());
    launcher.stop();
}

#[test]
fn a_worker_that_crashes_is_shown_with_its_backtrace() {
    let site = Site::new();
    let mut launcher = site.develop(&pages(&site));
    swapped(&launcher, 0);
    let address = launcher.address("pages");
    // A browser that was there before: its stream ends with the worker, and it comes back with what it has seen.
    let mut connection = Connection::open(&address).expect("connect");
    connection.request("GET", "/crash", &[PAGE], b"").expect_err("the worker dies of it");
    launcher.wait("exited", |event| event.is("exited") && event.text("reason").contains("SIGSEGV"));
    assert!(eventually(|| heard_of(&address, "SIGSEGV")), "{}", launcher.story());
    launcher.stop();
}

/// Whether whoever comes back to the stream, and has seen nothing yet, hears of it. The worker may be a new one, or just
/// about to be.
fn heard_of(address: &str, what: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(1))).expect("set a time-out");
    let request = "GET /__launcher/dev HTTP/1.1\r\nhost: test\r\nlast-event-id: 0\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("send");
    let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        heard.extend_from_slice(&buffer[..read]);
        if String::from_utf8_lossy(&heard).contains(what) {
            return true;
        }
    }
    false
}

#[test]
fn a_panic_is_shown_with_the_line_of_the_source() {
    let site = Site::new();
    for plugin in [guests::native("misbehave"), guests::wasm("misbehave")] {
        let yaml = format!("services: {{ bad: {{ plugin: {}, listen: 127.0.0.1:0 }} }}", plugin.display());
        let mut launcher = site.develop(&yaml);
        launcher.wait("serving", |event| event.is("serving"));
        let address = launcher.address("bad");
        let page = ask(&address, "/panic", &[PAGE]);
        assert_eq!(page.status(), 500);
        let text = page.text();
        for expected in
            ["it panics as it was told to", "plugins/misbehave/src/lib.rs:", "backtrace", "launcher-overlay"]
        {
            assert!(text.contains(expected), "no {expected:?} in {text}");
        }
        assert!(!text.contains("hyper"), "the backtrace goes on behind the handler: {text}");
        let words = fetch(&address, "/panic");
        assert!(words.text().contains("plugins/misbehave/src/lib.rs:"), "{}", words.text());
        // In the terminal, too.
        launcher.wait_lines(1, "the line", |line| line.text.contains("misbehave/src/lib.rs:"));
        launcher.stop();
    }
}

/// A service that owns its socket, whose plugin a script makes of `source`; `make` may fail with a complaint.
fn owner(site: &Site, plugin: &str, make: &str) -> Launcher {
    site.write(
        "build.sh",
        format!("set -e\nif grep -q mistake source; then echo 'no such word' >&2; exit 3; fi\n{make}"),
    );
    site.develop(&format!(
        "services: {{ lines: {{ plugin: {plugin}, build: sh build.sh, listen: 127.0.0.1:0, workers: 1 }} }}"
    ))
}

/// What a server of lines says to one.
fn told(address: &str, line: &str) -> String {
    let mut client = TcpStream::connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"));
    client.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    client.write_all(format!("{line}\n").as_bytes()).expect("write a line");
    let mut answer = String::new();
    BufReader::new(client).read_line(&mut answer).expect("an answer");
    answer
}

/// It is built and served; `change` is served next; a mistake keeps what serves, and says so.
fn goes_through_its_loop(site: &Site, launcher: &mut Launcher, change: &[u8], asked: &str, answers: [&str; 2]) {
    swapped(launcher, 0);
    let address = launcher.address("lines");
    assert_eq!(told(&address, asked), answers[0], "{}", launcher.story());
    let mark = launcher.mark();
    site.write("source", change);
    swapped(launcher, mark);
    assert_eq!(told(&address, asked), answers[1], "{}", launcher.story());
    let mark = launcher.mark();
    site.write("source", "mistake");
    let failed = launcher.wait_after(mark, "build_failed", |event| event.is("build_failed"));
    assert!(failed.text("output").contains("no such word"), "{failed:?}");
    assert!(failed.text("message").ends_with("generation 2 goes on"), "{}", failed.text("message"));
    assert_eq!(told(&address, asked), answers[1], "{}", launcher.story());
    launcher.stop();
}

#[test]
fn a_plugin_in_c_that_owns_its_socket_is_built_and_swapped() {
    let site = Site::new();
    let source = fs::read_to_string(guests::project().join("examples/sockets/poll-c/poll.c")).expect("the source");
    site.write("source", &source);
    let include = guests::project().join("worker-sdk/include");
    let make =
        format!("cc -x c -std=c11 -O2 -shared -fPIC -I{} -o new.so source\nmv new.so lines.so\n", include.display());
    site.write(".gitignore", "*.new\n*.so\n");
    let mut launcher = owner(&site, "lines.so", &make);
    let change =
        source.replace("    return got > 0 &&", "    if (got > 0)\n        bytes[0] = '2';\n    return got > 0 &&");
    assert_ne!(change, source);
    goes_through_its_loop(&site, &mut launcher, change.as_bytes(), "1", ["1\n", "2\n"]);
}

#[test]
fn a_program_that_owns_its_socket_is_built_and_swapped() {
    let site = Site::new();
    let program = guests::lines();
    site.write("source", &program);
    site.write(".gitignore", "*.new\n*.wasm\n");
    let mut launcher = owner(&site, "lines.wasm", "cp source lines.new\nmv lines.new lines.wasm\n");
    let change = guests::other_version(&program);
    goes_through_its_loop(&site, &mut launcher, &change, "variable LAUNCHER_WORKER_GENERATION", ["1\n", "2\n"]);
}
