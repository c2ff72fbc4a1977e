//! The verbs of the command line, each on a launcher that runs.

use std::io::{BufRead, BufReader};
use std::process::{Child, Output, Stdio};

use serde_json::Value;

use crate::harness::http::{fetch, get};
use crate::harness::{Launcher, PATIENCE, Site, guests, process};

/// Three services that reload only when they are told to.
const THREE: &str = "
services:
  api: { plugin: api.wasm, listen: 127.0.0.1:0, workers: 2, reload: { watch: false } }
  blog: { plugin: blog.wasm, listen: 127.0.0.1:0, workers: 1, reload: { watch: false } }
  shop: { plugin: shop.wasm, listen: 127.0.0.1:0, workers: 1, reload: { watch: false } }
";

fn three() -> (Site, Launcher) {
    let site = Site::new();
    for plugin in ["api.wasm", "blog.wasm", "shop.wasm"] {
        site.write(plugin, guests::hello(1));
    }
    let launcher = site.run(THREE);
    (site, launcher)
}

/// Runs a verb that must end with this code.
fn run(site: &Site, code: i32, verb: &[&str]) -> Output {
    let output = site.command([]).args(verb).output().expect("start the launcher");
    assert_eq!(output.status.code(), Some(code), "{verb:?}: {}{}", text(&output.stdout), text(&output.stderr));
    output
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// What a verb prints with `-o json`, which must be one object on a line.
fn json(site: &Site, code: i32, verb: &[&str]) -> Value {
    let output = run(site, code, &[verb, &["-o", "json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{verb:?}: {error}: {output:?}"))
}

/// A service, as `status` tells it.
fn service(site: &Site, name: &str) -> Value {
    let status = json(site, 0, &["status", name]);
    let services = status["services"].as_array().expect("a list of services");
    assert_eq!(services.len(), 1, "{status}");
    services[0].clone()
}

fn pids(service: &Value) -> Vec<u64> {
    let workers = service["workers"].as_array().expect("a list of workers").iter();
    workers.filter(|worker| worker["state"] == "ready").map(|worker| worker["pid"].as_u64().expect("a pid")).collect()
}

/// The single outcome of an order.
fn outcome(site: &Site, code: i32, verb: &[&str]) -> Value {
    let outcomes = json(site, code, verb);
    let list = outcomes["outcomes"].as_array().expect("a list of outcomes");
    assert_eq!(list.len(), 1, "{verb:?}: {outcomes}");
    list[0].clone()
}

#[test]
fn status_has_the_fields_of_the_contract() {
    let (site, mut launcher) = three();
    let address = launcher.address("api");
    fetch(&address, "/");
    let status = json(&site, 0, &["status"]);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["pid"], launcher.master());
    assert!(status["uptime_s"].is_f64(), "{status}");
    assert_eq!(status["config"], site.path("config.yaml").to_str().expect("UTF-8"));
    let services = status["services"].as_array().expect("a list");
    let names: Vec<_> = services.iter().map(|service| service["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["api", "blog", "shop"]);
    for service in services {
        assert_eq!((service["kind"].as_str(), service["state"].as_str()), (Some("http"), Some("serving")), "{service}");
        assert_eq!(service["generation"], 1, "{service}");
        assert!(service["plugin"].is_string() && service["last_reload"].is_null(), "{service}");
        let workers = service["workers"].as_array().expect("a list");
        assert_eq!(workers.len() as u64, service["wanted"].as_u64().expect("a number"));
        for (slot, worker) in workers.iter().enumerate() {
            assert_eq!((worker["slot"].as_u64(), worker["state"].as_str()), (Some(slot as u64), Some("ready")));
            for number in ["id", "pid", "generation", "restarts", "connections", "accepted", "requests"] {
                assert!(worker[number].is_u64(), "{number}: {worker}");
            }
            assert!(worker["uptime_s"].is_f64(), "{worker}");
            // The system may not tell.
            assert!(worker["pss_bytes"].is_u64(), "{worker}");
            assert!(worker["cpu_s"].is_f64(), "{worker}");
            assert!(worker["last_exit"].is_null(), "{worker}");
        }
    }
    assert_eq!(services[0]["listeners"], Value::from(vec![address]));
    let shown = run(&site, 0, &["ps"]);
    let shown = text(&shown.stdout);
    for name in ["api ", "blog ", "shop "] {
        assert!(shown.lines().any(|line| line.starts_with(name)), "{shown}");
    }
    assert!(
        shown
            .lines()
            .filter(|line| !line.contains(site.path("").to_str().expect("UTF-8")))
            .all(|line| line.chars().count() <= 100)
    );
    launcher.stop();
}

#[test]
fn a_service_that_there_is_not_is_told_with_the_name_that_was_probably_meant() {
    let (site, mut launcher) = three();
    for verb in [
        &["status", "blgo"][..],
        &["reload", "blgo"],
        &["reload", "shop", "blgo", "--wait"],
        &["restart", "blgo"],
        &["rollback", "blgo"],
        &["scale", "blgo", "2"],
        &["stop", "blgo"],
        &["start", "blgo", "--wait"],
        &["logs", "blgo"],
    ] {
        let said = run(&site, 2, verb);
        let said = text(&said.stderr);
        assert!(said.contains("blgo") && said.contains("`blog`"), "{verb:?}: {said}");
    }
    launcher.stop();
}

#[test]
fn a_reload_ends_with_what_became_of_it() {
    let (site, mut launcher) = three();
    let address = launcher.address("api");
    site.replace("api.wasm", guests::hello(2));
    let promoted = outcome(&site, 0, &["reload", "api", "--wait"]);
    assert_eq!((promoted["result"].as_str(), promoted["generation"].as_u64()), (Some("promoted"), Some(2)));
    assert_eq!(fetch(&address, "/").text(), guests::greeting(2));
    assert_eq!(outcome(&site, 0, &["reload", "api", "--wait"])["result"], "unchanged");

    let before = pids(&service(&site, "api"));
    site.replace("api.wasm", "no component");
    let refused = outcome(&site, 4, &["reload", "api", "--wait"]);
    assert_eq!(refused["result"], "rolled_back", "{refused}");
    let reason = refused["reason"].as_str().expect("a reason").to_owned();
    let reason = reason.lines().next().expect("a line");
    let said = run(&site, 4, &["reload", "api", "--wait"]);
    assert!(text(&said.stderr).contains(reason), "{reason}: {}", text(&said.stderr));
    assert_eq!(pids(&service(&site, "api")), before, "nothing has changed");
    assert_eq!(fetch(&address, "/").text(), guests::greeting(2));
    let shown = run(&site, 0, &["status"]);
    assert!(text(&shown.stdout).contains(reason), "{}", text(&shown.stdout));

    // All of them: one is refused, one has changed, one has not.
    site.replace("blog.wasm", guests::hello(3));
    let all = json(&site, 4, &["reload", "--wait"]);
    let results: Vec<_> = all["outcomes"].as_array().expect("a list").iter().map(|one| &one["result"]).collect();
    assert_eq!(results, ["rolled_back", "promoted", "unchanged"], "{all}");
    launcher.stop();
}

#[test]
fn a_rollback_returns_to_the_generation_before() {
    let (site, mut launcher) = three();
    let address = launcher.address("api");
    let said = run(&site, 1, &["rollback", "api", "--wait"]);
    assert!(text(&said.stderr).starts_with("error: "), "{said:?}");
    site.replace("api.wasm", guests::hello(2));
    run(&site, 0, &["reload", "api", "--wait"]);
    assert_eq!(fetch(&address, "/").text(), guests::greeting(2));
    run(&site, 0, &["rollback", "api", "--wait"]);
    assert_eq!(fetch(&address, "/").text(), guests::greeting(1));
    launcher.stop();
}

#[test]
fn a_restart_replaces_every_worker_of_the_services_that_are_meant() {
    let (site, mut launcher) = three();
    let before = (pids(&service(&site, "api")), pids(&service(&site, "blog")), pids(&service(&site, "shop")));
    let told = run(&site, 0, &["restart", "api", "blog", "--wait"]);
    assert_eq!(text(&told.stdout).lines().count(), 2, "{told:?}");
    let after = (pids(&service(&site, "api")), pids(&service(&site, "blog")), pids(&service(&site, "shop")));
    assert_eq!((after.0.len(), after.1.len()), (2, 1));
    assert!(before.0.iter().all(|pid| !after.0.contains(pid)), "{before:?} {after:?}");
    assert_ne!(before.1, after.1);
    assert_eq!(before.2, after.2, "one that was not named stays");
    run(&site, 0, &["restart", "--wait"]);
    assert_ne!(pids(&service(&site, "shop")), after.2);
    launcher.stop();
}

#[test]
fn workers_are_scaled_to_a_number_or_by_one() {
    let (site, mut launcher) = three();
    for (number, wanted) in [("3", 3), ("+1", 4), ("-2", 2), ("-1", 1)] {
        let scaled = outcome(&site, 0, &["scale", "api", number, "--wait"]);
        assert_eq!(scaled["result"], "scaled", "{number}: {scaled}");
        let service = service(&site, "api");
        assert_eq!((service["wanted"].as_u64(), pids(&service).len() as u64), (Some(wanted), wanted), "{number}");
    }
    launcher.stop();
}

#[test]
fn a_service_is_stopped_and_started_while_others_serve() {
    let (site, mut launcher) = three();
    let (api, blog) = (launcher.address("api"), launcher.address("blog"));
    let workers = pids(&service(&site, "api"));
    assert_eq!(outcome(&site, 0, &["stop", "api"])["result"], "stopped");
    assert!(workers.iter().all(|pid| !process::runs(*pid as u32)), "its workers are gone when the verb returns");
    assert_eq!(service(&site, "api")["state"], "stopped");
    assert!(get(&api, "/").is_err(), "nobody listens there");
    assert_eq!(fetch(&blog, "/").text(), guests::greeting(1));
    let mark = launcher.mark();
    assert_eq!(outcome(&site, 0, &["start", "api", "--wait"])["result"], "started");
    let again = launcher.wait_after(mark, "listening", |event| event.is("listening") && event.of("api"));
    assert_eq!(fetch(again.text("address"), "/").text(), guests::greeting(1));
    launcher.stop();
}

#[test]
fn a_plan_says_what_apply_does() {
    let (site, mut launcher) = three();
    let blog = pids(&service(&site, "blog"));
    // Another file, so that nothing is watched into force.
    let master = "master: { admin: 127.0.0.1:0, log: { format: json, level: debug } }";
    let new = THREE
        .replace("blog.wasm, listen: 127.0.0.1:0, workers: 1", "blog.wasm, listen: 127.0.0.1:0, workers: 3")
        .replace("  shop:", "  store:");
    site.write("next.yaml", format!("{new}\n{master}\n"));
    let plan = json(&site, 0, &["plan", "next.yaml"]);
    let changes: Vec<_> = plan["changes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|change| (change["service"].as_str().expect("a name"), change["kind"].as_str().expect("a kind")))
        .collect();
    assert_eq!(changes, [("blog", "adjusted"), ("shop", "removed"), ("store", "added")], "{plan}");
    assert_eq!(plan["unchanged"], Value::from(vec!["api"]));
    let shown = run(&site, 0, &["plan", "-c", "next.yaml"]);
    assert!(text(&shown.stdout).contains("\n  ~ blog is adjusted"), "{}", text(&shown.stdout));
    assert_eq!(service(&site, "blog")["wanted"], 1, "a plan changes nothing");

    let applied = json(&site, 0, &["apply", "next.yaml", "--wait"]);
    assert_eq!(applied["plan"], plan);
    assert!(applied["outcomes"].is_array(), "{applied}");
    assert_eq!(pids(&service(&site, "blog")).len(), 3);
    assert!(pids(&service(&site, "blog")).contains(&blog[0]), "the worker that was there stays");
    let shown = run(&site, 0, &["plan", "next.yaml"]);
    assert!(text(&shown.stdout).ends_with("nothing changes\n"), "{}", text(&shown.stdout));

    site.write("bad.yaml", new.replace("workers: 2", "workers: many"));
    for verb in ["plan", "apply"] {
        let said = run(&site, 2, &[verb, "bad.yaml"]);
        assert!(text(&said.stderr).contains("workers"), "{said:?}");
    }
    launcher.stop();
}

#[test]
fn stop_returns_when_the_launcher_is_gone() {
    let (site, mut launcher) = three();
    let told = run(&site, 0, &["stop"]);
    assert!(!process::runs(launcher.pid()), "it runs on: {told:?}");
    assert_eq!(launcher.exit().code(), Some(0));
    assert!(text(&told.stdout).contains(&format!("pid {}", launcher.pid())), "{told:?}");
    run(&site, 3, &["stop"]);
    let mut next = site.run(THREE);
    assert_eq!(json(&site, 0, &["stop", "--now"])["outcomes"].as_array().map(Vec::len), Some(3));
    assert_eq!(next.exit().code(), Some(0));
}

/// A verb that goes on, and its output.
struct Following {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Following {
    fn start(site: &Site, verb: &[&str]) -> Following {
        let mut command = site.command([]);
        let mut child =
            command.args(verb).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start the launcher");
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Following { child, lines }
    }

    /// Reads on until a line has this in it.
    fn until(&mut self, wanted: &str) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).expect("read a line") == 0 {
                panic!("it ended without {wanted:?}:\n{seen}");
            }
            if line.contains(wanted) {
                return line;
            }
            seen += &line;
        }
    }

    /// Reads to the end; gives what it said and its exit code.
    fn end(mut self) -> (String, Option<i32>) {
        std::io::copy(&mut self.lines, &mut std::io::sink()).expect("read to the end");
        assert!(process::ends(self.child.id(), PATIENCE), "it does not end");
        let output = self.child.wait_with_output().expect("wait for it");
        (text(&output.stderr).to_owned(), output.status.code())
    }
}

#[test]
fn followers_see_a_reload_and_end_with_the_launcher() {
    let (site, mut launcher) = three();
    let mut logs = Following::start(&site, &["logs", "-f"]);
    let mut events = Following::start(&site, &["events", "--follow", "-o", "json", "-n", "1000"]);
    let mut of_blog = Following::start(&site, &["logs", "-f", "blog", "-n", "0"]);
    events.until("\"serving\"");
    logs.until("serving");
    site.replace("api.wasm", guests::hello(2));
    site.replace("blog.wasm", guests::hello(2));
    run(&site, 0, &["reload", "--wait"]);
    let promoted = events.until("\"promoted\"");
    let promoted: Value = serde_json::from_str(&promoted).expect("an object a line");
    for (field, is) in [
        ("seq", promoted["seq"].is_u64()),
        ("time", promoted["time"].is_string()),
        ("monotonic_ms", promoted["monotonic_ms"].is_u64()),
        ("generation", promoted["generation"] == 2),
    ] {
        assert!(is, "{field}: {promoted}");
    }
    logs.until(" api: generation 2 serves");
    assert!(of_blog.until("generation 2 serves").contains(" blog: "), "only of the one that was named");
    run(&site, 0, &["stop"]);
    for following in [logs, events, of_blog] {
        let (said, code) = following.end();
        assert_eq!((said.as_str(), code), ("the launcher has stopped\n", Some(0)));
    }
    assert_eq!(launcher.exit().code(), Some(0));
}

#[test]
fn the_past_is_shown_as_far_as_is_asked_for() {
    let (site, mut launcher) = three();
    let all = run(&site, 0, &["events", "-o", "json"]);
    let events: Vec<Value> =
        text(&all.stdout).lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    assert!(events.iter().any(|event| event["event"] == "listening"), "{events:?}");
    let last = run(&site, 0, &["logs", "-n", "2"]);
    assert_eq!(text(&last.stdout).lines().count(), 2, "{last:?}");
    assert!(text(&run(&site, 0, &["events", "--since", "1h"]).stdout).contains("listening on"));
    assert_eq!(text(&run(&site, 0, &["events", "--since", "2100-01-01T00:00:00Z"]).stdout), "");
    let said = run(&site, 2, &["events", "--since", "yesterday"]);
    assert!(text(&said.stderr).contains("yesterday"), "{said:?}");
    launcher.stop();
}

#[test]
fn a_launcher_whose_state_directory_is_deep_is_steered_all_the_same() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let deep = "d".repeat(90) + "/" + &"e".repeat(90);
    let yaml = format!(
        "services: {{ hello: {{ plugin: hello.wasm, listen: 127.0.0.1:0, workers: 1 }} }}\nmaster: {{ state_dir: {deep}, \
         log: {{ format: json, level: debug }} }}\n"
    );
    site.write("config.yaml", &yaml);
    let mut launcher = Launcher::start(site.command(["run"]), &yaml);
    launcher.wait("serving", |event| event.is("serving"));
    assert_eq!(json(&site, 0, &["status"])["pid"], launcher.master());
    // Whatever has become of the services in the file since.
    site.write("config.yaml", yaml.replace("hello.wasm", "{ what: is this }"));
    run(&site, 0, &["status"]);
    run(&site, 0, &["stop"]);
    assert_eq!(launcher.exit().code(), Some(0));
}
