//! One request inside a plugin: the future that the connection's task polls.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::Body;
use worker_sdk::abi;

use super::owned::{OwnedCall, OwnedResponse};
use super::response::{self, NativeBody};
use super::{Instance, Live, lend, waker};

/// Why a plugin's answer is a 500. For the log; the client is not told.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CallError {
    /// It panicked.
    #[error("the plugin panicked; its message is above")]
    Panicked,
    /// It returned an error.
    #[error("the plugin failed (it returned ERROR)")]
    Failed,
    /// It returned something that the contract does not know.
    #[error("the plugin returned {0}, which means nothing here")]
    Code(i32),
    /// It wants to be polled, but gave nothing to poll.
    #[error("the plugin returned PENDING without a call to poll")]
    NoCall,
    /// A null pointer with a length, a misaligned one, or an impossible length.
    #[error("the plugin's response has an invalid pointer or length in its {0}")]
    Pointer(&'static str),
    /// Not a status of a final response.
    #[error("the plugin's response has the status {0}; it must be within 200 and 999")]
    Status(u32),
    /// Not a header.
    #[error("the plugin's response has the invalid header `{0}`")]
    Header(String),
    /// More header fields than sense.
    #[error("the plugin's response has {0} header fields; at most {max} are accepted", max = response::MAX_HEADERS)]
    Headers(usize),
    /// Longer header fields than sense.
    #[error("the plugin's response has {0} bytes of header values; at most {max} are accepted", max = response::MAX_HEADER_BYTES)]
    HeaderBytes(usize),
    /// `Content-Length` and the body differ.
    #[error("the plugin's response says Content-Length {declared}, its body has {actual} bytes")]
    Length {
        /// In the header.
        declared: String,
        /// In the body.
        actual: u64,
    },
}

/// A request that the plugin answers. Dropping it cancels.
#[derive(Debug)]
pub struct Call<B> {
    instance: &'static Instance,
    step: Step<B>,
    /// The response has no body, whatever it says (RFC 9110 section 9.3.2).
    head: bool,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a box would cost every request an allocation")]
enum Step<B> {
    Begin(Request<B>, abi::Peer),
    Running { call: OwnedCall, _live: Live },
    Over,
}

// Nothing is pinned: a request body moves into a box when it is lent.
impl<B> Unpin for Call<B> {}

impl<B> Call<B> {
    #[inline]
    pub(super) fn new(instance: &'static Instance, request: Request<B>, peer: abi::Peer) -> Self {
        Call { instance, head: request.method() == Method::HEAD, step: Step::Begin(request, peer) }
    }
}

impl<B> Future for Call<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    type Output = Result<Response<NativeBody>, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let lent = waker::lend(context.waker());
        let mut answer = OwnedResponse::empty();
        let instance = self.instance;
        // Each move of a request copies a quarter of a kilobyte: what needs not move is used in its place.
        let code = match &mut self.step {
            Step::Begin(request, peer) => {
                let mut call = OwnedCall::none();
                let code = if request.body().is_end_stream() {
                    let code = begin(instance, request, abi::Body::NONE, *peer, lent, &mut answer, &mut call);
                    if code == abi::READY {
                        let map = response::reusable(std::mem::take(request.headers_mut()));
                        let accepted = response::accept(answer, instance, self.head, map);
                        self.step = Step::Over;
                        return Poll::Ready(accepted);
                    }
                    code
                } else {
                    self.begin_with_body(lent, &mut answer, &mut call)
                };
                if code == abi::PENDING {
                    if !call.is_some() {
                        self.step = Step::Over;
                        return Poll::Ready(Err(CallError::NoCall));
                    }
                    self.step = Step::Running { call, _live: Live::new(instance) };
                    return Poll::Pending;
                }
                // A call that came with another code is dropped here.
                code
            }
            Step::Running { call, .. } => {
                let code = call.poll(lent, &mut answer);
                if code == abi::PENDING {
                    return Poll::Pending;
                }
                code
            }
            Step::Over => return Poll::Ready(Err(CallError::Code(abi::END))),
        };
        self.step = Step::Over;
        Poll::Ready(match code {
            abi::READY => response::accept(answer, instance, self.head, HeaderMap::new()),
            abi::PANIC => Err(CallError::Panicked),
            abi::ERROR => Err(CallError::Failed),
            code => Err(CallError::Code(code)),
        })
    }
}

impl<B> Call<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    fn begin_with_body(&mut self, lent: abi::Waker, answer: &mut OwnedResponse, call: &mut OwnedCall) -> i32 {
        let Step::Begin(request, peer) = std::mem::replace(&mut self.step, Step::Over) else {
            return abi::ERROR;
        };
        let (head, body) = request.into_parts();
        let head = Request::from_parts(head, ());
        begin(self.instance, &head, lend::lend_body(body), peer, lent, answer, call)
    }
}

#[inline]
fn begin<B>(
    instance: &'static Instance,
    head: &Request<B>,
    body: abi::Body,
    peer: abi::Peer,
    lent: abi::Waker,
    answer: &mut OwnedResponse,
    call: &mut OwnedCall,
) -> i32 {
    lend::with_request(head, body, peer, |request| {
        // SAFETY: the request's views live until this returns, the out-parameters are ours, and the state is the one
        // that `init` made; `drop` was not called, because shutdown comes last.
        unsafe { (instance.handle)(instance.state, request, lent, answer.out(), call.out()) }
    })
}
