//! The handlers that are measured. What is answered is the same behind the launcher and on a bare server: this file says
//! what, and each side brings its own way to read a request and to send a response.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | a line |
//! | `GET /large` | 64 KiB |
//! | `POST /upload` | how many bytes came |
//! | `POST /json` | an order, read and written |
//! | `GET /headers` | how many headers came, with 15 of its own |

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

/// Bytes of the large answer.
pub const LARGE: usize = 64 << 10;

/// Headers of the answer to `/headers`, the type of its content included.
pub const HEADERS: usize = 15;

static LARGE_ANSWER: [u8; LARGE] = [b'x'; LARGE];

/// What a JSON request holds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    id: u64,
    customer: String,
    lines: Vec<Line>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    item: String,
    count: u32,
    price: f64,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// Its headers, but for the length.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    fn text(body: impl Into<Bytes>) -> Answer {
        let mut headers = HeaderMap::with_capacity(1);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        Answer { status: StatusCode::OK, headers, body: body.into() }
    }
}

/// What is done with a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// Nothing.
    Nothing,
    /// Its bytes are counted as they come.
    Count,
    /// All of it at once.
    Everything,
}

/// What a path needs of the body.
pub fn wants(path: &str) -> Wants {
    match path {
        "/upload" => Wants::Count,
        "/json" => Wants::Everything,
        _ => Wants::Nothing,
    }
}

/// The answer; `count` and `body` are what [`wants`] asked for.
pub fn answer(path: &str, headers: &HeaderMap, count: usize, body: &[u8]) -> Answer {
    match path {
        "/" => Answer::text("Hello from Rust!\n"),
        "/large" => Answer::text(Bytes::from_static(&LARGE_ANSWER)),
        "/upload" => Answer::text(format!("{count}\n")),
        "/json" => match serde_json::from_slice::<Order>(body).and_then(|order| serde_json::to_vec(&order)) {
            Ok(body) => {
                let mut headers = HeaderMap::with_capacity(1);
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                Answer { status: StatusCode::OK, headers, body: body.into() }
            }
            Err(error) => Answer { status: StatusCode::BAD_REQUEST, ..Answer::text(format!("{error}\n")) },
        },
        "/headers" => {
            let mut answer = Answer::text(format!("{}\n", headers.len()));
            for (name, value) in NAMES.iter().zip(&VALUES) {
                answer.headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            answer
        }
        _ => Answer { status: StatusCode::NOT_FOUND, ..Answer::text("no such page\n") },
    }
}

static NAMES: [&str; HEADERS - 1] = [
    "cache-control",
    "etag",
    "last-modified",
    "vary",
    "x-request-id",
    "strict-transport-security",
    "x-frame-options",
    "x-content-type-options",
    "referrer-policy",
    "content-security-policy",
    "server-timing",
    "link",
    "age",
    "via",
];

static VALUES: [&str; HEADERS - 1] = [
    "public, max-age=3600",
    "\"5f3b1c2d\"",
    "Tue, 01 Sep 2026 10:00:00 GMT",
    "accept-encoding",
    "01J9ZC7Q4T8Y2M6N5P3R1S0V7W",
    "max-age=63072000",
    "DENY",
    "nosniff",
    "no-referrer",
    "default-src 'self'",
    "app;dur=1.5",
    "</style.css>; rel=preload",
    "12",
    "1.1 cache",
];

#[cfg(feature = "plugin")]
mod plugin {
    use worker_sdk::{Body, Request, Response, StatusCode};

    use super::{Wants, answer, wants};

    /// Longest body that is read at once.
    const LONGEST: usize = 1 << 20;

    #[worker_sdk::http(reuse)]
    async fn handle(request: Request) -> Response {
        let (parts, mut body) = request.into_parts();
        let path = parts.uri.path();
        let (mut count, mut whole) = (0, bytes::Bytes::new());
        match wants(path) {
            Wants::Nothing => {}
            Wants::Count => {
                while let Some(frame) = body.frame().await {
                    let Ok(frame) = frame else { return failed() };
                    count += frame.data_ref().map_or(0, bytes::Bytes::len);
                }
            }
            Wants::Everything => match body.bytes(LONGEST).await {
                Ok(bytes) => whole = bytes,
                Err(_) => return failed(),
            },
        }
        let answer = answer(path, &parts.headers, count, &whole);
        let mut response = Response::new(Body::from(answer.body));
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        response
    }

    fn failed() -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response
    }
}
