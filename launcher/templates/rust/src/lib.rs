//! {{name}}: one source, a native library or a WASM component.

use worker_sdk::{Html, IntoResponse, Json, Request, Response, StatusCode};

#[worker_sdk::http]
async fn handle(request: Request) -> Response {
    match request.uri().path() {
        "/" => Html(page("Hello from Rust!")).into_response(),
        "/api/hello" => Json("Hello from Rust!").into_response(),
        _ => (StatusCode::NOT_FOUND, "no such page\n").into_response(),
    }
}

fn page(greeting: &str) -> String {
    format!("<!doctype html>\n<title>{{name}}</title>\n<h1>{greeting}</h1>\n")
}

#[cfg(test)]
mod tests {
    use worker_sdk::testing::{answer, get};

    use super::handle;

    #[test]
    fn the_page_greets() {
        let answer = answer(handle(get("/")));
        assert_eq!(answer.status(), 200);
        assert!(answer.body().starts_with(b"<!doctype html>"));
    }

    #[test]
    fn other_pages_are_not_there() {
        assert_eq!(answer(handle(get("/nowhere"))).status(), 404);
    }
}
