//! Serves a directory: `GET` and `HEAD`, content types, ranges, validators, `index.html`, in bounded memory.
//!
//! ```yaml
//! config:
//!   root: ./public           # native: relative to the worker's directory; a component: within its wasm.dirs
//!   index: index.html
//!   cache_control: max-age=3600
//!   hidden: false            # names that begin with a dot (but .well-known) do not exist
//!   types: { md: text/markdown; charset=utf-8 }
//! ```
//!
//! Files are read with blocking calls, 64 KiB at a time: from a page cache that is faster than handing each read to a
//! thread. Nothing above `root` is reachable: see `resolve`.

mod conditions;
mod content_type;
mod date;
mod ranges;
mod resolve;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::OnceLock;

use serde::Deserialize;
use worker_sdk::{
    Body, Bytes, Frame, HeaderMap, HeaderValue, IntoResponse, Method, Request, Response, StatusCode, header, http, log,
};

use conditions::{Outcome, Validators};
use ranges::Ranges;
use resolve::Found;

/// Bytes read at once.
const CHUNK: u64 = 64 * 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    root: PathBuf,
    #[serde(default = "index")]
    index: String,
    cache_control: Option<String>,
    #[serde(default)]
    hidden: bool,
    #[serde(default)]
    types: BTreeMap<String, String>,
}

fn index() -> String {
    "index.html".to_owned()
}

static CONFIG: OnceLock<Config> = OnceLock::new();

async fn start() -> Result<(), String> {
    let mut config: Config = worker_sdk::config().map_err(|error| error.to_string())?;
    let root = config.root.display().to_string();
    // Natively links within the path of the root itself are the operator's; a component has no realpath(3).
    #[cfg(not(target_family = "wasm"))]
    {
        config.root = config.root.canonicalize().map_err(|error| format!("root: {root}: {error}"))?;
    }
    config.types = config.types.into_iter().map(|(key, value)| (key.to_ascii_lowercase(), value)).collect();
    match std::fs::metadata(&config.root) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(format!("root: {root} is not a directory")),
        Err(error) => return Err(format!("root: {root}: {error}")),
    }
    for value in config.types.values().chain(&config.cache_control) {
        HeaderValue::from_str(value).map_err(|_| format!("`{}` cannot be sent as a header", value.escape_debug()))?;
    }
    CONFIG.set(config).map_err(|_| "started twice".to_owned())
}

#[worker_sdk::http(start = start, reuse)]
async fn handle(request: Request) -> Response {
    let Some(config) = CONFIG.get() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n").into_response();
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let head = request.method() == Method::HEAD;
    match resolve::resolve(&config.root, request.uri().path(), config) {
        Ok(Found::File(path)) => match file(config, &path, request.headers(), head) {
            Ok(response) => response,
            Err(error) => failed(&error, request.uri().path()),
        },
        Ok(Found::Directory) => redirect(&request),
        Ok(Found::Nothing) => not_found(),
        Err(error) => failed(&error, request.uri().path()),
    }
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "not found\n").into_response()
}

fn failed(error: &io::Error, path: &str) -> Response {
    match error.kind() {
        io::ErrorKind::NotFound => not_found(),
        io::ErrorKind::PermissionDenied => (StatusCode::FORBIDDEN, "forbidden\n").into_response(),
        _ => {
            log::error!(path = path; "cannot serve a file: {error}");
            (StatusCode::INTERNAL_SERVER_ERROR, "internal error\n").into_response()
        }
    }
}

/// Relative links in a page need the slash at the end of its directory.
fn redirect(request: &Request) -> Response {
    let path = request.uri().path();
    // `//host/` would be another host: one slash only.
    let mut location = format!("/{}/", path.trim_start_matches('/'));
    if let Some(query) = request.uri().query() {
        location.push('?');
        location.push_str(query);
    }
    match HeaderValue::from_str(&location) {
        Ok(location) => {
            let mut response = StatusCode::PERMANENT_REDIRECT.into_response();
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
        Err(_) => not_found(),
    }
}

/// Answers with a file, or with a part of it.
fn file(config: &Config, path: &std::path::Path, request: &HeaderMap, head: bool) -> io::Result<Response> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let size = metadata.len();
    let validators = Validators::new(size, metadata.modified().ok());

    let mut headers = HeaderMap::new();
    validators.insert(&mut headers);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(value) = config.cache_control.as_ref().and_then(|value| HeaderValue::from_str(value).ok()) {
        headers.insert(header::CACHE_CONTROL, value);
    }
    match conditions::evaluate(request, &validators) {
        Outcome::Failed => return Ok((StatusCode::PRECONDITION_FAILED, headers, ()).into_response()),
        Outcome::NotModified => return Ok((StatusCode::NOT_MODIFIED, headers, ()).into_response()),
        Outcome::Go => {}
    }
    let content_type = content_type::of(path, &config.types);

    let ranges = match request.get(header::RANGE) {
        Some(range) if conditions::range_applies(request, &validators) => ranges::parse(range.as_bytes(), size),
        _ => Ranges::All,
    };
    match ranges {
        Ranges::All => {
            headers.insert(header::CONTENT_TYPE, content_type);
            Ok(send(
                StatusCode::OK,
                headers,
                size,
                head,
                vec![Part { before: String::new(), from: 0, to: size }],
                "",
                file,
            ))
        }
        Ranges::None => {
            headers.insert(header::CONTENT_RANGE, value(format!("bytes */{size}"))?);
            Ok((StatusCode::RANGE_NOT_SATISFIABLE, headers, ()).into_response())
        }
        Ranges::One(from, to) => {
            headers.insert(header::CONTENT_TYPE, content_type);
            headers.insert(header::CONTENT_RANGE, value(format!("bytes {from}-{}/{size}", to - 1))?);
            file.seek(SeekFrom::Start(from))?;
            let part = Part { before: String::new(), from, to };
            Ok(send(StatusCode::PARTIAL_CONTENT, headers, to - from, head, vec![part], "", file))
        }
        Ranges::Many(ranges) => {
            let boundary = validators.boundary();
            let content_type = content_type.to_str().unwrap_or_default();
            let parts: Vec<Part> = ranges
                .into_iter()
                .map(|(from, to)| Part {
                    before: format!(
                        "\r\n--{boundary}\r\ncontent-type: {content_type}\r\ncontent-range: bytes {from}-{}/{size}\r\n\r\n",
                        to - 1
                    ),
                    from,
                    to,
                })
                .collect();
            let after = format!("\r\n--{boundary}--\r\n");
            let length = parts.iter().map(|part| part.before.len() as u64 + part.to - part.from).sum::<u64>()
                + after.len() as u64;
            headers.insert(header::CONTENT_TYPE, value(format!("multipart/byteranges; boundary={boundary}"))?);
            Ok(send(StatusCode::PARTIAL_CONTENT, headers, length, head, parts, &after, file))
        }
    }
}

fn value(text: String) -> io::Result<HeaderValue> {
    HeaderValue::try_from(text).map_err(io::Error::other)
}

/// A piece of the file, and the text that stands before it.
struct Part {
    before: String,
    from: u64,
    to: u64,
}

fn send(
    status: StatusCode,
    headers: HeaderMap,
    length: u64,
    head: bool,
    parts: Vec<Part>,
    after: &str,
    file: File,
) -> Response {
    let mut response: http::Response<Body> = (status, headers, ()).into_response();
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if !head && length > 0 {
        let reader = Reader { file, parts: parts.into_iter(), current: None, after: Some(after.to_owned()) };
        *response.body_mut() = Body::unfold(reader, async |mut reader| {
            let chunk = reader.next()?;
            Ok::<_, io::Error>(chunk.map(|chunk| (Frame::data(chunk), reader)))
        });
    }
    response
}

/// Reads the parts one after the other.
struct Reader {
    file: File,
    parts: std::vec::IntoIter<Part>,
    /// Bytes that are left of the part that is being read.
    current: Option<u64>,
    after: Option<String>,
}

impl Reader {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            match self.current {
                Some(0) => self.current = None,
                Some(left) => {
                    let mut chunk = vec![0; usize::try_from(left.min(CHUNK)).unwrap_or(0)];
                    let read = self.file.read(&mut chunk)?;
                    if read == 0 {
                        // The length is promised already: the response must be seen to be incomplete.
                        return Err(io::Error::other("the file became shorter while it was sent"));
                    }
                    chunk.truncate(read);
                    self.current = Some(left - read as u64);
                    return Ok(Some(chunk.into()));
                }
                None => match self.parts.next() {
                    Some(part) => {
                        self.file.seek(SeekFrom::Start(part.from))?;
                        self.current = Some(part.to - part.from);
                        if !part.before.is_empty() {
                            return Ok(Some(part.before.into()));
                        }
                    }
                    None => return Ok(self.after.take().filter(|text| !text.is_empty()).map(Into::into)),
                },
            }
        }
    }
}
