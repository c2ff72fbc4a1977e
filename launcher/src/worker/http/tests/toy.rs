//! A plugin whose behaviour is in the path of the request.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use tokio::sync::{Notify, mpsc};

use super::super::{Peer, RequestBody};
use crate::worker::plugin::{Failure, HttpPlugin};

type Problem = Box<dyn std::error::Error + Send + Sync>;

#[derive(Default)]
pub(super) struct Toy(pub(super) Arc<State>);

impl std::ops::Deref for Toy {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

#[derive(Default)]
pub(super) struct State {
    /// Paths that were asked for, in order.
    pub(super) seen: Mutex<Vec<String>>,
    /// A handler has begun to wait.
    pub(super) waiting: Arc<Notify>,
    /// Lets `/wait` and `/hold` go on.
    pub(super) release: Arc<Notify>,
    /// A handler of `/never` was dropped.
    pub(super) cancelled: Arc<Notify>,
    /// Bytes of `/big` that were asked for by the server.
    pub(super) produced: Arc<AtomicU64>,
    /// What `/hold` read after its response.
    pub(super) held: Arc<Mutex<Option<Result<Bytes, String>>>>,
    pub(super) held_done: Arc<Notify>,
    /// Feeds the body of `/stream`.
    pub(super) feed: Mutex<Option<mpsc::UnboundedSender<Bytes>>>,
}

struct OnDrop(Arc<Notify>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// Frames that are given one by one; then the end, or an error.
struct Frames(VecDeque<Result<Frame<Bytes>, Problem>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        Poll::Ready(self.0.pop_front())
    }
}

/// Always ready.
struct Zeros {
    left: u64,
    produced: Arc<AtomicU64>,
}

impl Body for Zeros {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        static ZEROS: [u8; 65536] = [0; 65536];
        let length = self.left.min(65536);
        if length == 0 {
            return Poll::Ready(None);
        }
        self.left -= length;
        self.produced.fetch_add(length, Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&ZEROS[..length as usize])))))
    }
}

struct Fed(mpsc::UnboundedReceiver<Bytes>);

impl Body for Fed {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

fn text(text: impl Into<Bytes>) -> BoxBody<Bytes, Problem> {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

fn frames(frames: impl IntoIterator<Item = Result<Frame<Bytes>, Problem>>) -> BoxBody<Bytes, Problem> {
    BodyExt::boxed(Frames(frames.into_iter().collect()))
}

fn data(text: &'static str) -> Result<Frame<Bytes>, Problem> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

impl HttpPlugin for Toy {
    type Body = BoxBody<Bytes, Problem>;

    fn handle(
        &self,
        request: Request<RequestBody>,
        peer: &Peer,
    ) -> impl Future<Output = Result<Response<Self::Body>, Failure>> + Send + use<> {
        let (state, peer) = (self.0.clone(), peer.clone());
        async move { state.answer(request, peer).await }
    }
}

impl State {
    async fn answer(
        &self,
        request: Request<RequestBody>,
        peer: Peer,
    ) -> Result<Response<BoxBody<Bytes, Problem>>, Failure> {
        let path = request.uri().path().to_owned();
        self.seen.lock().expect("no panic").push(path.clone());
        let (what, number) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
        let number: u64 = number.parse().unwrap_or(0);
        let mut response = Response::builder();
        let body = match what {
            "hello" => text("hello"),
            "uri" => text(format!("{} {} {}", request.uri(), peer.listener, peer)),
            "echo" => {
                let response = Response::builder().header("trailer", "x-sum").body(request.into_body());
                return response
                    .map(|response| response.map(|body| body.map_err(Problem::from).boxed()))
                    .map_err(|error| Failure { status: 500, reason: error.to_string() });
            }
            "length" => {
                let body = request.into_body().collect().await;
                let body = body.map_err(|error| Failure { status: 400, reason: error.to_string() })?;
                text(body.to_bytes().len().to_string())
            }
            "wait" => {
                self.waiting.notify_one();
                self.release.notified().await;
                text("waited")
            }
            "slow" => {
                tokio::time::sleep(Duration::from_millis(number)).await;
                text("slow")
            }
            "drink" => {
                let _guard = OnDrop(self.cancelled.clone());
                self.waiting.notify_one();
                let read = request.into_body().collect().await;
                text(if read.is_ok() { "whole" } else { "cut" })
            }
            "never" => {
                let _guard = OnDrop(self.cancelled.clone());
                self.waiting.notify_one();
                std::future::pending().await
            }
            "hold" => {
                let (release, held, done) = (self.release.clone(), self.held.clone(), self.held_done.clone());
                tokio::spawn(async move {
                    let body = request.into_body();
                    release.notified().await;
                    let read = body.collect().await.map(|all| all.to_bytes()).map_err(|error| error.to_string());
                    *held.lock().expect("no panic") = Some(read);
                    done.notify_one();
                });
                text("held")
            }
            "big" => BodyExt::boxed(Zeros { left: number, produced: self.produced.clone() }),
            "stream" => {
                let (sender, receiver) = mpsc::unbounded_channel();
                *self.feed.lock().expect("no panic") = Some(sender);
                BodyExt::boxed(Fed(receiver))
            }
            "fail" => {
                return Err(Failure { status: number as u16, reason: "the secret reason".to_owned() });
            }
            "panic" => panic!("as asked"),
            "status" => {
                response = response.status(number as u16);
                text("")
            }
            "wrong-length" => {
                response = response.header("content-length", "3");
                text("hello")
            }
            "short" => {
                response = response.header("content-length", "10");
                frames([data("hello")])
            }
            "break" => frames([data("hello"), Err("a pipe burst".into())]),
            "trailers" => {
                response = response.header("trailer", "x-sum");
                let mut trailers = HeaderMap::new();
                trailers.insert("x-sum", http::HeaderValue::from_static("42"));
                frames([data("hello"), Ok(Frame::trailers(trailers))])
            }
            "close" => {
                response = response.header("connection", "close").header("transfer-encoding", "chunked");
                text("bye")
            }
            _ => {
                response = response.status(404);
                text("")
            }
        };
        response.body(body).map_err(|error| Failure { status: 500, reason: error.to_string() })
    }
}
