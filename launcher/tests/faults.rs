//! A short schedule of faults, and that a mistake among them is found; `cargo run --release -p faults` is the long one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use faults::options::{Options, choose};
use faults::{report, run};

/// Where `plugins/hello` and `plugins/misbehave` are, built beside the main build: the outer cargo may hold its lock.
fn libraries() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the project's directory");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("plugins");
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--release", "--locked", "--quiet", "-p", "hello", "-p", "misbehave", "--target-dir"]);
        let status = cargo.arg(&target).current_dir(project).status().expect("cargo starts");
        assert!(status.success(), "{cargo:?}: {status}");
        target.join("release")
    })
}

fn scheduled(list: &str, time: Duration) -> (Options, run::Outcome) {
    let options = Options {
        binary: PathBuf::from(env!("CARGO_BIN_EXE_launcher")),
        libraries: libraries().to_owned(),
        seed: 1,
        time,
        faults: choose(Some(list)).expect("a list of faults"),
        list: Some(list.to_owned()),
    };
    let outcome = run::run(&options, |line| println!("{line}")).expect("the run begins");
    (options, outcome)
}

#[test]
fn clients_notice_no_fault_but_the_loss_of_what_a_killed_worker_held() {
    // Not those that wait for a pause of seconds in the schedule.
    let (options, outcome) = scheduled("-mortal,-bad-start,-kill-all,-master-no-descriptors", Duration::from_secs(12));
    assert!(outcome.good(), "{}", report::text(&options, &outcome));
    assert!(outcome.answered > 500 && outcome.rows.len() > 5, "{}", report::text(&options, &outcome));
}

#[test]
fn a_kill_that_the_judge_does_not_know_is_found() {
    let (options, outcome) = scheduled("planted-kill", Duration::from_secs(1));
    assert!(outcome.failed > 0 && !outcome.good(), "{}", report::text(&options, &outcome));
}
