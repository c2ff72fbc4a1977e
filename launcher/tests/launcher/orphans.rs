//! Processes that lost their parent belong to the master: it reaps them, and none outlives it.

use std::fs;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::launcher::eventually;
use crate::harness::{Launcher, PATIENCE, Site, guests, process};

/// A service whose plugin is made by a script that leaves processes behind; their pids are in the file `orphans`.
fn yaml(site: &Site, orphans: u32, program: &str) -> String {
    site.write("good.wasm", guests::hello(1));
    // In sessions of their own: the group of the script is killed when it ends.
    site.write(
        "make",
        format!(
            "for i in $(seq {orphans}); do setsid sh -c 'echo $$ >> orphans; exec {program}' & done
             while [ $(cat orphans | wc -l) -lt {orphans} ]; do sleep 0.01; done
             cp good.wasm hello.wasm
            "
        ),
    );
    "services: { hello: { plugin: hello.wasm, build: sh ./make, listen: 127.0.0.1:0, workers: 8 } }".to_owned()
}

fn orphans(site: &Site) -> Vec<u32> {
    let pids = fs::read_to_string(site.path("orphans")).expect("a list of pids");
    pids.lines().map(|pid| pid.parse().expect("a pid")).collect()
}

#[test]
fn orphans_come_to_the_master_which_reaps_them_and_them_alone() {
    const WORKERS: usize = 8;
    let site = Site::new();
    let launcher = site.run(&yaml(&site, 200, "sleep 1000"));
    let orphans = orphans(&site);
    let children = || process::children(launcher.master());
    assert!(eventually(|| {
        let children = children();
        orphans.iter().all(|orphan| children.contains(orphan))
    }));
    let workers = launcher.workers(WORKERS);
    let mark = launcher.mark();
    // All die at once, the workers among the orphans, so that whoever looks finds both; by real-time signals too.
    let mut script = String::new();
    for (index, orphan) in orphans.iter().enumerate() {
        script += &format!("kill -{} {orphan}\n", [9, 15, 34, 64][index % 4]);
        if let Some(worker) = workers.get(index / 20).filter(|_| index % 20 == 19) {
            script += &format!("kill -9 {worker}\n");
        }
    }
    assert!(Command::new("sh").args(["-c", &script]).status().expect("sh").success());
    for exited in launcher.wait_many(mark, WORKERS, "exited", |event| event.is("exited")) {
        // Had the reaper taken its status, nobody would know the signal.
        assert!(exited.has("signal") && exited.number("signal") == 9, "{exited:?}");
    }
    launcher.workers_after(mark, WORKERS);
    let spares = || process::spares(launcher.master()).len();
    assert!(eventually(|| children().len() == WORKERS + spares()), "{:?} are left", children());
}

#[test]
fn no_orphan_outlives_the_master() {
    let site = Site::new();
    let mut launcher = site.run(&yaml(&site, 3, "sh -c \"trap : TERM; sleep 1000 & wait; sleep 1000\""));
    let orphans = orphans(&site);
    let all = process::descendants(launcher.pid());
    assert!(orphans.iter().all(|orphan| all.contains(orphan)));
    launcher.stop();
    for pid in all {
        assert!(!process::runs(pid), "process {pid} outlives the master");
    }
}

#[test]
fn what_a_script_started_before_it_became_the_launcher_is_not_the_masters_to_kill() {
    let site = Site::new();
    site.write("hello.wasm", guests::hello(1));
    let yaml = "services: { hello: { plugin: hello.wasm, listen: 127.0.0.1:0 } }";
    let inner = site.command(["run"]);
    let mut command = Command::new("sh");
    command.arg("-c").arg("sleep 1000 & exec \"$0\" \"$@\"").arg(inner.get_program()).args(inner.get_args());
    command.arg(site.configure(yaml));
    let mut launcher = Launcher::start(command, yaml);
    launcher.wait("serving", |event| event.is("serving"));
    let sleep = |pid: &u32| fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name == b"sleep\n");
    let beside = process::children(launcher.pid()).into_iter().find(sleep).expect("the script's child");
    launcher.stop();
    assert!(process::runs(beside), "it was killed");
    kill(Pid::from_raw(beside as i32), Signal::SIGKILL).expect("kill it");
}

#[test]
fn as_pid_1_it_reaps_obeys_and_ends() {
    let namespace = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    if !Command::new("unshare").args(namespace).arg("true").status().is_ok_and(|status| status.success()) {
        println!("namespaces of pids cannot be made here: nothing was tried");
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let site = Site::new();
        let yaml = yaml(&site, 3, "sleep 1000");
        let inner = site.command(["run"]);
        let mut command = Command::new("unshare");
        command.args(namespace).arg(inner.get_program()).args(inner.get_args()).arg(site.configure(&yaml));
        let mut launcher = Launcher::start(command, &yaml);
        let starting = launcher.wait("starting", |event| event.is("starting"));
        assert_eq!(starting.number("pid"), 2, "PID 1 is the keeper");
        launcher.wait("serving", |event| event.is("serving"));
        let [keeper] = process::children(launcher.pid())[..] else { panic!("unshare has one child") };
        let [master] = process::children(keeper)[..] else { panic!("the keeper has one child") };
        // The pids in the file are those of the namespace, so they are found by their name.
        let sleep = |pid: &u32| fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name == b"sleep\n");
        let orphans = || process::children(master).into_iter().filter(sleep).collect::<Vec<_>>();
        assert!(eventually(|| orphans().len() == 3));
        let victim = orphans()[0];
        kill(Pid::from_raw(victim as i32), Signal::SIGKILL).expect("kill an orphan");
        assert!(eventually(|| !process::children(master).contains(&victim)), "it was not reaped");
        let left = process::descendants(keeper);
        kill(Pid::from_raw(keeper as i32), signal).expect("signal PID 1");
        assert!(process::ends(keeper, PATIENCE), "{signal}: it does not end");
        assert_eq!(launcher.exit().code(), Some(0), "{signal}\n{}", launcher.story());
        for pid in left {
            assert!(!process::runs(pid), "process {pid} outlives PID 1");
        }
    }
}
