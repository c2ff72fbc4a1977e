//! The documentation does what it says: its commands are run in their order, and what they print is what it shows.
//!
//! A fenced block is a step by its first words: `sh` is run, `sh background` is started and goes on, `sh stop` ends what
//! goes on, `LANGUAGE file=PATH` is written to a file, `text` after a command must be in what that has printed, line by
//! line. `wait=URL` before a command waits until that address answers. Blocks of other languages are for readers.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::http::get;
use crate::harness::launcher::BINARY;
use crate::harness::{Site, guests};

/// How long an address may take to answer: crates are compiled before it does.
const PATIENCE: Duration = Duration::from_secs(900);

/// A fenced block.
struct Block<'a> {
    info: &'a str,
    text: String,
}

fn blocks(page: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let text = lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
            blocks.push(Block { info, text });
        }
    }
    blocks
}

/// What goes on; ended when the page is.
struct Background(Vec<Child>);

impl Background {
    fn stop(&mut self) {
        for child in &self.0 {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
        }
        for mut child in self.0.drain(..) {
            let _ = child.wait();
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Reader<'a> {
    site: &'a Site,
    variables: Vec<(String, String)>,
    /// Stands for 127.0.0.1, so that pages are read beside each other.
    host: String,
    background: Background,
}

impl Reader<'_> {
    fn follow(&mut self, page: &Path) {
        let name = page.display().to_string();
        let text = fs::read_to_string(page).expect("read the page");
        let mut printed = String::new();
        for Block { info, text } in blocks(&text) {
            let text = text.replace("127.0.0.1", &self.host);
            let mut words = info.split_whitespace();
            let language = words.next().unwrap_or_default();
            let words: Vec<&str> = words.collect();
            let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key));
            if let Some(file) = value("file=") {
                self.site.write(file, text);
            } else if language == "text" && !text.starts_with('$') {
                for line in text.lines() {
                    assert!(printed.contains(line), "{name}: {line:?} is not in what was printed:\n{printed}");
                }
            } else if language == "sh" && words.contains(&"stop") {
                self.background.stop();
            } else if language == "sh" && words.contains(&"background") {
                self.start(&text);
            } else if language == "sh" {
                if let Some(url) = value("wait=") {
                    self.wait(&name, url);
                }
                printed = self.run(&name, &text);
                self.settle_in();
            }
        }
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).current_dir(self.site.path("")).stdin(Stdio::null());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    fn run(&self, page: &str, script: &str) -> String {
        let output = self.command(&format!("set -e\n{script}")).output().expect("start a shell");
        let words = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(output.status.success(), "{page}: {}\n{script}\n{words}", output.status);
        words
    }

    /// The last line goes on.
    fn start(&mut self, script: &str) {
        let (before, last) = script.trim_end().rsplit_once('\n').unwrap_or(("", script.trim_end()));
        let mut command = self.command(&format!("set -e\n{before}\nexec {last}"));
        self.background.0.push(command.process_group(0).stdout(Stdio::null()).spawn().expect("start a shell"));
    }

    fn wait(&self, page: &str, url: &str) {
        let url = url.replace("127.0.0.1", &self.host);
        let (address, path) = url.trim_start_matches("http://").split_once('/').expect("an address and a path");
        let deadline = Instant::now() + PATIENCE;
        while !get(address, &format!("/{path}")).is_ok_and(|response| response.status() < 400) {
            assert!(Instant::now() < deadline, "{page}: {url} does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// New projects get addresses of this page, the workspace's versions of crates, and a place where crates that were
    /// compiled once are found again.
    fn settle_in(&self) {
        for project in directories(&self.site.path("")) {
            for file in fs::read_dir(&project).expect("a directory").flatten().map(|entry| entry.path()) {
                if file.extension().is_some_and(|extension| extension == "yaml") {
                    let text = fs::read_to_string(&file).expect("read a configuration");
                    fs::write(&file, text.replace("127.0.0.1", &self.host)).expect("write a configuration");
                }
            }
            if project.join("Cargo.toml").exists() && !project.join("target").exists() {
                fs::copy(guests::project().join("Cargo.lock"), project.join("Cargo.lock")).expect("copy the lock file");
                std::os::unix::fs::symlink(guests::of_templates(), project.join("target")).expect("link");
            }
        }
    }
}

fn directories(of: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(of).expect("a directory").flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_dir()).collect()
}

fn follow(page: &str, host: u8) {
    let site = Site::new();
    let mut variables = guests::wasm_toolchain();
    let binaries = Path::new(BINARY).parent().expect("the binary is in a directory").display().to_string();
    let inherited = std::env::var("PATH").unwrap_or_default();
    match variables.iter_mut().find(|(name, _)| name == "PATH") {
        Some((_, path)) => *path = format!("{binaries}:{path}"),
        None => variables.push(("PATH".to_owned(), format!("{binaries}:{inherited}"))),
    }
    let host = format!("127.79.{}.{host}", std::process::id() % 250);
    let mut reader = Reader { site: &site, variables, host, background: Background(Vec::new()) };
    reader.follow(&guests::project().join("docs").join(page));
}

#[test]
fn the_tutorial_leads_where_it_says() {
    follow("tutorial.md", 1);
}

#[test]
fn the_page_about_rust_does_what_it_says() {
    follow("how-to/rust.md", 2);
}

#[test]
fn the_page_about_c_does_what_it_says() {
    follow("how-to/c.md", 3);
}

#[test]
fn the_page_about_connections_does_what_it_says() {
    follow("how-to/connections.md", 4);
}

#[test]
fn the_page_about_sockets_does_what_it_says() {
    follow("how-to/sockets.md", 9);
}

#[test]
fn the_page_about_messages_does_what_it_says() {
    follow("how-to/messages.md", 5);
}

#[test]
fn the_references_are_what_the_program_prints() {
    let site = Site::new();
    for subject in ["cli", "configuration"] {
        let printed = String::from_utf8(site.output(["reference", subject]).stdout).expect("text");
        let page = guests::project().join(format!("docs/reference/{subject}.md"));
        let kept = fs::read_to_string(&page).unwrap_or_default();
        assert!(printed == kept, "run `launcher reference {subject} >docs/reference/{subject}.md`\n{printed}");
    }
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    let docs = guests::project().join("docs");
    let mut pages = vec![docs.join("README.md"), docs.join("tutorial.md"), guests::project().join("README.md")];
    pages.extend(fs::read_dir(docs.join("how-to")).expect("pages").flatten().map(|entry| entry.path()));
    for page in pages {
        let text = fs::read_to_string(&page).expect("read the page");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") {
                let leads = page.parent().expect("a directory").join(file).exists();
                assert!(leads, "{}: {target} leads nowhere", page.display());
            }
        }
    }
}
