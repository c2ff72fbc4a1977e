//! Every template of `launcher new` is created, built, served, edited, and its own test run.
//!
//! JavaScript and Python need their package registries and half a minute a build: `scripts/slow-tests` does the same with
//! them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;

use crate::harness::projects::{develop, edited, passes, project};
use crate::harness::{Launcher, Site, guests};

#[test]
fn a_project_in_c_is_served_edited_and_tested() {
    let site = Site::new();
    let project = project(&site, "c", "my-c");
    let mut launcher = develop(&project, "config.yaml", &[]);
    edited(&mut launcher, &project.join("plugin.c"), "my-c", "int x = ;\n", "expected expression");
    let test = "mkdir -p build && cc -std=c11 -g -Wall -Wextra -Werror test.c -o build/test && build/test";
    passes(Command::new("sh").args(["-c", test]).current_dir(&project));
}

#[test]
fn a_project_in_rust_is_served_edited_and_tested_in_both_builds() {
    let site = Site::new();
    let project = project(&site, "rust", "my-rust");
    // The versions that the workspace has, so that nothing is looked up, and a directory that outlives this run: the
    // crates are compiled once.
    fs::copy(guests::project().join("Cargo.lock"), project.join("Cargo.lock")).expect("copy the lock file");
    std::os::unix::fs::symlink(guests::of_templates(), project.join("target")).expect("link the build's directory");
    // Crates are compiled here, where nobody waits for an event.
    passes(Command::new("cargo").args(["test", "--release"]).current_dir(&project));
    passes(Command::new("cargo").args(["build", "--release"]).current_dir(&project));
    let mut launcher = develop(&project, "config.yaml", &[]);
    edited(&mut launcher, &project.join("src/lib.rs"), "my-rust", "fn broken() -> u8 { \"\" }\n", "mismatched types");
    let toolchain = guests::wasm_toolchain();
    let mut component = Command::new("cargo");
    component.args(["build", "--release", "--target", "wasm32-wasip2"]).current_dir(&project);
    passes(component.envs(toolchain.iter().map(|(name, value)| (name, value))));
    let mut launcher = develop(&project, "component.yaml", &toolchain);
    edited(&mut launcher, &project.join("src/lib.rs"), "my-rust", "fn broken() -> u8 { \"\" }\n", "mismatched types");
}

#[test]
fn a_project_that_owns_its_sockets_is_served_edited_and_tested() {
    let site = Site::new();
    let project = project(&site, "socket", "my-socket");
    // As above; tokio's features are others than the example's of HTTP.
    fs::copy(guests::project().join("Cargo.lock"), project.join("Cargo.lock")).expect("copy the lock file");
    std::os::unix::fs::symlink(guests::of_templates(), project.join("target")).expect("link the build's directory");
    passes(Command::new("cargo").args(["test", "--release"]).current_dir(&project));
    passes(Command::new("cargo").args(["build", "--release"]).current_dir(&project));
    let mut launcher = develop(&project, "config.yaml", &[]);
    let said = |launcher: &Launcher| {
        let mut client = TcpStream::connect(launcher.address("my-socket")).expect("connects");
        client.write_all(b"you\n").expect("writes");
        let mut line = String::new();
        BufReader::new(client).read_line(&mut line).expect("an answer");
        line
    };
    let swapped = |mark| launcher.wait_after(mark, "swapped", |event| event.is("swapped"));
    swapped(0);
    assert_eq!(said(&launcher), "Hello from Rust, you!\n", "{}", launcher.story());
    let mark = launcher.mark();
    let source = project.join("src/lib.rs");
    let original = fs::read_to_string(&source).expect("the source");
    fs::write(&source, original.replace("Hello from", "Greetings from")).expect("save");
    swapped(mark);
    assert_eq!(said(&launcher), "Greetings from Rust, you!\n", "{}", launcher.story());
    launcher.stop();
}

#[test]
fn the_list_names_every_template() {
    let site = Site::new();
    let list = String::from_utf8(site.output(["new", "--list"]).stdout).expect("text");
    let names: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["rust", "socket", "c", "javascript", "python"]);
}

#[test]
fn nothing_is_written_over() {
    let site = Site::new();
    site.write("shop/notes.txt", "mine");
    let refused = site.output(["new", "shop"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("exists and is not empty"));
    assert_eq!(fs::read_dir(site.path("shop")).expect("the directory").count(), 1);
    assert_eq!(site.output(["new", "not a name"]).status.code(), Some(2));
    assert_eq!(site.output(["new", "x", "--sdk", "nowhere"]).status.code(), Some(2));
    // An empty one is as good as none, and an SDK that is there is not written out.
    fs::create_dir(site.path("empty")).expect("make a directory");
    let sdk = guests::project().join("worker-sdk");
    let made = site.command(["new", "empty", "--sdk"]).arg(&sdk).output().expect("start the launcher");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let manifest = fs::read_to_string(site.path("empty/Cargo.toml")).expect("the manifest");
    assert!(manifest.contains(&sdk.display().to_string()), "{manifest}");
    assert!(!site.path("empty/vendor").exists());
}
