//! Write a plugin for launcher: an `async fn` from a request to a response.
//!
//! ```
//! use worker_sdk::{IntoResponse, Request};
//!
//! #[worker_sdk::http]
//! async fn handle(request: Request) -> impl IntoResponse {
//!     format!("Hello from {}\n", request.uri().path())
//! }
//! ```
//!
//! The same source builds as a native library, which the worker loads (`cargo build --release` with
//! `crate-type = ["cdylib"]`), and as a WASM component, which it runs in a sandbox
//! (`--target wasm32-wasip2`). Types are those of the [`http`](mod@http) crate.
//!
//! # Where things are
//! | I want | use |
//! |---|---|
//! | read or stream a body | [`Body`] |
//! | return something | [`IntoResponse`], [`Json`] |
//! | the client's address | [`RequestExt::peer`] |
//! | the service's `config:` | [`config()`] |
//! | the service's `env:` | [`std::env::var`] |
//! | who this worker is | [`worker()`] |
//! | a line in the log | [`log`] |
//! | wait | [`sleep()`] |
//! | own the listening sockets and speak something else than HTTP | [`macro@socket`], `Sockets` |
//! | talk to other workers and to the operator, pass sockets | [`messages`] |
//! | test a handler | [`testing`] |
//! | tokio, and what builds on it | feature `tokio` |
//!
//! # Two builds, one behaviour: what differs
//! - A panic answers 500 in both. Natively other requests of the worker are not touched, and memory that the
//!   panicking request left behind stays; a component's instance is thrown away.
//! - State in statics lives as long as the worker natively; in a component as long as the instance, which by
//!   default serves one request (`#[worker_sdk::http(reuse)]` asks for more).
//! - The feature `tokio` is a native thing: with it, timers and sockets of tokio, and crates that build on them, work
//!   inside handlers. On WASM the feature does nothing; use [`sleep()`], and `wasi:http` for calls.
//! - `start` runs before the worker says that it is ready natively, before an instance's first request in a
//!   component; `stop` runs natively only.
//!
//! This crate does not speak HTTP: the worker does, for both kinds alike.

pub mod abi;
mod body;
#[cfg(feature = "json")]
mod config;
#[doc(hidden)]
pub mod export;
pub mod log;
pub mod messages;
mod request;
mod response;
mod sleep;
#[cfg(not(target_family = "wasm"))]
mod sockets;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
mod worker;

#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod component;
#[cfg(not(target_family = "wasm"))]
#[doc(hidden)]
pub mod native;

pub use body::{Body, Error};
pub use bytes::{self, Bytes};
#[cfg(feature = "json")]
pub use config::{ConfigError, config};
pub use http::{self, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
pub use http_body::{self, Frame};
pub use request::{Request, RequestExt};
#[cfg(feature = "json")]
pub use response::Json;
pub use response::{Html, IntoResponse, Response};
pub use sleep::sleep;
#[cfg(not(target_family = "wasm"))]
pub use sockets::{Listener, Pulse, SocketError, SocketKind, Sockets, Stop};
pub use worker::{Worker, worker};

/// Makes an `async fn(Request) -> impl IntoResponse` the plugin's HTTP handler. One a crate.
///
/// ```
/// use worker_sdk::{IntoResponse, Request, StatusCode};
///
/// #[worker_sdk::http(start = connect, stop = goodbye, reuse)]
/// async fn handle(request: Request) -> impl IntoResponse {
///     match request.uri().path() {
///         "/" => Ok("it works\n"),
///         _ => Err((StatusCode::NOT_FOUND, "no such page\n")),
///     }
/// }
///
/// async fn connect() -> Result<(), std::io::Error> {
///     Ok(()) // an error here: the worker never becomes ready, and a reload rolls back
/// }
///
/// async fn goodbye() {}
/// ```
///
/// - `start = f`: an `async fn() -> impl StartOutcome` (nothing, or a `Result` whose error can be displayed) that is
///   awaited before the first request; natively before the worker counts as ready.
/// - `stop = f`: an `async fn()` awaited after the last response, natively only, within the drain's deadline.
/// - `reuse`: a component's instance may serve many requests one after the other, so that statics survive
///   (a custom section `launcher:reusable`). Natively that is always so.
pub use worker_sdk_macros::http;

/// Makes a function the plugin, which owns the service's listening sockets and runs its own loop: any protocol, any
/// library. One a crate; native plugins only.
///
/// An `async fn` runs on the worker's thread and turns its loop as well, which is cheaper than a thread beside it; with the
/// feature `tokio` on a current-thread runtime of tokio:
/// ```
/// use worker_sdk::Sockets;
///
/// #[worker_sdk::socket]
/// async fn serve(mut sockets: Sockets) -> std::io::Result<()> {
///     let listener = sockets.tcp()?; // tokio: tokio::net::TcpListener::from_std(sockets.tcp()?)?
///     sockets.ready();
///     sockets.stop().told().await; // and accept from `listener` meanwhile
///     drop(listener);
///     Ok(()) // when what was begun is finished
/// }
/// ```
/// Any other `fn` blocks, and does what it likes with threads:
/// ```
/// use std::io::{ErrorKind, Write};
///
/// use worker_sdk::Sockets;
///
/// #[worker_sdk::socket]
/// fn serve(mut sockets: Sockets) -> std::io::Result<()> {
///     let listener = sockets.tcp()?;
///     sockets.ready();
///     let stop = sockets.stop();
///     while stop.readable(&listener)? {
///         match listener.accept() {
///             Ok((mut client, _)) => client.write_all(b"Hello!\n")?,
///             Err(error) if error.kind() == ErrorKind::WouldBlock => {} // another worker was faster
///             Err(error) => return Err(error),
///         }
///     }
///     Ok(())
/// }
/// ```
/// It returns nothing or a `Result` whose error can be displayed, and not before it was told to stop: that is a crash, as
/// a panic is. It must say `Sockets::ready`, or its worker never counts as started.
pub use worker_sdk_macros::socket;
