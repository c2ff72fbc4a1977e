//! HTTP requests that guests send: `wasi:http/outgoing-handler` (0.2) and `wasi:http/client` (0.3).
//!
//! Flow: check the authority against the allow list, resolve and filter, connect, TLS for https, then one HTTP/1.1
//! exchange on a connection of its own. Bodies stream both ways. Connections are not kept for further requests.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderName, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpHooks,
};

use crate::network::{Network, Refusal};

/// Each of connecting, the first byte and the gap between bytes, unless the guest says otherwise.
const PATIENCE: Duration = Duration::from_secs(600);

type Finished = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Exchange = Box<dyn Future<Output = Result<(Response<WasiBody>, Finished), Error>> + Send>;

/// The way out of one store.
#[derive(Clone)]
pub(crate) struct Outgoing {
    network: Arc<Network>,
    tls: Arc<OnceCell<TlsConnector>>,
}

impl Outgoing {
    pub(crate) fn new(network: Arc<Network>) -> Outgoing {
        Outgoing { network, tls: Arc::default() }
    }

    pub(crate) fn network(&self) -> &Arc<Network> {
        &self.network
    }
}

impl WasiHttpHooks for Outgoing {
    fn send_request(&mut self, request: Request<WasiBody>, options: Option<RequestOptions>, _: Finished) -> Exchange {
        let outgoing = self.clone();
        Box::new(async move { outgoing.exchange(request, options.unwrap_or_default()).await })
    }

    // The default makes a new filter, and with it a list of nine names, for every header of every message.
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        is_forbidden(name)
    }

    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        static FILTER: LazyLock<ForbiddenHeaderFilter> = LazyLock::new(|| Arc::new(is_forbidden));
        Arc::clone(&FILTER)
    }

    // Failures reach the guest as error codes; the defaults would log a warning for each.
    fn p2_error_from_hyper(
        &mut self,
        error: &hyper::Error,
    ) -> wasmtime_wasi_http::p2::bindings::http::types::ErrorCode {
        use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
        if error.is_incomplete_message() { ErrorCode::HttpResponseIncomplete } else { ErrorCode::HttpProtocolError }
    }

    fn p3_error_from_hyper(
        &mut self,
        error: &hyper::Error,
    ) -> wasmtime_wasi_http::p3::bindings::http::types::ErrorCode {
        use wasmtime_wasi_http::p3::bindings::http::types::ErrorCode;
        if error.is_incomplete_message() { ErrorCode::HttpResponseIncomplete } else { ErrorCode::HttpProtocolError }
    }
}

/// What guests may neither see nor set: it belongs to the connection.
fn is_forbidden(name: &HeaderName) -> bool {
    static NAMES: [HeaderName; 9] = DEFAULT_FORBIDDEN_HEADERS;
    NAMES.contains(name)
}

impl Outgoing {
    async fn exchange(
        self,
        mut request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<(Response<WasiBody>, Finished), Error> {
        let authority = request.uri().authority().ok_or(Error::HttpRequestUriInvalid)?;
        let secure = request.uri().scheme() == Some(&Scheme::HTTPS);
        let host = authority.host().to_owned();
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });

        let connect_limit = options.connect_timeout.unwrap_or(PATIENCE);
        let stream =
            timeout(connect_limit, self.connect(&host, port, secure)).await.map_err(|_| Error::ConnectionTimeout)??;

        // A request on a direct connection carries the path only (RFC 9112, 3.2.1).
        let path = request.uri().path_and_query().cloned();
        let mut parts = http::uri::Parts::default();
        parts.path_and_query = path.or_else(|| Some(http::uri::PathAndQuery::from_static("/")));
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Error::HttpRequestUriInvalid)?;

        let patience = Patience {
            first_byte: options.first_byte_timeout.unwrap_or(PATIENCE),
            between_bytes: options.between_bytes_timeout.unwrap_or(PATIENCE),
        };
        match stream {
            Connected::Plain(stream) => talk(stream, request, patience).await,
            Connected::Secure(stream) => talk(stream, request, patience).await,
        }
    }

    async fn connect(&self, host: &str, port: u16, secure: bool) -> Result<Connected, Error> {
        let addresses = self.network.resolve(host, port).await.map_err(|refusal| match refusal {
            Refusal::NotListed(_) => Error::HttpRequestDenied,
            Refusal::Private(_) => Error::DestinationIpProhibited,
            Refusal::Unresolved(_) => Error::DnsError { rcode: Some(refusal.to_string()), info_code: None },
        })?;
        let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    // Small requests would otherwise wait for acknowledgements (Nagle); failing to ask is harmless.
                    let _ = stream.set_nodelay(true);
                    if !secure {
                        return Ok(Connected::Plain(stream));
                    }
                    let bare = host.trim_start_matches('[').trim_end_matches(']');
                    let name = ServerName::try_from(bare.to_owned()).map_err(|_| Error::HttpRequestUriInvalid)?;
                    let tls = self.tls.get_or_try_init(connector).await?;
                    let stream = tls.connect(name, stream).await.map_err(tls_error)?;
                    return Ok(Connected::Secure(Box::new(stream)));
                }
                Err(error) => failure = error,
            }
        }
        Err(match failure.kind() {
            io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
            io::ErrorKind::TimedOut => Error::ConnectionTimeout,
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => Error::DestinationIpUnroutable,
            _ => Error::Connect(failure),
        })
    }
}

enum Connected {
    Plain(TcpStream),
    Secure(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

#[derive(Clone, Copy)]
struct Patience {
    first_byte: Duration,
    between_bytes: Duration,
}

/// The roots of the system (or of `SSL_CERT_FILE`), read at the first https request of a worker.
async fn connector() -> Result<TlsConnector, Error> {
    let config = tokio::task::spawn_blocking(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok::<_, rustls::Error>(config)
    })
    .await
    .map_err(|error| Error::InternalError(Some(error.to_string())))?
    .map_err(|error| Error::InternalError(Some(error.to_string())))?;
    Ok(TlsConnector::from(Arc::new(config)))
}

fn tls_error(error: io::Error) -> Error {
    let certificate = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .is_some_and(|inner| matches!(inner, rustls::Error::InvalidCertificate(_)));
    if certificate { Error::TlsCertificateError } else { Error::Tls(error) }
}

/// One exchange. The second future of the result drives the connection while bodies are transferred.
async fn talk<S>(
    stream: S,
    request: Request<WasiBody>,
    patience: Patience,
) -> Result<(Response<WasiBody>, Finished), Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(Error::Hyper)?;
    let mut connection = Box::pin(connection);
    let mut connected = true;
    let response = {
        let mut response = pin!(timeout(patience.first_byte, sender.send_request(request)));
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(result) = response.as_mut().poll(cx) {
                    return Poll::Ready(match result {
                        Ok(result) => result.map_err(Error::Hyper),
                        Err(_) => Err(Error::ConnectionReadTimeout),
                    });
                }
                if !connected {
                    return Poll::Pending;
                }
                ready!(connection.as_mut().poll(cx)).map_err(Error::Hyper)?;
                // The connection is done; the response is then there or never comes.
                connected = false;
            }
        })
        .await?
    };
    let response = response.map(|body| Patient::new(body, patience.between_bytes).boxed_unsync());
    let finished: Finished = Box::new(async move {
        if connected {
            connection.await.map_err(Error::Hyper)?;
        }
        Ok(())
    });
    Ok((response, finished))
}

/// A response's body that fails when it stalls.
struct Patient {
    body: Incoming,
    limit: Duration,
    stalled: Pin<Box<Sleep>>,
}

impl Patient {
    fn new(body: Incoming, limit: Duration) -> Patient {
        Patient { body, limit, stalled: Box::pin(sleep_until(Instant::now() + limit)) }
    }
}

impl Body for Patient {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            let deadline = Instant::now() + self.limit;
            self.stalled.as_mut().reset(deadline);
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::Hyper)));
        }
        ready!(self.stalled.as_mut().poll(cx));
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
