//! One request and its response: what the launcher checks on the way in and out, and the time limit between.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::str;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue};
use http::header::{TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};

use super::body::{Content, ReplyBody, RequestBody};
use super::serve::Shared;
use super::track::Track;
use super::{Event, Peer};
use crate::worker::plugin::{Failure, HttpPlugin};

pin_project! {
    /// A request that is being answered.
    ///
    /// Written by hand and kept small, because hyper moves it into place for every request: as nested async
    /// functions it held the request three times, which cost a twelfth of the time of a trivial request.
    pub(super) struct Exchange<F> {
        #[pin]
        stage: Stage<F>,
        limit: Duration,
        timer: Option<Pin<Box<Sleep>>>,
        is_head: bool,
        // Until the response takes it along.
        track: Option<Arc<Track>>,
    }
}

pin_project! {
    #[project = StageProjection]
    enum Stage<F> {
        /// The plugin works.
        Called { #[pin] work: F },
        /// The client's fault: the plugin is not asked.
        Refused { status: StatusCode, text: &'static str },
    }
}

/// Starts an exchange at once, so that the connection is busy before anything else is polled.
#[inline]
pub(super) fn begin<P: HttpPlugin>(
    shared: &Shared<P>,
    track: &Arc<Track>,
    mut request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ReplyBody<P::Body>>, Infallible>> + use<P> {
    let has_body = !request.body().is_end_stream();
    let number = track.begin(has_body, request.version() < Version::HTTP_11);
    shared.counters.requests.fetch_add(1, Relaxed);
    let most = shared.limits.max_requests;
    if most > 0 && shared.begun.fetch_add(1, Relaxed) + 1 == most {
        (track.report)(Event::MaxRequests);
    }
    let is_head = request.method() == Method::HEAD;
    track.remember_line(&request);
    if let Some(access) = &track.access {
        access.begin(&request);
    }
    let limit = shared.limits.request_timeout;
    let admitted = admit::<P>(&mut request, track.peer());
    if admitted.is_ok() {
        shared.plugin.prepare(request.headers_mut(), track.peer());
    }
    let told = has_body.then(|| (track.clone(), number));
    let held_back = has_body && request.headers().contains_key(EXPECT);
    let body = |incoming| RequestBody::new(incoming, told, held_back);
    let kept = Some(track.clone());
    // Nothing but moves from here on, and each arm builds its value where it is returned: whatever looks at the
    // request between, or a variable for a part of it, is one more copy of a quarter of a kilobyte.
    match admitted {
        Ok(()) => Exchange {
            stage: Stage::Called { work: shared.plugin.handle(request.map(body), track.peer()) },
            limit,
            timer: None,
            is_head,
            track: kept,
        },
        Err((status, text)) => {
            drop(request.map(body)); // which says that nobody will read it
            Exchange { stage: Stage::Refused { status, text }, limit, timer: None, is_head, track: kept }
        }
    }
}

impl<F, B> Future for Exchange<F>
where
    F: Future<Output = Result<Response<B>, Failure>>,
    B: Body,
{
    type Output = Result<Response<ReplyBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answered = match this.stage.project() {
            // Not worth a line in the log.
            StageProjection::Refused { status, text } => match this.track.take() {
                Some(track) => return Poll::Ready(Ok(finish(text_reply(*status, text), Content::Text, None, track))),
                None => return Poll::Pending,
            },
            StageProjection::Called { work } => match work.poll(cx) {
                Poll::Ready(answered) => answered,
                Poll::Pending if expired(this.timer, *this.limit, cx) => {
                    let limit = this.limit;
                    Err(Failure {
                        status: 504,
                        reason: format!("no response head within limits.request_timeout ({limit:?})"),
                    })
                }
                Poll::Pending => return Poll::Pending,
            },
        };
        // Only a future that is polled after its end has none.
        let Some(track) = this.track.take() else {
            return Poll::Pending;
        };
        Poll::Ready(Ok(match answered {
            Ok(mut response) => match vet(&mut response, *this.is_head) {
                Ok(declared) => {
                    if let Some(access) = &track.access {
                        access.body(response.body(), declared);
                    }
                    finish(response, Content::Plugin, declared, track)
                }
                Err(reason) => fail(&Failure { status: 500, reason }, track),
            },
            Err(failure) => fail(&failure, track),
        }))
    }
}

/// Whether the plugin's time is over. A plugin that answers at its first poll costs no timer.
fn expired(timer: &mut Option<Pin<Box<Sleep>>>, limit: Duration, cx: &mut Context<'_>) -> bool {
    if limit.is_zero() {
        return false;
    }
    let timer = timer.get_or_insert_with(|| Box::pin(sleep(limit)));
    timer.as_mut().poll(cx).is_ready()
}

#[cold]
fn fail<B>(failure: &Failure, track: Arc<Track>) -> Response<ReplyBody<B>> {
    let status = StatusCode::from_u16(failure.status)
        .ok()
        .filter(|status| status.is_client_error() || status.is_server_error())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (track.report)(Event::RequestFailed {
        request: &track.line(),
        peer: track.peer(),
        status: status.as_u16(),
        reason: &failure.reason,
    });
    finish(text_reply(status, ""), Content::Text, None, track)
}

/// What RFC 9112, section 3.2 demands of a request and hyper does not check.
#[inline]
fn admit<P: HttpPlugin>(request: &mut Request<Incoming>, peer: &Peer) -> Result<(), (StatusCode, &'static str)> {
    if request.method() == Method::CONNECT {
        return Err((StatusCode::NOT_IMPLEMENTED, "CONNECT is not supported"));
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (None, _) if request.version() >= Version::HTTP_11 => {
            return Err((StatusCode::BAD_REQUEST, "the request has no Host header"));
        }
        (Some(_), Some(_)) => {
            return Err((StatusCode::BAD_REQUEST, "the request has more than one Host header"));
        }
        (host, _) => host.map_or(&[][..], HeaderValue::as_bytes),
    };
    if !host.iter().all(|byte| IN_HOST[usize::from(*byte)]) {
        return Err((StatusCode::BAD_REQUEST, "the Host header is not a host"));
    }
    if P::ABSOLUTE_URI && request.uri().authority().is_none() {
        let authority = if host.is_empty() { peer.authority.as_bytes() } else { host };
        let Ok(authority) = Authority::try_from(authority) else {
            return Err((StatusCode::BAD_REQUEST, "the Host header is not a host"));
        };
        let mut parts = request.uri().clone().into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(authority);
        parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
        match Uri::from_parts(parts) {
            Ok(uri) => *request.uri_mut() = uri,
            Err(_) => return Err((StatusCode::BAD_REQUEST, "the request's target is not a URI")),
        }
    }
    Ok(())
}

/// `uri-host [ ":" port ]` of RFC 9110, section 7.2: what may occur in it. User information is not allowed there.
const IN_HOST: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"-._~%!$&'()*+,;=:[]";
    let mut mark = 0;
    while mark < marks.len() {
        table[marks[mark] as usize] = true;
        mark += 1;
    }
    table
};

/// Headers that belong to the connection (RFC 9110, section 7.6.1). A handler that passes on another server's answer
/// brings them along without meaning to.
#[inline]
pub(in crate::worker) fn is_hop_by_hop(name: &HeaderName) -> bool {
    // The lengths of the names: most headers have another one, and comparing a number is cheaper than five names.
    matches!(name.as_str().len(), 7 | 10 | 16 | 17)
        && [&CONNECTION, &TRANSFER_ENCODING, &UPGRADE, &KEEP_ALIVE, &PROXY_CONNECTION].contains(&name)
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Refuses a head that cannot be sent as it is, and takes out what is the server's to say. Returns the length that
/// the head declares.
fn vet<B: Body>(response: &mut Response<B>, is_head: bool) -> Result<Option<u64>, String> {
    let status = response.status();
    if status.is_informational() {
        return Err(format!("the plugin answered with status {}, which is no final status", status.as_u16()));
    }
    // Whatever the plugin's side wrote there: hyper panics at anything but its own versions.
    *response.version_mut() = Version::HTTP_11;

    let mut length = None;
    let mut lengths = 0;
    let mut hop_by_hop = false;
    for (name, value) in response.headers() {
        if name == CONTENT_LENGTH {
            let declared =
                parse_length(value).ok_or_else(|| format!("the plugin's Content-Length is not a number: {value:?}"))?;
            if length.is_some_and(|other| other != declared) {
                return Err("the plugin gave two different Content-Lengths".to_owned());
            }
            length = Some(declared);
            lengths += 1;
        } else {
            hop_by_hop |= is_hop_by_hop(name);
        }
    }
    if let Some(declared) = length {
        let bodiless = is_head || status == StatusCode::NOT_MODIFIED;
        if status == StatusCode::NO_CONTENT {
            response.headers_mut().remove(CONTENT_LENGTH);
        } else if let Some(actual) = response.body().size_hint().exact()
            && actual != declared
            && !bodiless
        {
            // hyper would send the one and frame by the other: the client would take the rest for a response.
            return Err(format!("the plugin declared Content-Length {declared} for a body of {actual} bytes"));
        } else if lengths > 1 {
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(declared));
        }
    }
    if hop_by_hop {
        let close = response.headers().get_all(CONNECTION).iter().any(says_close);
        let headers: &mut HeaderMap = response.headers_mut();
        for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE, KEEP_ALIVE, PROXY_CONNECTION] {
            headers.remove(name);
        }
        if close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
    Ok(length)
}

/// Digits only (RFC 9110, section 8.6): `u64::from_str` would take a plus sign.
fn parse_length(value: &HeaderValue) -> Option<u64> {
    let digits = value.as_bytes();
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}

fn says_close(value: &HeaderValue) -> bool {
    value.as_bytes().split(|byte| *byte == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// The launcher's own answer: `500 Internal Server Error`, and more only if it is the client's business.
fn text_reply(status: StatusCode, text: &str) -> Response<Option<Bytes>> {
    let mut body = format!("{} {}\n", status.as_u16(), status.canonical_reason().unwrap_or("Error"));
    if !text.is_empty() {
        body.push_str(text);
        body.push('\n');
    }
    let mut response = Response::new(Some(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[inline]
fn finish<T, B>(
    mut response: Response<T>,
    content: impl FnOnce(T) -> Content<B>,
    declared: Option<u64>,
    track: Arc<Track>,
) -> Response<ReplyBody<B>> {
    track.answered();
    if track.draining() || track.refuses_body() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(access) = &track.access {
        access.answered(response.status());
    }
    response.map(|body| ReplyBody::new(content(body), declared, track))
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    fn vetted(method: Method, status: u16, headers: &[(&str, &str)], body: &'static str) -> Result<HeaderMap, String> {
        let mut builder = Response::builder().status(status);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let mut response = builder.body(Full::new(Bytes::from_static(body.as_bytes()))).map_err(|e| e.to_string())?;
        vet(&mut response, method == Method::HEAD).map(|_| response.into_parts().0.headers)
    }

    #[test]
    fn a_length_that_differs_from_the_body_is_refused() {
        assert!(vetted(Method::GET, 200, &[("content-length", "4")], "hello").is_err());
        assert!(vetted(Method::GET, 200, &[("content-length", "5")], "").is_err());
        assert!(vetted(Method::GET, 200, &[("content-length", "5")], "hello").is_ok());
        assert!(vetted(Method::HEAD, 200, &[("content-length", "5")], "").is_ok());
        assert!(vetted(Method::GET, 304, &[("content-length", "5")], "").is_ok());
    }

    #[test]
    fn a_length_that_is_no_number_is_refused() {
        for value in ["", "+5", "-1", "5, 5", "0x5", "99999999999999999999"] {
            assert!(vetted(Method::HEAD, 200, &[("content-length", value)], "").is_err(), "{value:?}");
        }
        assert!(vetted(Method::HEAD, 200, &[("content-length", "5"), ("content-length", "6")], "").is_err());
    }

    #[test]
    fn what_is_the_servers_to_say_is_taken_out() {
        let headers = [
            ("transfer-encoding", "chunked"),
            ("connection", "keep-alive, Close"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "websocket"),
            ("x-kept", "1"),
        ];
        let kept = vetted(Method::GET, 200, &headers, "hello").expect("a good head");
        let names: Vec<_> = kept.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(names, [("x-kept", &b"1"[..]), ("connection", b"close")]);
        let kept = vetted(Method::GET, 204, &[("content-length", "0")], "").expect("a good head");
        assert!(kept.is_empty(), "RFC 9110, 8.6: no Content-Length in a 204");
        let kept = vetted(Method::GET, 200, &[("content-length", "5"), ("content-length", "5")], "hello");
        assert_eq!(kept.expect("a good head").len(), 1);
    }

    #[test]
    fn an_interim_status_is_refused() {
        assert!(vetted(Method::GET, 101, &[], "").is_err());
        assert!(vetted(Method::GET, 100, &[], "").is_err());
    }
}
