"""A program that owns its socket: answers each line of a connection, one connection after the other."""

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import environment, instance_network, tcp_create_socket
from wit_world.imports.network import IpAddressFamily, IpSocketAddress_Ipv4, Ipv4SocketAddress
from wit_world.imports.streams import StreamError_Closed


class Run(exports.Run):
    def run(self) -> None:
        host, port = dict(environment.get_environment())["LAUNCHER_LISTEN"].rsplit(":", 1)
        address = IpSocketAddress_Ipv4(Ipv4SocketAddress(int(port), tuple(int(part) for part in host.split("."))))
        listener = tcp_create_socket.create_tcp_socket(IpAddressFamily.IPV4)
        listener.start_bind(instance_network.instance_network(), address)
        listener.finish_bind()
        listener.start_listen()
        listener.finish_listen()
        ready = listener.subscribe()
        while True:
            ready.block()
            connection, reader, writer = listener.accept()
            with connection, reader, writer:
                answer(reader, writer)


def answer(reader, writer) -> None:
    pending = b""
    while True:
        try:
            pending += reader.blocking_read(4096)
        except Err as error:
            if isinstance(error.value, StreamError_Closed):
                return
            raise
        *lines, pending = pending.split(b"\n")
        for line in lines:
            writer.blocking_write_and_flush(b"Hello from Python: " + line + b"\n")
