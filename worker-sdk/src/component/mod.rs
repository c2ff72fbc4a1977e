//! The plugin as a WASM component: `wasi:http/incoming-handler@0.2` around the author's handler.
//!
//! Flow: the macro's export calls [`handle`], which runs the start hook once an instance, imports the request, and
//! drives handler and response body on an [`executor`] that waits with `wasi:io/poll`. The instance is
//! single-threaded and serves one request at a time; concurrency is the launcher's, by more instances.
//!
//! A panic traps (there is no unwinding): the launcher answers 500 and throws the instance away.

mod executor;
mod incoming;
mod outgoing;
pub(crate) mod post;
#[cfg(feature = "json")]
pub(crate) mod store;

use std::cell::OnceCell;
use std::future::Future;
use std::time::Duration;

pub use wasip2;
use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::http::types::{ErrorCode, IncomingRequest, ResponseOutparam};

use crate::IntoResponse;
use crate::export::Http;

pub(crate) use incoming::Incoming;

/// Serves one request. Called by the macro's export.
pub fn handle<P: Http>(request: IncomingRequest, out: ResponseOutparam) {
    thread_local! {
        /// Outcome of the start hook of this instance.
        static STARTED: OnceCell<Result<(), String>> = const { OnceCell::new() };
    }
    let started = STARTED.with(|started| started.get_or_init(|| executor::block_on(P::start())).clone());
    if let Err(reason) = started {
        crate::log::error!("the plugin refuses to start: {reason}");
        ResponseOutparam::set(out, Err(ErrorCode::InternalError(Some(reason))));
        return;
    }
    match incoming::import(request) {
        Ok(request) => {
            executor::block_on(async { outgoing::send(P::handle(request).await.into_response(), out).await })
        }
        Err(error) => ResponseOutparam::set(out, Err(error)),
    }
}

/// Runs a future to its end on this thread, which waits for what it waits for.
///
/// # Panics
/// If it waits for something that nothing in this component can bring about.
pub fn block_on<F: Future>(future: F) -> F::Output {
    executor::block_on(future)
}

/// See [`crate::sleep`].
pub(crate) async fn sleep(duration: Duration) {
    let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    executor::Wait::new(subscribe_duration(nanoseconds)).await;
}
