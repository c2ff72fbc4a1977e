//! The components that tests serve, built once a run where a compiler is needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What `/version` of the kitchen answers as built; see its source.
const KITCHEN_VERSION: &str = "kitchen-version-00000000";

/// What `plugins/hello.wat` says, without the end of the line.
const HELLO: &str = "Hello from WebAssembly!";

/// `plugins/hello.wat`, the text form of a component.
pub(crate) fn hello_wat() -> String {
    let path = project().join("plugins/hello.wat");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// A small component that answers [`greeting`] of this version to every request.
pub(crate) fn hello(version: u32) -> Vec<u8> {
    component(&hello_wat().replace(HELLO, greeting(version).trim_end()))
}

/// The text of a version of [`hello`]: as long as the original one.
pub(crate) fn greeting(version: u32) -> String {
    format!("{:<23}\n", format!("Hello, version {version}")).replace(' ', ".")
}

/// A component from its text form.
pub(crate) fn component(wat: &str) -> Vec<u8> {
    wat::parse_str(wat).unwrap_or_else(|error| panic!("not a component in text form: {error}"))
}

/// A guest with a route for every facility of the host (`tests/guests/kitchen`).
pub(crate) fn kitchen() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| project_guests().join("kitchen.wasm"))
}

/// The kitchen with another answer to `/version`: 24 bytes, patched into the compiled component.
pub(crate) fn kitchen_version(version: u32) -> (Vec<u8>, String) {
    let answer = format!("kitchen-version-{version:08}");
    let mut bytes = fs::read(kitchen()).expect("read the kitchen guest");
    let mut places =
        bytes.windows(KITCHEN_VERSION.len()).enumerate().filter(|(_, window)| *window == KITCHEN_VERSION.as_bytes());
    let (at, _) = places.next().expect("the version is in the component");
    assert!(places.next().is_none(), "the version is twice in the component");
    bytes[at..at + answer.len()].copy_from_slice(answer.as_bytes());
    (bytes, answer)
}

/// A guest of WASI 0.3 (`tests/guests/async-hello`).
pub(crate) fn async_hello() -> PathBuf {
    project_guests().join("async_hello.wasm")
}

/// A program of WASI 0.2 that owns its sockets (`tests/guests/lines`).
pub(crate) fn lines() -> Vec<u8> {
    fs::read(project_guests().join("lines.wasm")).expect("read the guest")
}

/// The same bytes but for a custom section: another version, of which the launcher makes another generation.
pub(crate) fn other_version(component: &[u8]) -> Vec<u8> {
    let name = b"another";
    let length = u8::try_from(name.len()).expect("a short name");
    [component, &[0, length + 1, length], name].concat()
}

/// A program of WASI 0.3 that owns its sockets (`tests/guests/async-lines`).
pub(crate) fn async_lines() -> Vec<u8> {
    fs::read(project_guests().join("async_lines.wasm")).expect("read the guest")
}

/// A program of WASI 0.2 that waits for messages by the SDK (`tests/guests/postman`).
pub(crate) fn postman() -> Vec<u8> {
    fs::read(project_guests().join("postman.wasm")).expect("read the guest")
}

/// The example HTTP server of the `wstd` crate, built from the registry's sources as they are.
pub(crate) fn wstd_server() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        project_guests(); // its lock file says which version, and it brings the sources
        let metadata = output(
            Command::new(project().join("scripts/wasm-cargo"))
                .args([
                    "metadata",
                    "--format-version=1",
                    "--locked",
                    "--filter-platform=wasm32-wasip2",
                    "--manifest-path",
                ])
                .arg(manifest()),
        );
        let metadata: serde_json::Value = serde_json::from_slice(&metadata).expect("cargo's metadata are JSON");
        let packages = metadata["packages"].as_array().expect("cargo's metadata list packages");
        let wstd = packages.iter().find(|package| package["name"] == "wstd").expect("the guests use wstd");
        let manifest = wstd["manifest_path"].as_str().expect("a package has a manifest");
        build(Command::new(project().join("scripts/wasm-cargo")).args([
            "build",
            "--locked",
            "--example",
            "http_server",
            "--manifest-path",
            manifest,
        ]));
        target().join("wasm32-wasip2/release/examples/http_server.wasm")
    })
}

/// Builds the plugins that the examples name, where they name them.
pub(crate) fn examples() {
    let cargo = |program: &Path, more: &[&str]| {
        let mut command = Command::new(program);
        command.args(["build", "--release", "--manifest-path"]).arg(project().join("Cargo.toml")).args(more);
        output(&mut command);
    };
    cargo(Path::new("cargo"), &["-p", "dispatcher", "-p", "hello", "-p", "json-api", "-p", "proxy"]);
    cargo(&project().join("scripts/wasm-cargo"), &["-p", "hello", "--target", "wasm32-wasip2"]);
}

/// First-party plugins that tests serve.
const PLUGINS: [&str; 4] = ["hello", "misbehave", "showcase", "static-files"];

/// Those that are native only.
const NATIVE: [&str; 7] =
    ["courier", "echo-lines", "json-api", "misbehave-loop", "misbehave-sockets", "udp-responder", "unix-server"];

/// A first-party plugin as a native library.
pub(crate) fn native(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let directory = BUILT.get_or_init(|| {
        let target = target().with_file_name("plugins");
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--release", "--locked", "--manifest-path"]).arg(project().join("Cargo.toml"));
        for package in PLUGINS.into_iter().chain(NATIVE) {
            cargo.args(["-p", package]);
        }
        output(cargo.arg("--target-dir").arg(&target));
        target.join("release")
    });
    directory.join(format!("lib{}.so", name.replace('-', "_")))
}

/// The example of axum, which has a workspace of its own.
pub(crate) fn axum_app() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let target = target().with_file_name("axum");
        let manifest = project().join("examples/sockets/axum/Cargo.toml");
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--release", "--locked", "--manifest-path"]).arg(manifest);
        output(cargo.arg("--target-dir").arg(&target));
        target.join("release/libaxum_app.so")
    });
    built.clone()
}

/// The example of a WASM program that owns its socket.
pub(crate) fn shout() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let manifest = project().join("examples/sockets/wasm/Cargo.toml");
        let mut cargo = Command::new(project().join("scripts/wasm-cargo"));
        build(cargo.args(["build", "--locked", "--manifest-path"]).arg(manifest));
        target().join("wasm32-wasip2/release/shout.wasm")
    });
    built.clone()
}

/// The same plugin as a component.
pub(crate) fn wasm(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let directory = BUILT.get_or_init(|| {
        let mut cargo = Command::new(project().join("scripts/wasm-cargo"));
        cargo.args(["build", "--locked", "--manifest-path"]).arg(project().join("Cargo.toml"));
        for package in PLUGINS {
            cargo.args(["-p", package]);
        }
        build(&mut cargo);
        target().join("wasm32-wasip2/release")
    });
    directory.join(format!("{}.wasm", name.replace('-', "_")))
}

/// The plugin in C; each version answers `Hello from C, version N` to `/`.
pub(crate) fn c_hello(version: u32) -> Vec<u8> {
    c_hello_with("Hello from C!", &format!("Hello from C, version {version:02}"))
}

/// The plugin in C with a piece of its source replaced.
pub(crate) fn c_hello_with(piece: &str, instead: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().expect("make a directory");
    let source = fs::read_to_string(project().join("plugins/hello-c/hello.c")).expect("read the plugin in C");
    assert!(source.contains(piece), "no {piece} in the plugin in C");
    let (file, library) = (directory.path().join("hello.c"), directory.path().join("hello.so"));
    fs::write(&file, source.replace(piece, instead)).expect("write it");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-I"]).arg(project().join("worker-sdk/include"));
    output(cc.arg(file).arg("-o").arg(&library).arg("-lpthread"));
    fs::read(library).expect("read the library")
}

/// Directory of the built guests of the project.
fn project_guests() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        build(
            Command::new(project().join("scripts/wasm-cargo"))
                .args(["build", "--locked", "--manifest-path"])
                .arg(manifest()),
        );
        target().join("wasm32-wasip2/release")
    })
}

fn build(command: &mut Command) {
    output(command.args(["--release", "--target", "wasm32-wasip2", "--target-dir"]).arg(target()));
}

/// Runs a command that must succeed; gives its standard output.
fn output(command: &mut Command) -> Vec<u8> {
    // What the outer cargo tells a test about itself would be taken for settings of this build.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
    );
    output.stdout
}

/// Where projects made from a template are built.
pub(crate) fn of_templates() -> PathBuf {
    let directory = target().with_file_name("templates");
    fs::create_dir_all(&directory).expect("make a directory");
    directory
}

/// The variables that select the WASM toolchain, as `scripts/wasm-cargo` sets them.
pub(crate) fn wasm_toolchain() -> Vec<(String, String)> {
    let selection = output(&mut Command::new(project().join("scripts/wasm-toolchain")));
    let selection = String::from_utf8(selection).expect("a path");
    let script = format!("set -a; . {}; env -0", selection.trim());
    let variables = output(Command::new("bash").args(["-c", &script]).env_remove("RUSTC"));
    let variables = String::from_utf8(variables).expect("variables are text");
    let wanted = ["RUSTC", "CARGO_TARGET_WASM32_WASIP2_LINKER", "PATH"];
    let variables = variables.split('\0').filter_map(|variable| variable.split_once('='));
    let variables = variables.filter(|(name, _)| wanted.contains(name));
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The directory of the project.
pub(crate) fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the project's directory")
}

fn manifest() -> PathBuf {
    project().join("launcher/tests/guests/Cargo.toml")
}

/// Beside the main build, not in it: the outer cargo may hold that one's lock.
fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("tmp is in the target directory").join("guests")
}
