//! A native plugin behind the worker's HTTP server.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use worker_sdk::abi;

use super::{Call, NativeBody, NativeHttp};
use crate::sys::accept::PeerAddress;
use crate::worker::http::{Peer, RequestBody};
use crate::worker::plugin::{Failure, HttpPlugin};

impl HttpPlugin for NativeHttp {
    type Body = NativeBody;

    // The contract hands out the target of the request line, and Host is a header like any other.
    const ABSOLUTE_URI: bool = false;

    #[inline(always)]
    fn handle(
        &self,
        request: Request<RequestBody>,
        peer: &Peer,
    ) -> impl Future<Output = Result<Response<NativeBody>, Failure>> + Send + use<> {
        Answer(self.call(request, address(&peer.address)))
    }
}

/// A call whose errors are for the log. By hand: an async block would hold, and move, the request twice.
struct Answer(Call<RequestBody>);

impl Future for Answer {
    type Output = Result<Response<NativeBody>, Failure>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|answer| answer.map_err(|error| Failure { status: 500, reason: error.to_string() }))
    }
}

fn address(address: &PeerAddress) -> abi::Peer {
    match address {
        PeerAddress::Unix => abi::Peer { family: abi::PEER_UNIX, ..abi::Peer::UNKNOWN },
        PeerAddress::Inet(SocketAddr::V4(inet)) => {
            let mut address = [0; 16];
            address[..4].copy_from_slice(&inet.ip().octets());
            abi::Peer { family: abi::PEER_IPV4, port: inet.port(), scope: 0, address }
        }
        PeerAddress::Inet(SocketAddr::V6(inet)) => {
            abi::Peer { family: abi::PEER_IPV6, port: inet.port(), scope: inet.scope_id(), address: inet.ip().octets() }
        }
    }
}
