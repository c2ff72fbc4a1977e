//! Projects made by `launcher new`, and the loop of their authors.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::http::fetch;
use super::launcher::eventually;
use super::{Launcher, Site};

/// How long a build may take: it fetches packages and compiles crates at first.
const PATIENCE: Duration = Duration::from_secs(600);

/// A project of a template, on a free port.
pub(crate) fn project(site: &Site, template: &str, name: &str) -> PathBuf {
    let made = site.output(["new", name, "--template", template]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(String::from_utf8_lossy(&made.stdout).contains("launcher dev"));
    for file in ["config.yaml", "component.yaml"] {
        let path = site.path(name).join(file);
        if let Ok(text) = fs::read_to_string(&path) {
            let text = text.replace(":8080", ":0").replace(":8081", ":0");
            let master = if text.contains("\nmaster:\n") { "" } else { "master:\n" };
            fs::write(&path, format!("{text}{master}  log: {{ format: json, level: debug }}\n")).expect("write");
        }
    }
    site.path(name)
}

/// Starts `launcher dev` in a project.
pub(crate) fn develop(project: &Path, config: &str, variables: &[(String, String)]) -> Launcher {
    let mut command = Command::new(super::launcher::BINARY);
    command.args(["dev", config]).current_dir(project).stdin(Stdio::null());
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let mut launcher = Launcher::start(command, config);
    launcher.be_patient(PATIENCE);
    launcher
}

/// The loop of an author: served, edited, broken, mended.
pub(crate) fn edited(launcher: &mut Launcher, source: &Path, service: &str, mistake: &str, complaint: &str) {
    let swapped = |mark| launcher.wait_after(mark, "swapped", |event| event.is("swapped"));
    swapped(0);
    let address = launcher.address(service);
    let original = fs::read_to_string(source).expect("the source");
    assert!(fetch(&address, "/").text().contains("Hello from"), "{}", launcher.story());
    let mark = launcher.mark();
    fs::write(source, original.replacen("Hello from", "Greetings from", 1)).expect("save");
    swapped(mark);
    assert!(fetch(&address, "/").text().contains("Greetings from"), "{}", launcher.story());
    let mark = launcher.mark();
    fs::write(source, format!("{original}{mistake}")).expect("save");
    let failed = launcher.wait_after(mark, "build_failed", |event| event.is("build_failed"));
    assert!(failed.text("output").contains(complaint), "{}", failed.text("output"));
    assert!(fetch(&address, "/").text().contains("Greetings from"), "the last good generation goes on");
    let mark = launcher.mark();
    fs::write(source, &original).expect("save");
    swapped(mark);
    assert!(eventually(|| fetch(&address, "/").text().contains("Hello from")), "{}", launcher.story());
    launcher.stop();
}

/// Runs a command that must succeed.
pub(crate) fn passes(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let words = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{command:?}: {words}");
}
