//! What a handler may return.

use std::borrow::Cow;
use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::Body;

/// A response: `http`'s type with this crate's [`Body`].
///
/// ```
/// use worker_sdk::{Body, Request, Response, http};
///
/// async fn handle(_: Request) -> Result<Response, http::Error> {
///     http::Response::builder()
///         .status(201)
///         .header("location", "/things/7")
///         .body(Body::from("made\n"))
/// }
/// # // compiles as a handler because Response is IntoResponse
/// # fn check<T: worker_sdk::IntoResponse>(_: T) {}
/// # check(Response::new(Body::empty()));
/// ```
pub type Response = http::Response<Body>;

/// Turns what a handler returns into a [`Response`].
///
/// Text becomes `text/plain; charset=utf-8`, bytes `application/octet-stream`; a status, a header map or both go
/// in front in a tuple; the error of a `Result` is a response too.
///
/// ```
/// use worker_sdk::{Bytes, IntoResponse, StatusCode};
///
/// assert_eq!("hello".into_response().headers()["content-type"], "text/plain; charset=utf-8");
/// assert_eq!(Bytes::from_static(b"\0").into_response().headers()["content-type"], "application/octet-stream");
/// assert_eq!((StatusCode::NOT_FOUND, "no such page").into_response().status(), 404);
/// let result: Result<&str, StatusCode> = Err(StatusCode::FORBIDDEN);
/// assert_eq!(result.into_response().status(), 403);
/// ```
pub trait IntoResponse {
    /// The response.
    fn into_response(self) -> Response;
}

/// A page: text as `text/html; charset=utf-8`.
///
/// ```
/// use worker_sdk::{Html, IntoResponse};
///
/// let response = Html("<!doctype html><title>Hello</title>").into_response();
/// assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Html<T>(
    /// The text, whose special characters are written as HTML wants them.
    pub T,
);

impl<T: Into<Body>> IntoResponse for Html<T> {
    fn into_response(self) -> Response {
        typed(self.0.into(), const { HeaderValue::from_static("text/html; charset=utf-8") })
    }
}

fn typed(body: Body, content_type: HeaderValue) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

fn text(body: Body) -> Response {
    typed(body, const { HeaderValue::from_static("text/plain; charset=utf-8") })
}

fn binary(body: Body) -> Response {
    typed(body, const { HeaderValue::from_static("application/octet-stream") })
}

impl IntoResponse for () {
    fn into_response(self) -> Response {
        Response::new(Body::empty())
    }
}

impl IntoResponse for Infallible {
    fn into_response(self) -> Response {
        match self {}
    }
}

impl IntoResponse for &'static str {
    fn into_response(self) -> Response {
        text(Body::from(self))
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Response {
        text(Body::from(self))
    }
}

impl IntoResponse for Cow<'static, str> {
    fn into_response(self) -> Response {
        match self {
            Cow::Borrowed(text) => text.into_response(),
            Cow::Owned(text) => text.into_response(),
        }
    }
}

impl IntoResponse for Bytes {
    fn into_response(self) -> Response {
        binary(Body::from(self))
    }
}

impl IntoResponse for Vec<u8> {
    fn into_response(self) -> Response {
        binary(Body::from(self))
    }
}

impl IntoResponse for &'static [u8] {
    fn into_response(self) -> Response {
        binary(Body::from(self))
    }
}

impl IntoResponse for Body {
    fn into_response(self) -> Response {
        Response::new(self)
    }
}

impl IntoResponse for StatusCode {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self;
        response
    }
}

impl<B: Into<Body>> IntoResponse for http::Response<B> {
    fn into_response(self) -> Response {
        self.map(Into::into)
    }
}

impl<T: IntoResponse> IntoResponse for (StatusCode, T) {
    fn into_response(self) -> Response {
        let mut response = self.1.into_response();
        *response.status_mut() = self.0;
        response
    }
}

impl<T: IntoResponse> IntoResponse for (HeaderMap, T) {
    fn into_response(self) -> Response {
        let mut response = self.1.into_response();
        replace(response.headers_mut(), self.0);
        response
    }
}

impl<T: IntoResponse> IntoResponse for (StatusCode, HeaderMap, T) {
    fn into_response(self) -> Response {
        (self.0, (self.1, self.2)).into_response()
    }
}

/// Fields of `new` replace those of the same name and keep their own repetitions.
fn replace(map: &mut HeaderMap, new: HeaderMap) {
    let mut last = None;
    for (name, value) in new {
        match name {
            Some(name) => {
                map.insert(name.clone(), value);
                last = Some(name);
            }
            None => {
                if let Some(name) = &last {
                    map.append(name.clone(), value);
                }
            }
        }
    }
}

impl<T: IntoResponse, E: IntoResponse> IntoResponse for Result<T, E> {
    fn into_response(self) -> Response {
        match self {
            Ok(value) => value.into_response(),
            Err(error) => error.into_response(),
        }
    }
}

/// An error of `http`'s builders: the handler made an impossible response, which is its bug: 500 and a line in the log.
impl IntoResponse for http::Error {
    fn into_response(self) -> Response {
        failed(&self)
    }
}

/// An error while reading the request's body: 400.
impl IntoResponse for crate::Error {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, format!("{self}\n")).into_response()
    }
}

fn failed(error: &dyn std::fmt::Display) -> Response {
    crate::log::error!("no response: {error}");
    (StatusCode::INTERNAL_SERVER_ERROR, "internal error\n").into_response()
}

/// JSON in both directions: as a response, or read from a request.
///
/// ```
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Order { item: String }
/// use worker_sdk::{IntoResponse, Json, Request, StatusCode};
///
/// async fn handle(request: Request) -> Result<Json<Order>, (StatusCode, String)> {
///     let Json(order) = Json::<Order>::read(request, 64 * 1024).await?;
///     Ok(Json(order))
/// }
/// assert_eq!(Json(Order { item: "tea".into() }).into_response().headers()["content-type"], "application/json");
/// ```
#[cfg(feature = "json")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<T>(
    /// The value.
    pub T,
);

#[cfg(feature = "json")]
impl<T: serde_core::de::DeserializeOwned> Json<T> {
    /// Reads a request's body of at most `limit` bytes.
    ///
    /// # Errors
    /// A response for the client: 413 above the limit, 400 when the body broke off or does not fit the type.
    pub async fn read(request: crate::Request, limit: usize) -> Result<Json<T>, (StatusCode, String)> {
        let body = request.into_body().bytes(limit).await.map_err(|error| {
            let status = match error {
                crate::Error::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
                _ => StatusCode::BAD_REQUEST,
            };
            (status, format!("{error}\n"))
        })?;
        serde_json::from_slice(&body)
            .map(Json)
            .map_err(|error| (StatusCode::BAD_REQUEST, format!("bad JSON: {error}\n")))
    }
}

#[cfg(feature = "json")]
impl<T: serde_core::Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(text) => typed(Body::from(text), const { HeaderValue::from_static("application/json") }),
            Err(error) => failed(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_maps_replace_and_keep_repetitions() {
        let mut map = HeaderMap::new();
        map.append("set-cookie", HeaderValue::from_static("a=1"));
        map.append("set-cookie", HeaderValue::from_static("b=2"));
        map.insert("content-type", HeaderValue::from_static("text/html"));
        let response = (StatusCode::ACCEPTED, map, "<p>").into_response();
        assert_eq!(response.status(), 202);
        assert_eq!(response.headers()["content-type"], "text/html");
        assert_eq!(response.headers().get_all("content-type").iter().count(), 1);
        assert_eq!(response.headers().get_all("set-cookie").iter().count(), 2);
    }
}
