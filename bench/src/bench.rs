//! What every scenario needs: the launcher, the plugins, a directory to write into.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::options::Options;

/// See the module.
pub(crate) struct Bench {
    pub(crate) options: Options,
    /// The project's directory.
    pub(crate) project: PathBuf,
    /// The launcher.
    pub(crate) binary: PathBuf,
    /// Where native plugins are.
    libraries: PathBuf,
    scratch: tempfile::TempDir,
    shapes: OnceLock<Result<PathBuf, String>>,
    wasi03: OnceLock<Result<PathBuf, String>>,
}

impl Bench {
    /// Builds what is measured, unless a binary is given.
    pub(crate) fn prepare(project: &Path, options: &Options) -> Result<Bench, Box<dyn Error>> {
        let binary = match &options.binary {
            Some(binary) => std::path::absolute(binary)?,
            None => {
                let program = std::env::current_exe()?;
                let directory = program.parent().ok_or("this program is in no directory")?;
                build(project)?;
                directory.join("launcher")
            }
        };
        if !binary.is_file() {
            return Err(format!("there is no launcher at {}", binary.display()).into());
        }
        Ok(Bench {
            options: options.clone(),
            project: project.to_owned(),
            libraries: binary.parent().ok_or("the launcher is in no directory")?.to_owned(),
            binary,
            scratch: tempfile::tempdir()?,
            shapes: OnceLock::new(),
            wasi03: OnceLock::new(),
        })
    }

    /// A fresh directory for something of this name.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf, String> {
        let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        let directory = tempfile::Builder::new().prefix(&plain).tempdir_in(self.scratch.path());
        Ok(directory.map_err(|error| format!("no directory for {name}: {error}"))?.keep())
    }

    /// `plugins/hello` as a native plugin.
    pub(crate) fn native_hello(&self) -> Result<PathBuf, String> {
        self.library("libhello.so")
    }

    /// The handlers of every shape as a native plugin.
    pub(crate) fn native_shapes(&self) -> Result<PathBuf, String> {
        self.library("libbench_shapes.so")
    }

    /// `plugins/courier`, which sends messages.
    pub(crate) fn courier(&self) -> Result<PathBuf, String> {
        self.library("libcourier.so")
    }

    /// `plugins/misbehave`, of which a worker can be made to spin.
    pub(crate) fn misbehave(&self) -> Result<PathBuf, String> {
        self.library("libmisbehave.so")
    }

    fn library(&self, name: &str) -> Result<PathBuf, String> {
        // Of `cargo build`, or of a build of tests, which leaves it a level deeper.
        let places = [self.libraries.join(name), self.libraries.join("deps").join(name)];
        let missing = || format!("missing: {name} is not beside {}", self.binary.display());
        places.into_iter().find(|path| path.is_file()).ok_or_else(missing)
    }

    /// `plugins/hello.wat`.
    pub(crate) fn wasm_hello(&self) -> PathBuf {
        self.project.join("plugins/hello.wat")
    }

    /// The handlers of every shape as a WASI 0.2 component.
    pub(crate) fn wasm_shapes(&self) -> Result<PathBuf, String> {
        let build = || {
            let manifest = self.project.join("bench/shapes/Cargo.toml");
            self.component(&manifest, &[], "bench_shapes.wasm")
        };
        self.shapes.get_or_init(build).clone()
    }

    /// The least that answers a request, as somebody builds it who wants it small.
    pub(crate) fn least_component(&self) -> Result<PathBuf, String> {
        let small = ["opt-level=\"s\"", "lto=true", "codegen-units=1", "panic=\"abort\""];
        let small: Vec<String> =
            small.iter().flat_map(|setting| ["--config".to_owned(), format!("profile.release.{setting}")]).collect();
        let more: Vec<&str> = ["-p", "least"].into_iter().chain(small.iter().map(String::as_str)).collect();
        self.component(&self.project.join("launcher/tests/guests/Cargo.toml"), &more, "least.wasm")
    }

    /// `plugins/hello` as its author builds it.
    pub(crate) fn sdk_component(&self) -> Result<PathBuf, String> {
        self.component(&self.project.join("plugins/hello/Cargo.toml"), &[], "hello.wasm")
    }

    /// A hello of WASI 0.3.
    pub(crate) fn wasi03_hello(&self) -> Result<PathBuf, String> {
        let build = || {
            let manifest = self.project.join("launcher/tests/guests/Cargo.toml");
            self.component(&manifest, &["-p", "async-hello"], "async_hello.wasm")
        };
        self.wasi03.get_or_init(build).clone()
    }

    fn component(&self, manifest: &Path, more: &[&str], name: &str) -> Result<PathBuf, String> {
        let target = self.project.join("target/bench-components");
        let mut cargo = Command::new(self.project.join("scripts/wasm-cargo"));
        cargo.args(["build", "--release", "--quiet", "--target", "wasm32-wasip2", "--target-dir"]).arg(&target);
        cargo
            .args(["--config", "profile.release.strip=true"])
            .arg("--manifest-path")
            .arg(manifest)
            .args(more)
            .env_remove("RUSTFLAGS");
        run(&mut cargo)?;
        Ok(target.join("wasm32-wasip2/release").join(name))
    }

    /// Where the application of axum is built, as a program and as a plugin.
    pub(crate) fn axum(&self) -> Result<PathBuf, String> {
        let target = self.project.join("target/axum");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--release", "--quiet", "--locked", "--lib", "--example", "bare", "--manifest-path"]);
        cargo.arg(self.project.join("examples/sockets/axum/Cargo.toml")).arg("--target-dir").arg(&target);
        run(&mut cargo)?;
        Ok(target.join("release"))
    }

    /// The C plugin, compiled here.
    pub(crate) fn c_hello(&self) -> Result<PathBuf, String> {
        let library = self.scratch("c")?.join("hello-c.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O2", "-I"]).arg(self.project.join("worker-sdk/include"));
        compiler.arg(self.project.join("plugins/hello-c/hello.c")).arg("-o").arg(&library).arg("-lpthread");
        run(&mut compiler)?;
        Ok(library)
    }

    /// A file that `peers.sh` installs.
    pub(crate) fn peer(&self, path: &str) -> Result<PathBuf, String> {
        let path = self.project.join("bench/peers").join(path);
        match path.exists() {
            true => Ok(path),
            false => Err(format!("missing: {} is not there; bench/peers.sh installs it", path.display())),
        }
    }
}

/// The launcher and the plugins as they are now. The whole workspace, as its tests build it: with the features of a part
/// alone, cargo would compile wasmtime once more, and each of the two would replace the other's launcher.
fn build(project: &Path) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(Command::new(cargo).args(["build", "--release", "--quiet", "--workspace"]).current_dir(project))
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?}: {status}")),
        Err(error) => Err(format!("missing: {:?} does not start: {error}", command.get_program())),
    }
}
