//! A native plugin behind the worker's HTTP server.

use std::future::Future;
use std::net::SocketAddr;

use http::{Request, Response};
use worker_sdk::abi;

use super::{NativeBody, NativeHttp};
use crate::sys::accept::PeerAddress;
use crate::worker::http::RequestBody;
use crate::worker::plugin::{Failure, HttpPlugin};

impl HttpPlugin for NativeHttp {
    type Body = NativeBody;

    // The contract hands out the target of the request line, and Host is a header like any other.
    const ABSOLUTE_URI: bool = false;

    fn handle(
        &self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<NativeBody>, Failure>> + Send + use<> {
        let peer = peer(&request.body().peer().address);
        let call = self.call(request, peer);
        async move { call.await.map_err(|error| Failure { status: 500, reason: error.to_string() }) }
    }
}

fn peer(address: &PeerAddress) -> abi::Peer {
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
