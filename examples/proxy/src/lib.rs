//! A reverse proxy: each request goes on to an upstream server, bodies stream both ways, connections are pooled.
//!
//! hyper's client runs inside the plugin, on the plugin's own tokio; the worker's tokio is another copy.

use std::sync::OnceLock;
use std::time::Duration;

use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Deserialize;
use worker_sdk::http::uri::{Authority, Scheme};
use worker_sdk::{Body, HeaderValue, IntoResponse, Request, RequestExt, Response, StatusCode, Uri, header, log};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// `host:port`
    upstream: String,
    /// Milliseconds until the upstream's response begins.
    #[serde(default = "patience")]
    timeout: u64,
}

fn patience() -> u64 {
    5000
}

struct Proxy {
    client: Client<HttpConnector, Body>,
    upstream: Authority,
    timeout: Duration,
}

static PROXY: OnceLock<Proxy> = OnceLock::new();

async fn start() -> Result<(), String> {
    let config: Config = worker_sdk::config().map_err(|error| error.to_string())?;
    let upstream = config.upstream.parse().map_err(|error| format!("upstream: {}: {error}", config.upstream))?;
    let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build_http();
    let timeout = Duration::from_millis(config.timeout);
    PROXY.set(Proxy { client, upstream, timeout }).map_err(|_| "started twice".to_owned())
}

#[worker_sdk::http(start = start)]
async fn handle(request: Request) -> Response {
    let Some(proxy) = PROXY.get() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let upstream = proxy.client.request(proxy.forward(request));
    match tokio::time::timeout(proxy.timeout, upstream).await {
        Ok(Ok(response)) => response.map(Body::wrap),
        Ok(Err(error)) => {
            log::warn!(upstream = proxy.upstream; "no answer: {error}");
            (StatusCode::BAD_GATEWAY, "the upstream does not answer\n").into_response()
        }
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, "the upstream is too slow\n").into_response(),
    }
}

impl Proxy {
    /// The same request for another server.
    fn forward(&self, request: Request) -> Request {
        let peer = request.peer();
        let (mut parts, body) = request.into_parts();
        let mut uri = parts.uri.into_parts();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.upstream.clone());
        parts.uri = Uri::from_parts(uri).unwrap_or_default();
        // Of our connection with the client, not of the request (RFC 9110 section 7.6.1).
        for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TE, header::HOST] {
            parts.headers.remove(name);
        }
        if let Some(Ok(peer)) = peer.map(|peer| HeaderValue::try_from(format!("for=\"{peer}\""))) {
            parts.headers.append(header::FORWARDED, peer);
        }
        parts.extensions = Default::default();
        Request::from_parts(parts, body)
    }
}
