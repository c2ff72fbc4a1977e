//! What the engine's macro makes of `wasm-host/wit`: the socket interfaces of WASI 0.2 and 0.3 with resources of ours.

/// `wasi:sockets@0.2`; the types that its interfaces share stay wasmtime-wasi's, whose look-up of names uses them too.
pub(crate) mod p2 {
    wasmtime::component::bindgen!({
        path: "wit/p2",
        world: "launcher:sockets/sockets",
        imports: {
            "wasi:sockets/udp.[method]udp-socket.stream": async | trappable,
            "wasi:sockets/udp.[method]outgoing-datagram-stream.send": async | trappable,
            default: trappable,
        },
        trappable_error_type: {
            "wasi:sockets/network.error-code" => wasmtime_wasi::p2::SocketError,
        },
        with: {
            "wasi:io": wasmtime_wasi::p2::bindings::io,
            "wasi:clocks": wasmtime_wasi::p2::bindings::clocks,
            "wasi:sockets/network": wasmtime_wasi::p2::bindings::sockets::network,
            "wasi:sockets/tcp.tcp-socket": crate::sockets::p2_tcp::TcpSocket02,
            "wasi:sockets/udp.udp-socket": crate::sockets::p2_udp::UdpSocket02,
            "wasi:sockets/udp.incoming-datagram-stream": crate::sockets::p2_udp::Incoming,
            "wasi:sockets/udp.outgoing-datagram-stream": crate::sockets::p2_udp::Outgoing,
        },
    });

    pub(crate) use self::wasi::sockets::*;
}

/// `wasi:sockets/types@0.3`.
pub(crate) mod p3 {
    wasmtime::component::bindgen!({
        path: "wit/p3",
        world: "launcher:sockets/sockets",
        imports: {
            "wasi:sockets/types.[method]tcp-socket.listen": store | trappable,
            "wasi:sockets/types.[method]tcp-socket.send": store | trappable,
            "wasi:sockets/types.[method]tcp-socket.receive": store | trappable,
            "wasi:sockets/types.[method]udp-socket.connect": async | trappable,
            default: trappable,
        },
        trappable_error_type: {
            "wasi:sockets/types.error-code" => crate::sockets::p3::SocketError,
        },
        with: {
            "wasi:clocks": wasmtime_wasi::p3::bindings::clocks,
            "wasi:sockets/types.tcp-socket": crate::sockets::tcp::TcpSocket,
            "wasi:sockets/types.udp-socket": crate::sockets::udp::UdpSocket,
        },
    });

    pub(crate) use self::wasi::sockets::types;
}
