//! A route for everything that worker-sdk offers. The same source is the native library and the component, and the
//! tests drive both with one set of requests.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | text |
//! | `GET /status/404` | that status |
//! | `GET /headers` | the request's headers as JSON; two `set-cookie` in the response |
//! | `GET /bytes/1048576` | that many bytes, streamed, of known length |
//! | `GET /chunks/10` | that many lines, of unknown length |
//! | `GET /ticks` | a line every 10 ms for ever; `GET /open` counts such streams |
//! | `GET /trailers` | a body with a trailer |
//! | `POST /echo` | the request's body and trailers, as they come |
//! | `POST /count` | how many bytes, and their sum |
//! | `POST /upper` | needs the whole body, at most 1 MiB |
//! | `GET /sleep/50` | answers after that many milliseconds |
//! | `GET /worker`, `/config`, `/env/NAME`, `/peer` | what the plugin knows |
//! | `GET /log/TEXT` | writes a line to the log |
//! | `POST /send/operator`, `/send/SERVICE/SLOT` | sends the body as a message; `taken`, or why not |
//! | `GET /hear` | waits for a message, and says who sent it |

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use worker_sdk::messages::{self, From, To};
use worker_sdk::{
    Body, Bytes, Frame, HeaderMap, HeaderValue, IntoResponse, Json, Method, Request, RequestExt, Response, StatusCode,
    log,
};

/// Streams of `/ticks` that are not yet dropped.
static OPEN: AtomicU32 = AtomicU32::new(0);

struct Open;

impl Open {
    fn new() -> Self {
        OPEN.fetch_add(1, Ordering::Relaxed);
        Open
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

#[worker_sdk::http(start = start, stop = stop, reuse)]
async fn handle(request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let (route, argument) = match path[1..].split_once('/') {
        Some((route, argument)) => (route, argument),
        None => (&path[1..], ""),
    };
    let number = argument.parse::<u64>();
    match (request.method(), route, number) {
        (&Method::GET | &Method::HEAD, "", _) => "A plugin for everything.\n".into_response(),
        (_, "status", Ok(status)) => match u16::try_from(status).ok().and_then(|s| StatusCode::from_u16(s).ok()) {
            Some(status) => (status, format!("{status}\n")).into_response(),
            None => StatusCode::BAD_REQUEST.into_response(),
        },
        (&Method::GET, "headers", _) => headers(&request),
        (&Method::GET | &Method::HEAD, "bytes", Ok(count)) => bytes(count),
        (&Method::GET, "chunks", Ok(count)) => Response::new(Body::unfold(0, move |n| async move {
            // A pause now and then, so that the stream has to be woken.
            if n % 100 == 99 {
                worker_sdk::sleep(Duration::from_millis(1)).await;
            }
            Ok::<_, std::io::Error>((n < count).then(|| (Frame::data(format!("line {n}\n").into()), n + 1)))
        })),
        (&Method::GET, "ticks", _) => Response::new(Body::unfold((Open::new(), 0), async |(open, n)| {
            worker_sdk::sleep(Duration::from_millis(10)).await;
            Ok::<_, std::io::Error>(Some((Frame::data(format!("tick {n}\n").into()), (open, n + 1))))
        })),
        (&Method::GET, "open", _) => OPEN.load(Ordering::Relaxed).to_string().into_response(),
        (&Method::GET, "trailers", _) => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-checksum", HeaderValue::from_static("abc"));
            let mut response = Response::new(Body::from("with a trailer\n").with_trailers(trailers));
            response.headers_mut().insert("trailer", HeaderValue::from_static("x-checksum"));
            response
        }
        (&Method::POST, "echo", _) => {
            // Trailers are sent only where the head has announced them.
            let announced = request.headers().get("trailer").cloned();
            let mut response = Response::new(request.into_body());
            if let Some(names) = announced {
                response.headers_mut().insert("trailer", names);
            }
            response
        }
        (&Method::POST, "count", _) => count(request).await.into_response(),
        (&Method::POST, "upper", _) => match request.into_body().bytes(1 << 20).await {
            Ok(body) => body.to_ascii_uppercase().into_response(),
            Err(worker_sdk::Error::TooLarge(_)) => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
            Err(error) => error.into_response(),
        },
        (&Method::GET, "sleep", Ok(milliseconds)) => {
            worker_sdk::sleep(Duration::from_millis(milliseconds)).await;
            "awake\n".into_response()
        }
        (&Method::GET, "worker", _) => {
            let worker = worker_sdk::worker();
            Json(json!({
                "service": worker.service, "id": worker.id, "slot": worker.slot, "generation": worker.generation,
                "process": process(),
            }))
            .into_response()
        }
        (&Method::GET, "config", _) => match worker_sdk::config::<Value>() {
            Ok(config) => Json(config).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        },
        (&Method::GET, "env", _) => match std::env::var(argument) {
            Ok(value) => value.into_response(),
            Err(_) => StatusCode::NOT_FOUND.into_response(),
        },
        (&Method::GET, "peer", _) => match request.peer() {
            Some(peer) => peer.to_string().into_response(),
            None => "unknown".into_response(),
        },
        (&Method::GET, "log", _) => {
            log::info!(path = path, number = 7; "a line from {}", argument);
            StatusCode::NO_CONTENT.into_response()
        }
        (&Method::POST, "send", _) => send(argument, request).await,
        (&Method::GET, "hear", _) => match messages::messages().next().await {
            Some(message) => {
                let text = String::from_utf8_lossy(&message.payload);
                match &message.from {
                    From::Worker { service, slot, .. } => format!("{service}/{slot}: {text}\n").into_response(),
                    _ => format!("operator: {text}\n").into_response(),
                }
            }
            None => StatusCode::NOT_IMPLEMENTED.into_response(),
        },
        _ => (StatusCode::NOT_FOUND, "no such route\n").into_response(),
    }
}

async fn send(whom: &str, request: Request) -> Response {
    let slot = whom.split_once('/').and_then(|(service, slot)| Some((service, slot.parse().ok()?)));
    let to = match (whom, slot) {
        ("operator", _) => To::operator(),
        (_, Some((service, slot))) => To::slot(service, slot),
        _ => return StatusCode::BAD_REQUEST.into_response(),
    };
    let body = match request.into_body().bytes(1 << 20).await {
        Ok(body) => body,
        Err(error) => return error.into_response(),
    };
    match messages::send_json(to, &body, Vec::new()).await {
        Ok(()) => "taken\n".into_response(),
        Err(error) => (StatusCode::CONFLICT, format!("{:?}\n", error.reason)).into_response(),
    }
}

#[cfg(not(target_family = "wasm"))]
fn process() -> Option<u32> {
    Some(std::process::id())
}

#[cfg(target_family = "wasm")]
fn process() -> Option<u32> {
    None
}

fn headers(request: &Request) -> Response {
    let headers: Vec<Value> = request
        .headers()
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let mut cookies = HeaderMap::new();
    cookies.append("set-cookie", HeaderValue::from_static("a=1"));
    cookies.append("set-cookie", HeaderValue::from_static("b=2"));
    (
        cookies,
        Json(json!({ "method": request.method().as_str(), "target": request.uri().to_string(), "headers": headers })),
    )
        .into_response()
}

/// Byte `n` is `n % 251`: a prime, so that no chunk looks like its neighbour.
fn bytes(count: u64) -> Response {
    const CHUNK: u64 = 64 * 1024;
    let body = Body::unfold(0, move |from: u64| async move {
        let to = count.min(from + CHUNK);
        let chunk: Vec<u8> = (from..to).map(|n| (n % 251) as u8).collect();
        Ok::<_, std::io::Error>((from < count).then(|| (Frame::data(Bytes::from(chunk)), to)))
    });
    let mut response = Response::new(body);
    response.headers_mut().insert("content-length", HeaderValue::from(count));
    response
}

async fn count(request: Request) -> Result<String, worker_sdk::Error> {
    let (mut bytes, mut sum) = (0_u64, 0_u64);
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            bytes += data.len() as u64;
            sum += data.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        }
    }
    Ok(format!("{bytes} bytes, sum {sum}\n"))
}

async fn start() {
    log::info!("showcase starts");
}

async fn stop() {
    log::info!("showcase stops");
}
