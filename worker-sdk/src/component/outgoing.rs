//! A response of `http`'s becomes one for `wasi:http`, and its body is written as the client takes it.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::Body as _;
use wasip2::http::types::{ErrorCode, Fields, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::io::streams::{OutputStream, StreamError};

use super::executor::Wait;
use crate::Response;

/// Headers that belong to the connection (RFC 9110 section 7.6.1): the host refuses them, natively they are left out.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(name, "connection" | "transfer-encoding" | "upgrade" | "keep-alive" | "proxy-connection" | "host")
}

fn fields(map: &HeaderMap) -> Result<Fields, ErrorCode> {
    let list: Vec<(String, Vec<u8>)> = map
        .iter()
        .filter(|(name, _)| !is_hop_by_hop(name.as_str()))
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    Fields::from_list(&list).map_err(|error| ErrorCode::InternalError(Some(format!("a header is refused: {error:?}"))))
}

/// Sends a response: its head at once, then its body.
pub(super) async fn send(response: Response, out: ResponseOutparam) {
    let (mut parts, mut body) = response.into_parts();
    // Natively the worker's HTTP does this; with it a body of known length is not sent in chunks.
    let bodiless = parts.status == StatusCode::NO_CONTENT || parts.status == StatusCode::NOT_MODIFIED;
    if let (false, Some(len)) = (bodiless, body.size_hint().exact()) {
        parts.headers.entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(len));
    }
    let head = fields(&parts.headers).and_then(|fields| {
        let head = OutgoingResponse::new(fields);
        // Otherwise it has it already, by the interface.
        if parts.status != StatusCode::OK {
            head.set_status_code(parts.status.as_u16())
                .map_err(|()| ErrorCode::InternalError(Some(format!("the status {} is refused", parts.status))))?;
        }
        Ok(head)
    });
    let (head, sink) = match head {
        Ok(head) => match head.body() {
            Ok(sink) => (head, sink),
            Err(()) => return,
        },
        Err(error) => {
            crate::log::error!("no response: {error:?}");
            ResponseOutparam::set(out, Err(error));
            return;
        }
    };
    ResponseOutparam::set(out, Ok(head));

    let (mut trailers, mut last) = (None, Written::Flushed);
    if let Ok(stream) = sink.write() {
        while let Some(frame) = body.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => {
                    crate::log::error!("a response's body failed: {error}");
                    // Without `finish` the host cuts the response off, so that the client sees that it is incomplete.
                    return;
                }
            };
            match frame.into_data() {
                Ok(data) => {
                    // An error is the client's leaving; dropping `body` cancels what produces it.
                    let Ok(written) = write(&stream, data).await else { return };
                    last = written;
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        if last == Written::Flushing {
            let _ = writable(&stream).await;
        }
    }
    let trailers = match trailers.as_ref().map(fields).transpose() {
        Ok(trailers) => trailers,
        Err(error) => {
            crate::log::error!("no trailers: {error:?}");
            None
        }
    };
    // An error here is a body that differs from its Content-Length (also the missing one of an answer to HEAD).
    let _ = OutgoingBody::finish(sink, trailers);
}

/// Waits until the stream takes bytes; how many.
async fn writable(stream: &OutputStream) -> Result<usize, StreamError> {
    loop {
        match stream.check_write()? {
            0 => Wait::new(stream.subscribe()).await,
            room => return Ok(usize::try_from(room).unwrap_or(usize::MAX)),
        }
    }
}

/// Bytes that `blocking-write-and-flush` takes at most, by the interface (wasi:io/streams@0.2).
const AT_ONCE: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    /// The host has passed it on.
    Flushed,
    /// The host is about to: it may be written again when it has.
    Flushing,
}

/// Writes a frame.
async fn write(stream: &OutputStream, mut data: Bytes) -> Result<Written, StreamError> {
    if data.len() <= AT_ONCE {
        if !data.is_empty() {
            // One call of the host instead of four. Nothing else in this instance waits for its turn meanwhile.
            stream.blocking_write_and_flush(&data)?;
        }
        return Ok(Written::Flushed);
    }
    while !data.is_empty() {
        let room = writable(stream).await?;
        let part = data.split_to(room.min(data.len()));
        stream.write(&part)?;
    }
    stream.flush()?;
    Ok(Written::Flushing)
}
