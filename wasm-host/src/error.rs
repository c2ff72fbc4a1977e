//! Why a plugin cannot be used, and why a call of a usable one failed.

use thiserror::Error;

/// A component cannot be compiled, loaded or started. The text is for the person who wrote or deploys it;
/// the caller puts the file's name before it.
#[derive(Debug, Error)]
pub enum PluginError {
    /// The bytes are something else.
    #[error("this is not a WebAssembly component: {found}; build the plugin for the target wasm32-wasip2")]
    NotWasm {
        /// What the first bytes look like.
        found: String,
    },
    /// A core module, not a component.
    #[error("this is a core WebAssembly module, and the launcher runs components; {how}")]
    CoreModule {
        /// What it seems to be, and what to do.
        how: String,
    },
    /// A core module that names its interfaces, but does not become a component.
    #[error("this is a core WebAssembly module that does not become a component: {detail}; build it for wasm32-wasip2")]
    NotComponentised {
        /// From the encoder.
        detail: String,
    },
    /// The file ends early.
    #[error(
        "the WebAssembly binary ends in the middle ({size} bytes): {detail}; it was truncated or is still being written, \
         build or copy it again"
    )]
    Truncated {
        /// Bytes there are.
        size: usize,
        /// What the parser missed.
        detail: String,
    },
    /// The text format does not parse.
    #[error("the WebAssembly text does not parse: {detail}")]
    Text {
        /// With line, column and the line itself.
        detail: String,
    },
    /// Malformed, or uses features that the engine does not have.
    #[error("the component is invalid, or uses a feature that this launcher does not support: {detail}")]
    Invalid {
        /// From the parser or the compiler.
        detail: String,
    },
    /// Nothing that could be served.
    #[error(
        "the component exports {exports}, none of which the launcher can serve; it needs to export \
         wasi:http/incoming-handler@0.2 or wasi:http/handler@0.3 to answer requests, or wasi:cli/run@0.2 or 0.3 to own its \
         sockets{near}. In Rust put #[worker_sdk::http] on the handler; \
         in WIT the world needs the line `export wasi:http/incoming-handler@0.2.3;`"
    )]
    NoWorld {
        /// The exports' names.
        exports: String,
        /// What was meant; empty or begins with "; ".
        near: String,
    },
    /// An import that nobody provides.
    #[error(
        "the component imports {imports}, which the launcher does not provide; it provides WASI 0.2 and 0.3 \
         (wasi:cli, clocks, filesystem, io, random, sockets, http), wasi:config/store and launcher:messages{hints}"
    )]
    MissingImport {
        /// The imports' names.
        imports: String,
        /// What to do about each; empty or begins with "; ".
        hints: String,
    },
    /// An import that is provided, but not of this type.
    #[error("the component's imports do not fit what the launcher provides: {detail}")]
    ImportMismatch {
        /// From the linker.
        detail: String,
    },
    /// The engine could not be made.
    #[error("cannot set up the WebAssembly engine: {detail}")]
    Engine {
        /// From the engine.
        detail: String,
    },
    /// The compiled form does not load.
    #[error("cannot load the compiled component: {detail}")]
    Load {
        /// From the engine.
        detail: String,
    },
    /// A directory of `wasm.dirs` cannot be opened.
    #[error("cannot open the directory {} of wasm.dirs", dir.display())]
    Dir {
        /// On the host.
        dir: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The component is of a world that this host type does not serve.
    #[error("the component does not answer HTTP requests (its world is {world:?})")]
    NotHttp {
        /// What it is.
        world: crate::World,
    },
    /// The component answers requests, and is no program.
    #[error("the component is no program (its world is {world:?})")]
    NotProgram {
        /// What it is.
        world: crate::World,
    },
    /// An instance could not be started.
    #[error("the component does not start: {reason}")]
    Start {
        /// What its first instance did.
        reason: String,
    },
}

/// One call of a guest did not produce a response, or ended in the middle of one.
///
/// The worker lives on; the instance is gone.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct CallFailure {
    /// The HTTP status that describes it: 500, 503 or 504; 400 for a request that no guest can be given.
    pub status: u16,
    /// For the log, not for the client.
    pub reason: String,
}

impl CallFailure {
    pub(crate) fn new(status: u16, reason: impl Into<String>) -> CallFailure {
        CallFailure { status, reason: reason.into() }
    }
}

/// An error with its causes in one line, without the backtrace lines that the engine appends to its own.
pub(crate) fn chain(error: &wasmtime::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        let cause = cause.trim();
        if !cause.is_empty() && !text.ends_with(cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(cause);
        }
    }
    text
}
