//! The request as a handler receives it.

use std::net::SocketAddr;

use crate::Body;

/// A request: `http`'s type with this crate's [`Body`].
///
/// ```
/// use worker_sdk::{IntoResponse, Request};
///
/// async fn handle(request: Request) -> impl IntoResponse {
///     let agent = request.headers().get("user-agent");
///     format!("{} {} {agent:?}", request.method(), request.uri())
/// }
/// ```
pub type Request = http::Request<Body>;

/// What a [`Request`] knows beyond HTTP.
pub trait RequestExt {
    /// The address of the client's end of the connection (behind a proxy: the proxy's); `None` for a Unix socket.
    ///
    /// Natively the worker knows it. A component learns it from the `Forwarded` header (RFC 7239), and only
    /// where the launcher says that it has set that header itself: `forwarded: set` or `append`.
    ///
    /// It rides on the request's body, so ask before the body is replaced.
    ///
    /// ```
    /// use worker_sdk::{IntoResponse, Request, RequestExt};
    ///
    /// async fn handle(request: Request) -> impl IntoResponse {
    ///     match request.peer() {
    ///         Some(peer) => format!("you are {peer}\n"),
    ///         None => "you came through a Unix socket\n".to_owned(),
    ///     }
    /// }
    /// ```
    fn peer(&self) -> Option<SocketAddr>;
}

impl RequestExt for Request {
    fn peer(&self) -> Option<SocketAddr> {
        self.body().peer()
    }
}
