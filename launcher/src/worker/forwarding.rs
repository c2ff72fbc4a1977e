//! The headers by which a plugin learns who the client is: `Forwarded` (RFC 7239) and `X-Forwarded-For`.
//!
//! A component has no other way to know. What a client writes there itself is believed only where the
//! configuration says that whoever connects is a proxy that is trusted.

use std::net::{IpAddr, SocketAddr};

use ::http::header::FORWARDED;
use ::http::{HeaderMap, HeaderName, HeaderValue, Request, Response};

use super::http::{Peer, RequestBody};
use super::plugin::{Failure, HttpPlugin};
use crate::channel::Forwarded;
use crate::sys::accept::PeerAddress;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What clients and proxies write about who is behind them. A client's own is dropped, or a plugin that reads another
/// one than ours would believe it.
const CLAIMS: [HeaderName; 5] = [
    FORWARDED,
    X_FORWARDED_FOR,
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];

/// A plugin whose requests name the client.
pub(super) struct Forwarding<P> {
    plugin: P,
    forwarded: Forwarded,
}

impl<P: HttpPlugin> Forwarding<P> {
    pub(super) fn new(plugin: P, forwarded: Forwarded) -> Forwarding<P> {
        Forwarding { plugin, forwarded }
    }
}

impl<P: HttpPlugin> HttpPlugin for Forwarding<P> {
    type Body = P::Body;

    const ABSOLUTE_URI: bool = P::ABSOLUTE_URI;

    #[inline]
    fn prepare(&self, headers: &mut HeaderMap, peer: &Peer) {
        if self.forwarded != Forwarded::Off {
            name_peer(headers, peer, self.forwarded);
        }
        self.plugin.prepare(headers, peer);
    }

    // Inlined, or the request is copied once more on its way.
    #[inline(always)]
    fn handle(
        &self,
        request: Request<RequestBody>,
        peer: &Peer,
    ) -> impl Future<Output = Result<Response<Self::Body>, Failure>> + Send + use<P> {
        self.plugin.handle(request, peer)
    }
}

#[cold]
fn name_peer(headers: &mut HeaderMap, peer: &Peer, how: Forwarded) {
    let client = match peer.address {
        PeerAddress::Inet(address) => Some(address),
        PeerAddress::Unix => None,
    };
    name_client(headers, client, how);
}

fn name_client(headers: &mut HeaderMap, client: Option<SocketAddr>, how: Forwarded) {
    if how == Forwarded::Set {
        for claim in &CLAIMS {
            headers.remove(claim);
        }
    }
    let (node, address) = match client.map(|client| (client.ip().to_canonical(), client.port())) {
        Some((ip @ IpAddr::V4(_), port)) => (format!("\"{ip}:{port}\""), ip.to_string()),
        Some((ip @ IpAddr::V6(_), port)) => (format!("\"[{ip}]:{port}\""), ip.to_string()),
        // RFC 7239 section 6.2.
        None => ("unknown".to_owned(), "unknown".to_owned()),
    };
    append(headers, FORWARDED, &format!("for={node};proto=http"));
    append(headers, X_FORWARDED_FOR, &address);
}

/// One line in all: some readers see only the first, some only the last.
fn append(headers: &mut HeaderMap, name: HeaderName, element: &str) {
    let mut list: Vec<u8> =
        headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b", "[..]);
    if !list.is_empty() {
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(element.as_bytes());
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(list)) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(how: Forwarded, client: Option<&str>, sent: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, HeaderValue::from_static(value));
        }
        name_client(&mut headers, client.map(|client| client.parse().expect("an address")), how);
        headers
    }

    #[test]
    fn what_a_client_claims_is_dropped() {
        let sent = [("forwarded", "for=1.2.3.4"), ("x-forwarded-for", "1.2.3.4"), ("x-real-ip", "1.2.3.4")];
        let headers = named(Forwarded::Set, Some("192.0.2.7:99"), &sent);
        assert_eq!(headers["forwarded"], "for=\"192.0.2.7:99\";proto=http");
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
        assert!(!headers.contains_key("x-real-ip"));
    }

    #[test]
    fn what_a_trusted_proxy_says_is_kept_in_one_line() {
        let sent = [("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "5.6.7.8"), ("x-forwarded-proto", "https")];
        let headers = named(Forwarded::Append, Some("[::ffff:192.0.2.7]:99"), &sent);
        assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!(headers["x-forwarded-for"], "1.2.3.4, 5.6.7.8, 192.0.2.7");
        assert_eq!(headers["x-forwarded-proto"], "https");
    }

    #[test]
    fn addresses_of_every_family_have_their_form() {
        let headers = named(Forwarded::Set, Some("[2001:db8::1]:80"), &[]);
        assert_eq!(headers["forwarded"], "for=\"[2001:db8::1]:80\";proto=http");
        assert_eq!(named(Forwarded::Set, None, &[])["forwarded"], "for=unknown;proto=http");
    }
}
