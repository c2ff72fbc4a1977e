//! A WASI 0.3 HTTP component: asynchronous handler, streams and futures.
//!
//! `/echo` streams the request's body back, `/sleep` suspends for 200 ms, everything else answers a greeting.

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

wasip3::http::service::export!(AsyncHello);

struct AsyncHello;

impl wasip3::exports::http::handler::Guest for AsyncHello {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        match request.get_path_with_query().unwrap_or_default().as_str() {
            "/echo" => echo(request),
            "/sleep" => {
                wasip3::clocks::monotonic_clock::wait_for(200_000_000).await;
                greet("slept\n")
            }
            _ => greet("Hello from WASI 0.3!\n"),
        }
    }
}

fn greet(text: &'static str) -> Result<Response, ErrorCode> {
    let headers = Fields::new();
    for (name, value) in [("content-type", "text/plain".to_owned()), ("content-length", text.len().to_string())] {
        headers.append(name, value.as_bytes()).map_err(|error| ErrorCode::InternalError(Some(format!("{error:?}"))))?;
    }
    let (mut body, body_read) = wit_stream::new();
    let (trailers, trailers_read) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(headers, Some(body_read), trailers_read);
    wit_bindgen::spawn_local(async move {
        // What is left when the client is gone is nobody's loss.
        body.write_all(text.as_bytes().to_vec()).await;
        drop(body);
        drop(trailers);
    });
    Ok(response)
}

fn echo(request: Request) -> Result<Response, ErrorCode> {
    let (received, received_read) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, received_read);
    drop(received);
    let (response, _sent) = Response::new(Fields::new(), Some(body), trailers);
    Ok(response)
}
