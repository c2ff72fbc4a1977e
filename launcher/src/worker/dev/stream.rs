//! The state as server-sent events (HTML Living Standard, section 9.2): one at the start, one for each change.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use ::http::{HeaderMap, HeaderValue, Response};
use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::sync::mpsc;

use super::{DevBody, Hub, page};
use crate::channel::dev::{Build, Dev};

/// Milliseconds after which a browser whose stream has ended asks again: the next worker is there already.
const RETRY: u32 = 50;

/// The answer to whoever follows.
pub(super) fn response(hub: &Arc<Hub>, headers: &HeaderMap) -> Response<DevBody> {
    // A browser that comes back says which failure it has seen. One that comes anew has just loaded its page: what
    // failed before is not its business.
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let (sender, events) = mpsc::channel(1);
    tokio::spawn(follow(Arc::clone(hub), last, sender));
    let mut response = Response::new(Events(events).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn follow(hub: Arc<Hub>, last: Option<u64>, sender: mpsc::Sender<Bytes>) {
    let mut states = hub.state.subscribe();
    let mut leaving = hub.leaving.subscribe();
    let now = states.borrow_and_update().clone();
    let mut seen = last.unwrap_or_else(|| failure_number(&now));
    let mut state = now;
    let mut first = true;
    loop {
        let event = event(&hub, &state, seen, first);
        first = false;
        seen = seen.max(failure_number(&state));
        if sender.send(event).await.is_err() {
            return;
        }
        tokio::select! {
            changed = states.changed() => match changed {
                Ok(()) => state = states.borrow_and_update().clone(),
                Err(_) => return,
            },
            _ = leaving.wait_for(|leaving| *leaving) => return,
            () = sender.closed() => return,
        }
    }
}

fn failure_number(state: &Dev) -> u64 {
    state.failure.as_ref().map_or(0, |failure| failure.number)
}

fn event(hub: &Hub, state: &Dev, seen: u64, first: bool) -> Bytes {
    let failure = state.failure.as_ref().filter(|failure| failure.number > seen);
    let overlay = match (&state.build, failure) {
        (Build::Failed { title, text }, _) => Some(page::overlay(&hub.service, title, text)),
        (_, Some(failure)) => Some(page::overlay(&hub.service, &failure.title, &failure.text)),
        _ => None,
    };
    let build = match state.build {
        Build::Good => "good",
        Build::Running => "running",
        Build::Failed { .. } => "failed",
    };
    let data = serde_json::json!({ "identity": hub.identity, "build": build, "overlay": overlay });
    let retry = if first { format!("retry: {RETRY}\n") } else { String::new() };
    // JSON has no line breaks of its own, so the data is one line.
    Bytes::from(format!("{retry}id: {}\ndata: {data}\n\n", failure_number(state)))
}

/// A body that comes in pieces from a task.
struct Events(mpsc::Receiver<Bytes>);

impl Body for Events {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}
