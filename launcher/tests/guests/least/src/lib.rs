//! A WASI 0.2 handler that greets, without any library but the bindings: what a small component is. `bench` reloads it.

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Least;

wasip2::http::proxy::export!(Least);

impl Guest for Least {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("taken once");
        ResponseOutparam::set(outparam, Ok(response));
        let stream = body.write().expect("taken once");
        // A client that left is nobody's mistake.
        let _ = stream.blocking_write_and_flush(format!("You asked for {path}\n").as_bytes());
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}
