//! A loaded component that answers HTTP requests, and the bodies of its responses.
//!
//! This is the border: generic requests become plain ones here, so that everything behind is compiled once.

use std::fmt::Display;
use std::fs::File;
use std::future::{Future, poll_fn};
use std::os::fd::AsRawFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use tokio::runtime::Handle;
use tokio::task::unconstrained;
use tokio::time::timeout;
use wasmtime::component::{Component, InstancePre};
use wasmtime::{Engine, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::{Error, WasiBody};

use crate::engine::{Allocation, capacity, engine};
use crate::epoch::{Meter, Ticker};
use crate::error::{CallFailure, PluginError, chain};
use crate::host::{Host, Sandbox, Surroundings};
use crate::http02::{Call, Http02};
use crate::http03::{Http03, Place};
use crate::linker::linker;
use crate::output::{Output, Stream};
use crate::{Manifest, Settings, Variables, World};

/// How long a guest may go on after its response has ended.
pub(crate) const AFTER_RESPONSE: Duration = Duration::from_secs(30);

/// A component that answers HTTP requests, loaded.
#[derive(Clone)]
pub struct HttpGuest(Protocol);

#[derive(Clone)]
enum Protocol {
    Http02(Arc<Http02>),
    Http03(Arc<Http03>),
}

/// What both protocols need to make instances.
pub(crate) struct Loaded {
    pub(crate) engine: Engine,
    pub(crate) sandbox: Sandbox,
    pub(crate) ticker: Arc<Ticker>,
    pub(crate) output: Output,
    /// Instances that may exist at once.
    pub(crate) instances: u32,
    /// Requests that one instance serves.
    pub(crate) reuse: u32,
}

impl HttpGuest {
    /// Loads what [`compile`](crate::compile()) made. The file is mapped, so that all workers share its pages.
    ///
    /// `compiled` has to hold bytes that this build's `compile` made and nobody changed: they are machine code.
    /// `config` becomes `wasi:config/store`. Errors: the file was made by another build, or a directory of
    /// `settings` does not open.
    pub fn load(
        compiled: File,
        manifest: &Manifest,
        settings: &Settings,
        env: &Variables,
        config: &serde_json::Value,
        surroundings: Surroundings,
    ) -> Result<HttpGuest, PluginError> {
        let Surroundings { output, post, on_thread, ready } = surroundings;
        if manifest.world.is_program() {
            return Err(PluginError::NotHttp { world: manifest.world });
        }
        let sandbox = Sandbox::new(settings, env, config, Arc::clone(&output))?.with_post(post);
        let refused = |error: wasmtime::Error| PluginError::Load { detail: chain(&error) };
        let (pooled, linked) = match ready.take(manifest) {
            Some((engine, linker)) => (deserialize_for(engine, &compiled), Some(linker)),
            None => (deserialize(&compiled, manifest, Allocation::Pool), None),
        };
        let (engine, component, allocation, linked) = match pooled {
            Ok((engine, component)) => (engine, component, Allocation::Pool, linked),
            // Too big for a slot of the pool; if the file itself is bad, this fails as well and says why.
            Err(_) => {
                let (engine, component) = deserialize(&compiled, manifest, Allocation::OnDemand)?;
                (engine, component, Allocation::OnDemand, None)
            }
        };
        let linker = match linked {
            Some(linker) => linker,
            None => linker(&engine, manifest.concurrency, manifest.world).map_err(refused)?,
        };
        let pre: InstancePre<Host> = linker.instantiate_pre(&component).map_err(refused)?;
        let ticker = Ticker::new(&engine, on_thread)
            .map_err(|error| PluginError::Engine { detail: format!("cannot start a thread: {error}") })?;
        let loaded = Loaded {
            instances: capacity(&component, allocation),
            engine,
            sandbox,
            ticker: Arc::new(ticker),
            output,
            reuse: settings.reuse_of(manifest),
        };
        let protocol = if manifest.world == World::Http03 {
            Protocol::Http03(Arc::new(Http03::new(loaded, pre).map_err(refused)?))
        } else {
            Protocol::Http02(Arc::new(Http02::new(loaded, pre).map_err(refused)?))
        };
        Ok(HttpGuest(protocol))
    }

    /// Starts one instance and keeps it for the first request. A component that cannot start fails here, before its
    /// worker says that it is ready. Needs a tokio runtime.
    pub async fn warm(&self) -> Result<(), PluginError> {
        let warmed = match &self.0 {
            Protocol::Http02(guest) => guest.warm().await,
            Protocol::Http03(guest) => guest.warm().await,
        };
        warmed.map_err(|failure| PluginError::Start { reason: failure.reason })
    }

    /// Waits until no guest is at work any more, also after its response. To be called when no request will come.
    pub async fn rest(&self) {
        match &self.0 {
            Protocol::Http02(guest) => guest.rest().await,
            Protocol::Http03(guest) => guest.rest().await,
        }
    }

    /// Calls the guest. Returns when it has set the head of its response.
    ///
    /// The guest runs inside this future and inside the returned body (0.3: in a task of its instance, which takes
    /// several requests at once), and needs a tokio runtime with I/O and time. Dropping the future ends the call and
    /// discards the instance, as does dropping the body before its end (0.3: as soon as no other request is served by
    /// it). What a guest does after the end of the body goes on in a task for at most 30 seconds.
    pub fn handle<B>(
        &self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<GuestBody>, CallFailure>> + Send + use<B>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Display,
    {
        let (parts, body) = request.into_parts();
        let body = if body.is_end_stream() {
            // Without a size, so that its box needs no allocation.
            Empty::new().map_err(|never| match never {}).boxed_unsync()
        } else {
            body.map_err(|error| Error::InternalError(Some(error.to_string()))).boxed_unsync()
        };
        let mut request = Request::from_parts(parts, body);
        let is_head = *request.method() == Method::HEAD;
        let protocol = self.0.clone();
        let complete = match &protocol {
            Protocol::Http02(_) => require_host(&mut request),
            Protocol::Http03(_) => complete_uri(&mut request),
        };
        async move {
            complete?;
            let (response, rest) = match protocol {
                Protocol::Http02(guest) => {
                    let (response, call) = guest.call(request).await?;
                    let output = guest.output();
                    (response, call.map_or(Rest::None, |call| Rest::Call { call, output }))
                }
                Protocol::Http03(guest) => {
                    let (response, place) = guest.call(request).await?;
                    (response, Rest::Place(place))
                }
            };
            let (parts, inner) = response.into_parts();
            let body = GuestBody::new(inner, rest, Expected::of(is_head, parts.status, &parts.headers));
            Ok(Response::from_parts(parts, body))
        }
    }
}

pub(crate) fn deserialize(
    compiled: &File,
    manifest: &Manifest,
    allocation: Allocation,
) -> Result<(Engine, Component), PluginError> {
    deserialize_for(engine(manifest.concurrency, allocation, manifest.purpose)?, compiled)
}

fn deserialize_for(engine: Engine, compiled: &File) -> Result<(Engine, Component), PluginError> {
    let path = format!("/proc/self/fd/{}", compiled.as_raw_fd());
    let component = deserialize_path(&engine, &path).map_err(|error| PluginError::Load { detail: chain(&error) })?;
    Ok((engine, component))
}

#[expect(unsafe_code, reason = "a compiled component is machine code; wasmtime cannot verify it")]
fn deserialize_path(engine: &Engine, path: &str) -> wasmtime::Result<Component> {
    // SAFETY: `deserialize_file` requires that the file was made by `Component::serialize` and does not change while
    // it is mapped. `HttpGuest::load` requires both of its caller: the master compiled the bytes, or read them from
    // its cache after checking owner and hash, and hands them out in a sealed memfd. wasmtime itself refuses files of
    // another version or configuration.
    unsafe { Component::deserialize_file(engine, path) }
}

/// 0.2: the engine takes the authority from the Host header, and fails the guest without a good one.
fn require_host(request: &mut Request<WasiBody>) -> Result<(), CallFailure> {
    if request.uri().authority().is_some() {
        return Ok(());
    }
    match request.headers().get(HOST) {
        Some(host) if host.to_str().is_err() => Err(bad_host()),
        Some(_) => Ok(()),
        // HTTP/1.0 requires none.
        None => {
            request.headers_mut().insert(HOST, HeaderValue::from_static(NO_HOST));
            Ok(())
        }
    }
}

/// 0.3: scheme and authority come from the URI, which a request over a connection does not have.
fn complete_uri(request: &mut Request<WasiBody>) -> Result<(), CallFailure> {
    if request.uri().authority().is_some() {
        return Ok(());
    }
    let authority = match request.headers().get(HOST) {
        Some(host) => Authority::try_from(host.as_bytes()).map_err(|_| bad_host())?,
        None => Authority::from_static(NO_HOST),
    };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    *request.uri_mut() =
        Uri::from_parts(parts).map_err(|_| CallFailure::new(400, "the request's target is no path"))?;
    Ok(())
}

/// The authority of a request that names none.
const NO_HOST: &str = "localhost";

fn bad_host() -> CallFailure {
    CallFailure::new(400, "the request's Host header is no host")
}

/// Says what ended a guest's call.
pub(crate) fn failure(meter: &Meter, error: &wasmtime::Error) -> CallFailure {
    if let Some(failure) = error.downcast_ref::<CallFailure>() {
        return failure.clone();
    }
    if let Some(limit) = meter.exceeded() {
        let reason = format!("the guest computed for longer than {limit:?} without yielding (wasm.cpu_time)");
        return CallFailure::new(504, reason);
    }
    if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        return CallFailure::new(503, format!("no room for another instance: {}", chain(error)));
    }
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return CallFailure::new(500, format!("the guest called exit({}) instead of answering", exit.0));
    }
    let mut reason = match error.downcast_ref::<Trap>() {
        Some(trap) => format!("the guest trapped: {trap}"),
        None => format!("the guest failed: {}", error.root_cause()),
    };
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        let names: Vec<&str> = backtrace.frames().iter().filter_map(|frame| frame.func_name()).take(4).collect();
        if !names.is_empty() {
            reason.push_str(" (in ");
            reason.push_str(&names.join(", called by "));
            reason.push(')');
        }
        // Known only to an engine of `Purpose::Development`.
        if backtrace.frames().iter().any(|frame| frame.symbols().iter().any(|symbol| symbol.file().is_some())) {
            reason.push('\n');
            reason.push_str(backtrace.to_string().trim_end());
        }
    }
    CallFailure::new(500, reason)
}

/// The body of a guest's response. Polling it runs the guest on.
///
/// It yields the guest's trailers, and an error if the guest fails before the end.
pub struct GuestBody {
    inner: WasiBody,
    rest: Rest,
    expected: Expected,
}

/// What is left of the call.
enum Rest {
    /// 0.2: the call itself, to be polled here.
    Call {
        call: Call,
        output: Output,
    },
    /// 0.3: a place in an instance that runs in its own task.
    Place(Place),
    /// The call ended badly; told after what the guest wrote before.
    Failed(CallFailure),
    None,
}

/// How much a client will read.
struct Expected {
    /// By the method or the status, no body is sent whatever the guest writes (RFC 9112, 6.3).
    bodiless: bool,
    /// Bytes left by the guest's `content-length`.
    left: Option<u64>,
}

impl Expected {
    fn of(is_head: bool, status: StatusCode, headers: &HeaderMap) -> Expected {
        let length = headers.get(CONTENT_LENGTH).map(HeaderValue::to_str);
        Expected {
            bodiless: is_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED),
            left: length.and_then(Result::ok).and_then(|length| length.parse().ok()),
        }
    }

    fn nothing(&self) -> bool {
        self.bodiless || self.left == Some(0)
    }
}

/// Why a response's body ended early.
type BodyError = CallFailure;

impl GuestBody {
    fn new(inner: WasiBody, rest: Rest, expected: Expected) -> GuestBody {
        let mut body = GuestBody { inner, rest, expected };
        if body.inner.is_end_stream() {
            // The server asks at once whether there is a body at all; a call in progress would make it say yes.
            body.finish();
        }
        body
    }

    /// The client has all it will get. The guest may go on.
    fn finish(&mut self) {
        match std::mem::replace(&mut self.rest, Rest::None) {
            Rest::Call { call, output } => go_on(call, output),
            Rest::Place(place) => place.finish(),
            Rest::Failed(_) | Rest::None => {}
        }
    }

    /// What ended the guest, if it did not end well.
    fn failed(&self) -> Option<CallFailure> {
        match &self.rest {
            Rest::Failed(failure) => Some(failure.clone()),
            Rest::Place(place) => place.failure(),
            Rest::Call { .. } | Rest::None => None,
        }
    }

    /// The end of what the guest wrote: its own, or that of its instance?
    fn end(&mut self) -> Option<Result<Frame<Bytes>, BodyError>> {
        let failure = if self.expected.nothing() { None } else { self.failed() };
        self.finish();
        failure.map(Err)
    }
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            let written = matches!(this.rest, Rest::None | Rest::Failed(_));
            let mut next = poll_fn(|cx| Pin::new(&mut this.inner).poll_frame(cx));
            let frame = if written {
                // With the budget of tokio's cooperative scheduling spent, a channel says "pending" although it is
                // not empty, which would be taken for an unfinished body below.
                pin!(unconstrained(next)).poll(cx)
            } else {
                Pin::new(&mut next).poll(cx)
            };
            let mut ended = false;
            if let Rest::Call { call, .. } = &mut this.rest
                && let Poll::Ready(result) = call.as_mut().poll(cx)
            {
                ended = true;
                this.rest = result.map_or_else(Rest::Failed, |()| Rest::None);
            }
            match frame {
                Poll::Ready(Some(Ok(frame))) => {
                    if let (Some(left), Some(data)) = (&mut this.expected.left, frame.data_ref()) {
                        *left = left.saturating_sub(data.len() as u64);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(Err(this.failed().unwrap_or_else(|| body_failure(&error)))));
                }
                Poll::Ready(None) => return Poll::Ready(this.end()),
                // The guest may have written on its last steps.
                Poll::Pending if ended => {}
                Poll::Pending => {
                    return match this.rest {
                        Rest::Call { .. } | Rest::Place(_) => Poll::Pending,
                        Rest::Failed(_) => Poll::Ready(this.end()),
                        // Nobody is left to write. Waiting would last until the instance's next call, or for ever.
                        Rest::None => Poll::Ready(Some(Err(CallFailure::new(
                            500,
                            "the guest returned without finishing its response's body",
                        )))),
                    };
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.rest, Rest::None) && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for GuestBody {
    fn drop(&mut self) {
        // A server drops a body without polling for its end once all bytes of `content-length` are sent. Before that,
        // the client is gone: dropping `rest` ends the call.
        if self.expected.nothing() {
            self.finish();
        }
    }
}

/// Runs the end of a call in a task of its own.
fn go_on(call: Call, output: Output) {
    let Ok(runtime) = Handle::try_current() else {
        return;
    };
    runtime.spawn(async move {
        match timeout(AFTER_RESPONSE, call).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => report(&output, &failure.reason),
            Err(_) => report(&output, "the guest was still running 30 s after the end of its response, and was ended"),
        }
    });
}

/// Tells the operator what no response can tell any more.
pub(crate) fn report(output: &Output, reason: &str) {
    output(Stream::Stderr, format!("after the response: {reason}").as_bytes());
}

fn body_failure(error: &Error) -> CallFailure {
    CallFailure::new(500, format!("the guest broke its response's body off: {error}"))
}
