//! Another version of the launcher takes over: nobody notices, and one that cannot changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::control::Control;
use crate::harness::launcher::{BINARY, eventually};
use crate::harness::load::{Connections, Load};
use crate::harness::{Launcher, Site, guests, process};

const HELLO: &str = "services: { hello: { plugin: hello.wasm, listen: 127.0.0.1:0, workers: 2 } }";

/// The launcher's program in the site, where a test can put another one.
fn program(site: &Site) -> PathBuf {
    site.path("launcher")
}

fn install(site: &Site, from: &Path) {
    let beside = site.path("launcher.new");
    // In a process of its own: what another test starts in this one would have the copy open for writing until it is
    // executed, and the copy could not be (ETXTBSY).
    let copied = Command::new("cp").arg(from).arg(&beside).status().expect("start cp");
    assert!(copied.success(), "{copied}");
    fs::rename(beside, program(site)).expect("rename over the program");
}

fn start(site: &Site) -> Launcher {
    site.write("hello.wasm", guests::hello(1));
    install(site, Path::new(BINARY));
    let mut command = Command::new(program(site));
    command.arg("run").arg(site.configure(HELLO)).current_dir(site.path(""));
    let launcher = Launcher::start(command, HELLO);
    launcher.wait("serving", |event| event.is("serving"));
    launcher
}

fn sorted(site: &Site) -> Vec<u64> {
    let mut pids = Control::of(site).ready("hello");
    pids.sort_unstable();
    pids
}

/// The file that a process runs is the one at this path now.
fn runs(pid: u32, path: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == path)
}

#[test]
fn the_program_at_the_launchers_path_takes_over_under_load_and_so_do_its_workers() {
    let site = Site::new();
    let launcher = start(&site);
    let address = launcher.address("hello");
    let loads = [Connections::Kept, Connections::Fresh].map(|how| Load::start(&address, "/", how, 4));
    let keeper = launcher.pid();
    for round in 0..3 {
        loads.iter().for_each(|load| load.more(20));
        let (old_workers, old_master, mark) = (sorted(&site), launcher.master(), launcher.mark());
        install(&site, Path::new(BINARY));
        assert!(!runs(old_master, &program(&site)), "the file it runs was replaced");
        match round {
            0 => {
                let told = site.output(["upgrade", "--wait"]);
                assert_eq!(told.status.code(), Some(0), "{told:?}");
                assert!(String::from_utf8_lossy(&told.stdout).contains("has taken over"), "{told:?}");
            }
            1 => launcher.signal(Signal::SIGUSR2),
            _ => drop(Control::of(&site).post("/v1/upgrade")),
        }
        let adopted = launcher.wait_after(mark, "adopted", |event| event.is("adopted"));
        assert_eq!((adopted.number("workers"), adopted.number("before")), (2, u64::from(old_master)));
        launcher.wait_after(mark, "upgraded", |event| event.is("upgraded"));
        let restarted = launcher.wait_after(mark, "restarted", |event| event.is("restarted"));
        assert_eq!(restarted.text("trigger"), "upgrade");
        // The workers before were the same until then, and left because they were asked to.
        let exits = launcher.wait_many(mark, 2, "exit of the old workers", |event| event.is("exited"));
        assert!(exits.iter().all(|exit| exit.number("code") == 0 && old_workers.contains(&exit.number("pid"))));
        let master = launcher.master();
        assert_ne!(master, old_master);
        let now = sorted(&site);
        for pid in now.iter().map(|pid| *pid as u32).chain([master]) {
            assert!(runs(pid, &program(&site)), "{pid} runs another file");
        }
        assert!(eventually(|| runs(keeper, &program(&site))), "the keeper runs another file");
        let status = Control::of(&site).get("/v1/status");
        assert_eq!(status["keeper"], keeper, "the pid to be signalled is kept");
        assert_eq!(status["upgrade"]["result"], "done");
        assert_eq!(status["services"][0]["generation"], 1);
    }
    for load in loads {
        load.stop().assert_flawless();
    }
    // The keeper that became the new program keeps.
    let mark = launcher.mark();
    kill(Pid::from_raw(launcher.master() as i32), Signal::SIGKILL).expect("it runs");
    launcher.wait_after(mark, "adopted", |event| event.is("adopted"));
    let mut launcher = launcher;
    launcher.stop();
}

/// Compiles a program that can be executed, which a script cannot: it is executed by its descriptor.
fn compiled(site: &Site, name: &str, body: &str) -> PathBuf {
    let source = site.write(
        &format!("{name}.c"),
        format!(
            "#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\nint main(int argc, char **argv) {{\n\
             if (argc > 1 && !strcmp(argv[1], \"contracts\")) {{ {body} }}\n abort(); }}\n"
        ),
    );
    let path = site.path(name);
    let done = Command::new("cc").arg("-o").arg(&path).arg(source).status().expect("run cc");
    assert!(done.success());
    path
}

#[test]
fn a_program_that_cannot_take_over_changes_nothing() {
    let site = Site::new();
    let launcher = start(&site);
    let address = launcher.address("hello");
    let load = Load::start(&address, "/", Connections::Kept, 4);
    let (workers, master) = (sorted(&site), launcher.master());
    let text = site.write("text", "no program");
    let plain = site.write("plain", fs::read("/bin/true").expect("a program"));
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).expect("change its mode");
    fs::set_permissions(&text, fs::Permissions::from_mode(0o755)).expect("change its mode");
    let old = r#"{"launcher":"9.9.9","memory":99,"channel":1}"#.replace('"', "\\\"");
    let other = compiled(&site, "other", &format!("write(1, \"{old}\", strlen(\"{old}\")); return 0;"));
    let crashing = compiled(&site, "crashing", "abort();");
    for (program, words) in [
        (site.path("absent"), "No such file"),
        (text, "cannot be executed"),
        (plain, "not executable"),
        (PathBuf::from("/bin/true"), "another program"),
        (PathBuf::from("/bin/false"), "exited with code 1"),
        (other, "9.9.9"),
        (crashing, "SIGABRT"),
    ] {
        load.more(10);
        let told = site.command(["upgrade", "--wait"]).arg(&program).output().expect("start the launcher");
        let said = String::from_utf8_lossy(&told.stderr);
        assert_eq!(told.status.code(), Some(2), "{}: {said}", program.display());
        assert!(said.contains(words), "{}: {said}", program.display());
        let status = Control::of(&site).get("/v1/status");
        assert_eq!(status["upgrade"]["result"], "failed");
        assert_eq!(status["pid"], master);
    }
    assert_eq!((sorted(&site), launcher.master()), (workers, master));
    load.stop().assert_flawless();
}

#[test]
fn a_program_that_does_not_come_up_gives_way_to_the_one_before() {
    let site = Site::new();
    let mut launcher = start(&site);
    let address = launcher.address("hello");
    let load = Load::start(&address, "/", Connections::Kept, 4);
    let (workers, keeper) = (sorted(&site), launcher.pid());
    let real = format!("execl(\"{BINARY}\", \"launcher\", \"contracts\", (char *)0);");
    let crashing = compiled(&site, "crashing", &real);
    for round in 0..2 {
        load.more(10);
        let mark = launcher.mark();
        let told = site.command(["upgrade", "--wait"]).arg(&crashing).output().expect("start the launcher");
        let said = String::from_utf8_lossy(&told.stderr);
        assert_eq!(told.status.code(), Some(4), "round {round}: {said}");
        assert!(said.contains("SIGABRT") && said.contains("before it served"), "{said}");
        launcher.wait_after(mark, "upgrade_failed", |event| event.is("upgrade_failed"));
        assert_eq!(sorted(&site), workers);
        assert!(runs(launcher.master(), &program(&site)));
    }
    load.stop().assert_flawless();
    assert_eq!(Control::of(&site).get("/v1/status")["keeper"], keeper);
    // What is good is taken all the same.
    install(&site, Path::new(BINARY));
    let told = site.output(["upgrade", "--wait"]);
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    launcher.stop();
    assert!(workers.iter().all(|pid| !process::runs(*pid as u32)));
}
