//! A WASI 0.2 HTTP component with a route for every facility of the host that a test looks at.
//!
//! Queries are `name=value` pairs without escapes: the tests need none.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_lite::stream;
use http_body_util::{BodyExt, StreamBody};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::ErrorCode;
use wstd::http::body::{Body, Bytes, Frame};
use wstd::http::{Client, Error, HeaderMap, Method, Request, Response, StatusCode};
use wstd::runtime::AsyncPollable;

mod store {
    wit_bindgen::generate!({
        inline: "
            package test:kitchen;

            world configured {
                import wasi:config/store@0.2.0-rc.1;
            }

            package wasi:config@0.2.0-rc.1 {
                interface store {
                    variant error { upstream(string), io(string) }
                    get: func(key: string) -> result<option<string>, error>;
                    get-all: func() -> result<list<tuple<string, string>>, error>;
                }
            }
        ",
        generate_all,
    });
    pub use wasi::config::store::{get, get_all};
}

mod post {
    wit_bindgen::generate!({
        path: "../../../../worker-sdk/wit/messages",
        world: "talking",
        with: { "wasi:io/poll@0.2.0": wasip2::io::poll },
    });
    pub use launcher::messages::messages::{Inbox, Receiver, send};
}

/// What `/version` answers. A test that needs another version of this component replaces these bytes in the
/// compiled file by others of the same length: no compiler has to run.
static VERSION: &str = "kitchen-version-00000000";

/// Requests that this instance has served: shows whether instances are reused.
static SERVED: AtomicU64 = AtomicU64::new(0);

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let served = SERVED.fetch_add(1, Ordering::Relaxed) + 1;
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/hello" => text("hello\n"),
        // Volatile: the compiler must not fold the text into the code.
        "/version" => text(std::hint::black_box(VERSION)),
        "/count" => text(format!("{served}\n")),
        "/headers" => text(head(&request)),
        "/echo" => Ok(Response::new(request.into_body())),
        "/upload" => upload(request).await,
        "/download" => download(number(&request, "bytes")?),
        "/trailers" => trailers(request).await,
        "/sleep" => {
            let ms = number(&request, "ms")?;
            wstd::task::sleep(wstd::time::Duration::from_millis(ms)).await;
            text(format!("slept {ms}\n"))
        }
        "/slow-body" => slow_body(number(&request, "chunks")?, number(&request, "ms")?),
        "/trap" => std::process::abort(),
        "/trap-late" => trap_late(),
        "/spin" => spin(),
        "/compute" => compute(number(&request, "ms")?),
        "/grow" => grow(number(&request, "mib")?),
        "/env" => text(std::env::vars().fold(String::new(), |all, (name, value)| all + &name + "=" + &value + "\n")),
        "/args" => text(format!("{:?}\n", std::env::args().collect::<Vec<_>>())),
        "/config" => config(),
        "/read" => outcome(std::fs::read_to_string(query(&request, "path")?)),
        "/write" => {
            outcome(std::fs::write(query(&request, "path")?, "written by the guest\n").map(|()| "written\n".into()))
        }
        "/list" => outcome(list(query(&request, "path")?)),
        "/fetch" => fetch(query(&request, "url")?).await,
        "/connect" => outcome(connect(query(&request, "to")?.parse()?).await),
        "/resolve" => outcome(resolve(query(&request, "host")?)),
        "/tell" => tell(query(&request, "service")?, query(&request, "text")?).await,
        "/hear" => hear().await,
        "/stdout" => {
            println!("a line on stdout");
            eprintln!("a line on stderr");
            print!("a line without an end");
            std::io::stdout().flush()?;
            text("printed\n")
        }
        "/chatter" => {
            let lines = number(&request, "lines")?;
            for line in 0..lines {
                println!("line {line} of the chatter that nobody may be blocked by");
            }
            text(format!("{lines}\n"))
        }
        "/stdin" => outcome(std::io::read_to_string(std::io::stdin()).map(|read| format!("{} bytes\n", read.len()))),
        _ => status(StatusCode::NOT_FOUND, "no such route\n"),
    }
}

fn text(text: impl Into<String>) -> Result<Response<Body>, Error> {
    status(StatusCode::OK, text)
}

fn status(status: StatusCode, text: impl Into<String>) -> Result<Response<Body>, Error> {
    let text = text.into();
    Ok(Response::builder()
        .status(status)
        .header("content-type", "text/plain")
        .header("content-length", text.len())
        .body(text.into())?)
}

/// 200 with the text, or 403 with the error: what the sandbox refuses is an ordinary error to the guest.
fn outcome(outcome: std::io::Result<String>) -> Result<Response<Body>, Error> {
    match outcome {
        Ok(done) => text(done),
        Err(error) => status(StatusCode::FORBIDDEN, format!("{error}\n")),
    }
}

fn query<'a>(request: &'a Request<Body>, name: &str) -> Result<&'a str, Error> {
    let pairs = request.uri().query().unwrap_or_default().split('&');
    pairs
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
        .ok_or_else(|| Error::msg(format!("the query has no {name}=")))
}

fn number(request: &Request<Body>, name: &str) -> Result<u64, Error> {
    Ok(query(request, name)?.parse()?)
}

fn head(request: &Request<Body>) -> String {
    let mut head = format!("{} {}\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        let _ = writeln!(head, "{name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    head
}

/// FNV-1a, 64 bits.
struct Checksum(u64);

impl Checksum {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// `BYTES CHECKSUM` of the body.
async fn upload(request: Request<Body>) -> Result<Response<Body>, Error> {
    let mut body = request.into_body().into_boxed_body();
    let (mut bytes, mut checksum) = (0u64, Checksum::new());
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            bytes += data.len() as u64;
            checksum.add(&data);
        }
    }
    text(format!("{bytes} {:016x}\n", checksum.0))
}

/// That many bytes; byte `i` of the body is `i % 251`.
fn download(bytes: u64) -> Result<Response<Body>, Error> {
    const CHUNK: usize = 251 * 256;
    let pattern: Vec<u8> = (0..CHUNK).map(|at| (at % 251) as u8).collect();
    let chunks = stream::unfold((bytes, Bytes::from(pattern)), |(left, pattern)| async move {
        let length = left.min(CHUNK as u64);
        let chunk = pattern.slice(..length as usize);
        (length > 0).then_some((Ok::<_, Infallible>(chunk), (left - length, pattern)))
    });
    Ok(Response::builder().header("content-length", bytes).body(Body::from_try_stream(chunks))?)
}

/// Echoes the body and its trailers, and says in one more how many there were.
async fn trailers(request: Request<Body>) -> Result<Response<Body>, Error> {
    let collected = request.into_body().into_boxed_body().collect().await?;
    let mut trailers = collected.trailers().cloned().unwrap_or_else(HeaderMap::new);
    trailers.insert("x-trailers-received", trailers.len().into());
    // What the head does not announce may be left out on the way.
    let names: Vec<_> = trailers.keys().map(|name| name.as_str()).collect();
    let response = Response::builder().header("trailer", names.join(", "));
    let frames = [Ok::<_, Infallible>(Frame::data(collected.to_bytes())), Ok(Frame::trailers(trailers))];
    Ok(response.body(Body::from_http_body(StreamBody::new(stream::iter(frames))))?)
}

/// The head at once, then `chunks` lines, each after a pause.
fn slow_body(chunks: u64, ms: u64) -> Result<Response<Body>, Error> {
    let lines = stream::unfold(0, move |chunk| async move {
        if chunk == chunks {
            return None;
        }
        wstd::task::sleep(wstd::time::Duration::from_millis(ms)).await;
        Some((Ok::<_, Infallible>(Bytes::from(format!("chunk {chunk}\n"))), chunk + 1))
    });
    Ok(Response::new(Body::from_try_stream(lines)))
}

/// The head and a first part of a body that is never finished: the guest is gone.
fn trap_late() -> Result<Response<Body>, Error> {
    let parts = stream::unfold(0, |part| async move {
        if part == 1 {
            wstd::task::sleep(wstd::time::Duration::from_millis(50)).await;
            std::process::abort();
        }
        Some((Ok::<_, Infallible>(Bytes::from_static(b"the first part\n")), part + 1))
    });
    Ok(Response::new(Body::from_try_stream(parts)))
}

fn spin() -> Result<Response<Body>, Error> {
    loop {
        std::hint::black_box(0);
    }
}

/// Computes for a while without yielding to the host.
fn compute(ms: u64) -> Result<Response<Body>, Error> {
    let start = Instant::now();
    while start.elapsed().as_millis() < u128::from(ms) {
        std::hint::black_box(0);
    }
    text(format!("computed {ms}\n"))
}

/// Allocates; a refusal is an ordinary answer.
fn grow(mib: u64) -> Result<Response<Body>, Error> {
    let mut held: Vec<Vec<u8>> = Vec::new();
    for done in 0..mib {
        let mut block = Vec::new();
        if block.try_reserve_exact(1 << 20).is_err() {
            drop(held);
            return status(StatusCode::INSUFFICIENT_STORAGE, format!("refused after {done} MiB\n"));
        }
        block.resize(1 << 20, 1);
        held.push(block);
    }
    text(format!("{} MiB\n", std::hint::black_box(held).len()))
}

fn config() -> Result<Response<Body>, Error> {
    let mut all = store::get_all().map_err(|error| Error::msg(format!("{error:?}")))?;
    all.sort();
    let missing = store::get("no-such-key").map_err(|error| Error::msg(format!("{error:?}")))?;
    text(all.iter().fold(format!("missing: {missing:?}\n"), |text, (key, value)| text + key + "=" + value + "\n"))
}

fn list(path: &str) -> std::io::Result<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names.join("\n") + "\n")
}

// The sockets of WASI rather than those of std: the libc of the Debian toolchain is older than them.
async fn connect(to: SocketAddr) -> std::io::Result<String> {
    wstd::net::TcpStream::connect_addr(to).await?;
    Ok("connected\n".into())
}

/// A message to one worker of a service.
async fn tell(service: &str, text: &str) -> Result<Response<Body>, Error> {
    let refused = |reason| std::io::Error::other(format!("{reason:?}"));
    let sending = match post::send(&post::Receiver::Any(service.to_owned()), text.as_bytes()) {
        Ok(sending) => sending,
        Err(reason) => return outcome(Err(refused(reason))),
    };
    let ready = AsyncPollable::new(sending.subscribe());
    loop {
        match sending.outcome() {
            Some(told) => return outcome(told.map(|()| "taken\n".to_owned()).map_err(refused)),
            None => ready.wait_for().await,
        }
    }
}

/// The next message that comes.
async fn hear() -> Result<Response<Body>, Error> {
    let inbox = post::Inbox::new();
    AsyncPollable::new(inbox.subscribe()).wait_for().await;
    let message = inbox.next().ok_or_else(|| Error::msg("no message, although there is one"))?;
    text(String::from_utf8_lossy(&message.payload).into_owned() + "\n")
}

fn resolve(host: &str) -> std::io::Result<String> {
    let refused = |code: ErrorCode| std::io::Error::other(format!("{code:?}"));
    let addresses = resolve_addresses(&instance_network(), host).map_err(refused)?;
    addresses.subscribe().block();
    let first = addresses.resolve_next_address().map_err(refused)?;
    Ok(format!("{first:?}\n"))
}

/// `STATUS` and the body of what the URL answered, or 502 with the error.
async fn fetch(url: &str) -> Result<Response<Body>, Error> {
    let request = Request::builder().method(Method::GET).uri(url).body(())?;
    match Client::new().send(request).await {
        Ok(mut answer) => {
            let code = answer.status().as_u16();
            let body = String::from_utf8_lossy(answer.body_mut().contents().await?).into_owned();
            text(format!("{code} {body}"))
        }
        Err(error) => status(StatusCode::BAD_GATEWAY, format!("{error:?}\n")),
    }
}
