//! Handlers in unit tests: a request goes in, a whole answer comes out, and no launcher is needed.
//!
//! ```
//! use worker_sdk::{IntoResponse, Request, testing};
//!
//! async fn handle(request: Request) -> impl IntoResponse {
//!     format!("you asked for {}", request.uri().path())
//! }
//!
//! let answer = testing::answer(handle(testing::get("/tea")));
//! assert_eq!(answer.status(), 200);
//! assert_eq!(answer.body(), "you asked for /tea");
//! ```
//!
//! A plugin that owns its sockets gets them from [`sockets()`].
//!
//! Tests are built natively. Outside of a worker [`config()`](crate::config()) is empty and
//! [`worker()`](crate::worker()) nobody. The module is not there in a component.

use std::future::Future;

use bytes::Bytes;

pub use crate::native::rehearsal::{TestSocket, TestWorker, sockets};
use crate::{Body, IntoResponse, Method, Request};

/// A `GET` request. `target` is a path, perhaps with a query.
///
/// # Panics
/// `target` is no URI.
#[expect(clippy::unwrap_used, reason = "a test that cannot go on")]
pub fn get(target: &str) -> Request {
    http::Request::get(target).body(Body::empty()).unwrap()
}

/// Any other request.
///
/// # Panics
/// `target` is no URI.
#[expect(clippy::unwrap_used, reason = "a test that cannot go on")]
pub fn request(method: Method, target: &str, body: impl Into<Body>) -> Request {
    http::Request::builder().method(method).uri(target).body(body.into()).unwrap()
}

/// Runs a handler to its end, and reads its body to the end.
///
/// # Panics
/// The body breaks off.
#[expect(clippy::unwrap_used, reason = "a test that cannot go on")]
pub fn answer<T: IntoResponse>(handler: impl Future<Output = T>) -> http::Response<Bytes> {
    crate::native::block_on_entered(async {
        let (head, body) = handler.await.into_response().into_parts();
        http::Response::from_parts(head, body.bytes(usize::MAX).await.unwrap())
    })
}
