//! What a worker of `launcher dev` does beside serving: it shows an author's browser how the build goes.
//!
//! ```text
//! request ──> Developed ──/__launcher/dev──> stream: the state, whenever it changes
//!                 │ ──────/__launcher/dev.js─> the script that shows it and reloads the page
//!                 └──> the plugin ──> inject: the script, at the end of a page
//!                          └─ failed ──> the master is asked what was written about it ──> page
//! ```
//!
//! It stands around the plugin of a worker that was assigned with [`Assign::dev`](crate::channel::Assign::dev), and
//! nowhere else: in production none of this is on a request's way. Nothing is built or watched here; the master does
//! that and sends what is to be shown.

mod ansi;
mod inject;
mod page;
mod stream;

use std::error::Error;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use ::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use tokio::sync::{Notify, watch};

use super::http::{Peer, RequestBody};
use super::plugin::{Failure, HttpPlugin};
use crate::channel::ToMaster;
use crate::channel::dev::{Asked, Build, Dev};

/// Where the state is streamed, and the script that reads it. A plugin does not see requests to these paths.
const STREAM: &str = "/__launcher/dev";
const SCRIPT: &str = "/__launcher/dev.js";

/// How long an answer waits for what was written about its failure.
const PATIENCE: Duration = Duration::from_millis(500);
/// Bytes of a reason that travel to the master.
const REASON: usize = 16 * 1024;

/// What its requests and the channel share.
#[derive(Debug)]
pub(super) struct Hub {
    /// Tells this run of this generation from every other.
    identity: String,
    service: String,
    state: watch::Sender<Arc<Dev>>,
    /// The worker leaves: streams end, or they would hold it up until its deadline.
    leaving: watch::Sender<bool>,
    /// Failures so far.
    failures: AtomicU64,
    worker: u64,
    asked: Mutex<Vec<Asked>>,
    asks: Notify,
}

impl Hub {
    /// Of this worker; `state` is what the master said at its start.
    pub(super) fn new(service: &str, worker: u64, generation: u64, state: Dev) -> Arc<Hub> {
        Arc::new(Hub {
            identity: format!("{}.{generation}", std::os::unix::process::parent_id()),
            service: service.to_owned(),
            state: watch::Sender::new(Arc::new(state)),
            leaving: watch::Sender::new(false),
            failures: AtomicU64::new(0),
            worker,
            asked: Mutex::default(),
            asks: Notify::new(),
        })
    }

    /// The master has news.
    pub(super) fn tell(&self, state: Dev) {
        self.state.send_replace(Arc::new(state));
    }

    /// The worker leaves.
    pub(super) fn leave(&self) {
        self.leaving.send_replace(true);
    }

    /// The next question for the master.
    pub(super) async fn next_question(&self) -> ToMaster {
        loop {
            let next = self.asked.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match next {
                Some(asked) => return ToMaster::RequestFailed(asked),
                None => self.asks.notified().await,
            }
        }
    }

    fn state(&self) -> Arc<Dev> {
        self.state.borrow().clone()
    }

    /// Tell the master of a failure; the number by which its answer is known.
    fn ask(&self, title: String, reason: &str) -> u64 {
        let request = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let reason = reason[..reason.floor_char_boundary(REASON)].to_owned();
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(Asked { request, title, reason });
        self.asks.notify_one();
        request
    }

    /// What was written about a failure, or the reason alone if nobody says in time.
    async fn learn(&self, title: String, reason: String) -> (String, String) {
        let request = self.ask(title.clone(), &reason);
        let mut states = self.state.subscribe();
        let told = |state: &Arc<Dev>| {
            state.failure.as_ref().is_some_and(|failure| failure.worker == self.worker && failure.request >= request)
        };
        match tokio::time::timeout(PATIENCE, states.wait_for(told)).await {
            Ok(Ok(state)) => match &state.failure {
                Some(failure) if failure.request == request => (failure.title.clone(), failure.text.clone()),
                _ => (title, reason),
            },
            _ => (title, reason),
        }
    }
}

/// A plugin whose author watches. `ABSOLUTE` is the plugin's [`HttpPlugin::ABSOLUTE_URI`].
pub(super) struct Developed<const ABSOLUTE: bool> {
    /// `None`: the first build has not succeeded.
    plugin: Option<Box<dyn Plugin>>,
    hub: Arc<Hub>,
}

impl Developed<false> {
    /// In place of a plugin that is not built yet.
    pub(super) fn awaited(hub: Arc<Hub>) -> Self {
        Developed { plugin: None, hub }
    }
}

impl<const ABSOLUTE: bool> Developed<ABSOLUTE> {
    pub(super) fn new(plugin: impl HttpPlugin, hub: Arc<Hub>) -> Self {
        Developed { plugin: Some(Box::new(plugin)), hub }
    }
}

type DevBody = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;
type Answered = Result<Response<DevBody>, Failure>;
type Answer = Pin<Box<dyn Future<Output = Answered> + Send>>;

/// A plugin behind a pointer: the HTTP side is compiled once more for authors, not once more for every kind.
trait Plugin: Send + Sync {
    fn prepare(&self, headers: &mut HeaderMap, peer: &Peer);
    fn handle(&self, request: Request<RequestBody>, peer: &Peer) -> Answer;
}

impl<P: HttpPlugin> Plugin for P {
    fn prepare(&self, headers: &mut HeaderMap, peer: &Peer) {
        HttpPlugin::prepare(self, headers, peer);
    }

    fn handle(&self, request: Request<RequestBody>, peer: &Peer) -> Answer {
        let answer = HttpPlugin::handle(self, request, peer);
        Box::pin(
            async move { answer.await.map(|response| response.map(|body| body.map_err(Into::into).boxed_unsync())) },
        )
    }
}

impl<const ABSOLUTE: bool> HttpPlugin for Developed<ABSOLUTE> {
    type Body = DevBody;

    const ABSOLUTE_URI: bool = ABSOLUTE;

    fn prepare(&self, headers: &mut HeaderMap, peer: &Peer) {
        if let Some(plugin) = &self.plugin {
            plugin.prepare(headers, peer);
        }
    }

    fn handle(
        &self,
        request: Request<RequestBody>,
        peer: &Peer,
    ) -> impl Future<Output = Answered> + Send + use<ABSOLUTE> {
        let hub = Arc::clone(&self.hub);
        let page = shows_pages(request.headers());
        let line = format!("{} {}", request.method(), request.uri().path());
        let client = peer.to_string();
        let own = match request.uri().path() {
            STREAM => Some(stream::response(&hub, request.headers())),
            SCRIPT => Some(page::script()),
            _ => None,
        };
        let answer = match (&own, &self.plugin) {
            (None, Some(plugin)) => Some(plugin.handle(request, peer)),
            _ => None,
        };
        async move {
            match (own, answer) {
                (Some(response), _) => Ok(response),
                (None, None) => Ok(page::awaited(&hub, page)),
                (None, Some(answer)) => match answer.await {
                    Ok(response) if page => Ok(inject::with_script(response, &hub)),
                    Ok(response) => Ok(response),
                    Err(failure) => Ok(failed(&hub, &line, &client, page, failure).await),
                },
            }
        }
    }
}

/// A request that the plugin did not answer: the log gets its line as in production, and the author the whole story.
async fn failed(hub: &Hub, line: &str, client: &str, page: bool, failure: Failure) -> Response<DevBody> {
    let Failure { status, reason } = failure;
    let first = reason.lines().next().unwrap_or_default();
    let shown = first.strip_suffix("; its message is above").unwrap_or(first);
    // One write, so that it stays whole. Nobody is left to tell if it fails.
    let words = format!("launcher: {line} from {client} answered with {status}: {reason}\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), words.as_bytes());
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let (title, text) = hub.learn(format!("{line}: {shown}"), reason).await;
    page::failed(hub, status, page, &title, &text)
}

/// Whether the client is a browser that is about to show what it asks for. Scripts that fetch a piece of a page say so,
/// and get what they would get in production.
fn shows_pages(headers: &HeaderMap) -> bool {
    let says = |name: &str, what: &dyn Fn(&str) -> bool| headers.get(name).map(|value| value.to_str().is_ok_and(what));
    let html = says(ACCEPT.as_str(), &|accept| accept.to_ascii_lowercase().contains("text/html")).unwrap_or(false);
    let shown = |to: &str| matches!(to, "document" | "iframe" | "frame");
    html && says("sec-fetch-dest", &shown).unwrap_or(true)
}

/// A response of the launcher's own, which no browser keeps.
fn response(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<DevBody> {
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether a build has anything to show.
fn is_good(state: &Dev) -> bool {
    !matches!(state.build, Build::Failed { .. })
}
