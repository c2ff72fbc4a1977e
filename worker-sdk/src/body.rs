//! Bodies of requests and responses: nothing, bytes, or a stream that its reader pulls.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::abi;

#[cfg(target_family = "wasm")]
use crate::component::Incoming;
#[cfg(not(target_family = "wasm"))]
use crate::native::Incoming;

/// Why a body broke off.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// It is longer than the reader allows (bytes).
    TooLarge(usize),
    /// The other side went away, or sent what is not HTTP.
    Broken,
    /// What produced the body failed.
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::TooLarge(limit) => write!(f, "the body is longer than {limit} bytes"),
            Error::Broken => f.write_str("the body broke off"),
            Error::Other(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Other(error) => error.source(),
            _ => None,
        }
    }
}

/// A body, of either direction. Nothing is read or produced before it is pulled.
///
/// It is an [`http_body::Body`], so what works on those works here; the methods suffice for most handlers.
///
/// ```
/// use worker_sdk::{Body, Bytes, Frame, IntoResponse, Request, Response};
///
/// /// Sends the request's body back, chunk by chunk, in bounded memory.
/// async fn echo(request: Request) -> impl IntoResponse {
///     Response::new(request.into_body())
/// }
/// ```
pub struct Body {
    inner: Inner,
    /// Rides here because `http`'s extensions would cost an allocation and a hash map for every request.
    peer: abi::Peer,
}

enum Inner {
    Empty,
    Full(Bytes),
    /// Apart from `Full`, because the worker need not copy it.
    Static(&'static [u8]),
    Incoming(Incoming),
    Boxed(Pin<Box<dyn HttpBody<Data = Bytes, Error = Error> + Send>>),
}

/// What a body is made of, for the native border.
#[cfg(not(target_family = "wasm"))]
pub(crate) enum Parts {
    Empty,
    Full(Bytes),
    Static(&'static [u8]),
    Incoming(Incoming),
    Stream(Body),
}

impl Body {
    /// No bytes.
    ///
    /// ```
    /// let response = worker_sdk::Response::new(worker_sdk::Body::empty());
    /// # assert_eq!(response.status(), 200);
    /// ```
    pub fn empty() -> Body {
        Body::from_inner(Inner::Empty)
    }

    /// Anything that implements [`http_body::Body`].
    ///
    /// ```
    /// let inner = worker_sdk::Body::from("as if from another crate");
    /// let body = worker_sdk::Body::wrap(inner);
    /// ```
    pub fn wrap<B>(body: B) -> Body
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Body::from_inner(Inner::Boxed(Box::pin(Wrapped(Box::pin(body)))))
    }

    /// A stream: `next` is called with the state for each frame, when the client has taken the one before; `None` ends it.
    ///
    /// When the client goes away, the future that is under way is dropped.
    ///
    /// ```
    /// use std::time::Duration;
    /// use worker_sdk::{Body, Frame, IntoResponse, Request, Response};
    ///
    /// async fn ticks(_: Request) -> impl IntoResponse {
    ///     Response::new(Body::unfold(0, async |n| {
    ///         if n == 3 {
    ///             return Ok(None);
    ///         }
    ///         worker_sdk::sleep(Duration::from_millis(1)).await;
    ///         Ok::<_, std::io::Error>(Some((Frame::data(format!("tick {n}\n").into()), n + 1)))
    ///     }))
    /// }
    /// # worker_sdk::native::block_on(async {
    /// #     let body = ticks(Request::new(Body::empty())).await.into_response().into_body();
    /// #     assert_eq!(body.bytes(100).await.unwrap(), "tick 0\ntick 1\ntick 2\n");
    /// # });
    /// ```
    pub fn unfold<S, F, Fut, E>(state: S, next: F) -> Body
    where
        S: Send + 'static,
        F: FnMut(S) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Option<(Frame<Bytes>, S)>, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Body::from_inner(Inner::Boxed(Box::pin(Unfold { next, step: Step::Idle(state) })))
    }

    /// This body, followed by `trailers`. HTTP/1.1 sends them where the client said `TE: trailers`.
    ///
    /// ```
    /// use worker_sdk::{Body, HeaderMap, HeaderValue};
    ///
    /// let mut trailers = HeaderMap::new();
    /// trailers.insert("checksum", HeaderValue::from_static("abc"));
    /// let body = Body::from("data").with_trailers(trailers);
    /// ```
    pub fn with_trailers(self, trailers: HeaderMap) -> Body {
        let peer = self.peer;
        let mut body = Body::from_inner(Inner::Boxed(Box::pin(Trailed { body: self, trailers: Some(trailers) })));
        body.peer = peer;
        body
    }

    /// The next frame, bytes or trailers; `None` at the end.
    ///
    /// ```
    /// use worker_sdk::{Body, Error};
    ///
    /// async fn count(mut body: Body) -> Result<usize, Error> {
    ///     let mut bytes = 0;
    ///     while let Some(frame) = body.frame().await {
    ///         bytes += frame?.data_ref().map_or(0, |data| data.len());
    ///     }
    ///     Ok(bytes)
    /// }
    /// # worker_sdk::native::block_on(async { assert_eq!(count(Body::from("four")).await.unwrap(), 4) });
    /// ```
    pub async fn frame(&mut self) -> Option<Result<Frame<Bytes>, Error>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_frame(context)).await
    }

    /// The whole body, if it has at most `limit` bytes. Trailers are dropped.
    ///
    /// ```
    /// use worker_sdk::{Body, Error};
    ///
    /// # worker_sdk::native::block_on(async {
    /// assert_eq!(Body::from("four").bytes(4).await.unwrap(), "four");
    /// assert!(matches!(Body::from("fives").bytes(4).await, Err(Error::TooLarge(4))));
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`Error::TooLarge`] as soon as it is known, else what broke the body off.
    pub async fn bytes(mut self, limit: usize) -> Result<Bytes, Error> {
        if self.size_hint().lower() > limit as u64 {
            return Err(Error::TooLarge(limit));
        }
        // One chunk, the common case, is passed on without a copy.
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(frame) = self.frame().await {
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            if first.len() + all.len() + data.len() > limit {
                return Err(Error::TooLarge(limit));
            }
            if first.is_empty() && all.is_empty() {
                first = data;
            } else {
                if all.is_empty() {
                    all.extend_from_slice(&std::mem::take(&mut first));
                }
                all.extend_from_slice(&data);
            }
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    }

    fn from_inner(inner: Inner) -> Body {
        Body { inner, peer: abi::Peer::UNKNOWN }
    }

    pub(crate) fn incoming(incoming: Option<Incoming>, peer: abi::Peer) -> Body {
        Body { inner: incoming.map_or(Inner::Empty, Inner::Incoming), peer }
    }

    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn into_parts(self) -> Parts {
        match self.inner {
            Inner::Empty => Parts::Empty,
            Inner::Full(bytes) => Parts::Full(bytes),
            Inner::Static(bytes) => Parts::Static(bytes),
            Inner::Incoming(incoming) => Parts::Incoming(incoming),
            inner => Parts::Stream(Body { inner, peer: self.peer }),
        }
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        let address = self.peer.address;
        match self.peer.family {
            abi::PEER_IPV4 => {
                let [a, b, c, d, ..] = address;
                let address = IpAddr::V4(Ipv4Addr::new(a, b, c, d));
                Some(SocketAddr::new(address, self.peer.port))
            }
            abi::PEER_IPV6 => {
                Some(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(address), self.peer.port, 0, self.peer.scope)))
            }
            _ => None,
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Body::empty()
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.inner {
            Inner::Empty => f.write_str("Body(empty)"),
            Inner::Full(bytes) => write!(f, "Body({} bytes)", bytes.len()),
            Inner::Static(bytes) => write!(f, "Body({} bytes)", bytes.len()),
            _ => f.write_str("Body(stream)"),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        Body::from_inner(if bytes.is_empty() { Inner::Empty } else { Inner::Full(bytes) })
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Body {
        text.as_bytes().into()
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Body {
        Body::from_inner(if bytes.is_empty() { Inner::Empty } else { Inner::Static(bytes) })
    }
}

impl From<String> for Body {
    fn from(text: String) -> Body {
        Bytes::from(text).into()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Bytes::from(bytes).into()
    }
}

impl From<()> for Body {
    fn from((): ()) -> Body {
        Body::empty()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut self.inner {
            Inner::Empty => Poll::Ready(None),
            Inner::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.inner = Inner::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Inner::Static(bytes) => {
                let bytes = Bytes::from_static(bytes);
                self.inner = Inner::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Inner::Incoming(incoming) => incoming.poll_frame(context),
            Inner::Boxed(body) => body.as_mut().poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Empty => true,
            Inner::Boxed(body) => body.is_end_stream(),
            _ => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Static(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Incoming(incoming) => incoming.len().map_or_else(SizeHint::default, SizeHint::with_exact),
            Inner::Boxed(body) => body.size_hint(),
        }
    }
}

/// Another crate's body with our error.
struct Wrapped<B>(Pin<Box<B>>);

impl<B> HttpBody for Wrapped<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.0.as_mut().poll_frame(context).map_err(|error| Error::Other(error.into()))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// See [`Body::unfold`].
struct Unfold<S, F, Fut> {
    next: F,
    step: Step<S, Fut>,
}

enum Step<S, Fut> {
    Idle(S),
    Running(Pin<Box<Fut>>),
    Over,
}

// Only the boxed future is ever pinned.
impl<S, F, Fut> Unpin for Unfold<S, F, Fut> {}

impl<S, F, Fut, E> HttpBody for Unfold<S, F, Fut>
where
    F: FnMut(S) -> Fut,
    Fut: Future<Output = Result<Option<(Frame<Bytes>, S)>, E>>,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut future = match std::mem::replace(&mut self.step, Step::Over) {
            Step::Over => return Poll::Ready(None),
            Step::Idle(state) => Box::pin((self.next)(state)),
            Step::Running(future) => future,
        };
        match future.as_mut().poll(context) {
            Poll::Pending => {
                self.step = Step::Running(future);
                Poll::Pending
            }
            Poll::Ready(Ok(None)) => Poll::Ready(None),
            Poll::Ready(Ok(Some((frame, state)))) => {
                self.step = Step::Idle(state);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(Error::Other(error.into())))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.step, Step::Over)
    }
}

/// See [`Body::with_trailers`].
struct Trailed {
    body: Body,
    trailers: Option<HeaderMap>,
}

impl HttpBody for Trailed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            if self.trailers.is_none() {
                return Poll::Ready(None);
            }
            return match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(None) => Poll::Ready(self.trailers.take().map(|t| Ok(Frame::trailers(t)))),
                // The body had trailers of its own: ours replace them.
                Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => continue,
                Poll::Ready(Some(frame)) => Poll::Ready(Some(frame)),
            };
        }
    }

    // The length is not announced: with Content-Length HTTP/1.1 has no trailers (RFC 9112 section 7.1.2).
    fn is_end_stream(&self) -> bool {
        self.trailers.is_none()
    }
}
