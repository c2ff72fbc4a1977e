//! What the HTTP side of a worker asks of a plugin, whatever the plugin is made of.
//!
//! Dispatch is static: the server is compiled once for each kind of plugin, and a handler that does not wait
//! costs no task, no channel and no allocation on this border.

pub mod native;
pub mod wasm;
mod wasm_post;

use std::error::Error;
use std::future::Future;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};

use crate::worker::http::{Peer, RequestBody};

/// A plugin that answers requests.
pub trait HttpPlugin: Send + Sync + 'static {
    /// Body of its responses. It is polled and dropped in the connection's task.
    type Body: http_body::Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static;

    /// Whether [`handle`](Self::handle) wants `http://AUTHORITY/PATH` as the request's URI, with the authority
    /// of the `Host` header (`wasi:http` requires one). Otherwise the URI is the target as the client wrote it.
    const ABSOLUTE_URI: bool = true;

    /// Looks at a request, and may change its headers, before [`handle`](Self::handle) gets it.
    #[inline]
    fn prepare(&self, headers: &mut HeaderMap, peer: &Peer) {
        let _ = (headers, peer);
    }

    /// Answers one request. The future is dropped, which must cancel the work, when the client is gone or
    /// `limits.request_timeout` has passed. `peer` is the client.
    ///
    /// The future borrows from nothing, so that it is stored once, where it is polled.
    fn handle(
        &self,
        request: Request<RequestBody>,
        peer: &Peer,
    ) -> impl Future<Output = Result<Response<Self::Body>, Failure>> + Send + use<Self>;
}

/// A request that the plugin did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Status for the client, 400 to 599; anything else becomes 500.
    pub status: u16,
    /// For the log alone: the client never sees it.
    pub reason: String,
}
