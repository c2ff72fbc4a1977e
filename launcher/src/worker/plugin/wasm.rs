//! WASM components as plugins: what [`wasm_host`] offers, in the shape that the HTTP side asks for; and programs.

use std::fs::File;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::http::{Request, Response};
use pin_project_lite::pin_project;
use wasm_host::{
    CallFailure, Given, GuestBody, HttpGuest, Manifest, Observer, Output, Program, Ready, Stream, Surroundings,
};

use super::wasm_post::Office;
use super::{Failure, HttpPlugin};
use crate::channel::Assign;
use crate::sys::process::leave_shared_descriptors;
use crate::worker::http::{Peer, RequestBody};
use crate::worker::post::Post;

/// A component that answers requests.
pub struct WasmPlugin {
    guest: HttpGuest,
}

/// Load a compiled component and try it once. An error is why it cannot serve, for a person.
pub(in crate::worker) async fn load(
    compiled: File,
    manifest: &Manifest,
    assign: &Assign,
    post: &Arc<Post>,
    ready: Ready,
) -> Result<WasmPlugin, String> {
    let name = |error: wasm_host::PluginError| format!("{}: {error}", assign.plugin_path);
    let Assign { wasm, env, config, .. } = assign;
    let guest = HttpGuest::load(compiled, manifest, wasm, env, config, surroundings(post, ready));
    let guest = guest.map_err(name)?;
    guest.warm().await.map_err(name)?;
    Ok(WasmPlugin { guest })
}

/// Load a compiled program, which may bind what it is given.
pub(in crate::worker) fn load_program(
    compiled: File,
    manifest: &Manifest,
    assign: &Assign,
    given: Vec<Given>,
    connections: usize,
    observer: Box<dyn Observer>,
    post: &Arc<Post>,
) -> Result<Program, String> {
    let Assign { wasm, env, config, plugin_path, .. } = assign;
    let name = plugin_path.clone();
    let loaded = Program::load(
        compiled,
        manifest,
        wasm,
        env,
        config,
        surroundings(post, Ready::default()),
        name,
        given,
        connections,
        observer,
    );
    loaded.map_err(|error| format!("{plugin_path}: {error}"))
}

/// What this worker has for its guests.
fn surroundings(post: &Arc<Post>, ready: Ready) -> Surroundings {
    Surroundings { output: output(), post: Some(Arc::new(Office(Arc::clone(post)))), on_thread: alone, ready }
}

/// Where the lines of guests go.
fn output() -> Output {
    Arc::new(|stream: Stream, line: &[u8]| {
        let mut line = line.to_vec();
        line.push(b'\n');
        // One write a line. Nobody is left to tell if it fails.
        let _ = match stream {
            Stream::Stdout => std::io::stdout().write_all(&line),
            Stream::Stderr => std::io::stderr().write_all(&line),
        };
    })
}

/// Without it everything works as well, only slower.
fn alone() {
    drop(leave_shared_descriptors(None));
}

impl WasmPlugin {
    /// Waits, once no request will come, until the guest has done what it does after its responses.
    pub fn rest(&self) -> impl Future<Output = ()> + use<> {
        let guest = self.guest.clone();
        async move { guest.rest().await }
    }
}

impl HttpPlugin for WasmPlugin {
    type Body = GuestBody;

    fn handle(
        &self,
        request: Request<RequestBody>,
        _: &Peer,
    ) -> impl Future<Output = Result<Response<GuestBody>, Failure>> + Send + use<> {
        Answer { call: self.guest.handle(request) }
    }
}

pin_project! {
    /// A call with our kind of failure. By hand: an async block would hold, and move, the call twice.
    struct Answer<F> {
        #[pin]
        call: F,
    }
}

impl<F: Future<Output = Result<Response<GuestBody>, CallFailure>>> Future for Answer<F> {
    type Output = Result<Response<GuestBody>, Failure>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answered = self.project().call.poll(context);
        answered.map(|answer| answer.map_err(|CallFailure { status, reason }| Failure { status, reason }))
    }
}
