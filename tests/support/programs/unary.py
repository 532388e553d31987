"""gRPC's unary calls over the library `h2`, for containers that have no other: one call on a connection.

A message is five bytes, of which four are its length, and its content (gRPC over HTTP/2, Length-Prefixed-Message); the
status is in the trailers.
"""

import socket
import socketserver
from collections.abc import Callable

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, RequestReceived, StreamEnded, StreamReset, TrailersReceived

Answer = Callable[[str, bytes, str], bytes]
"""(path, message, who the mesh says that calls) → message. An OSError is the status 14, unavailable."""


def _framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4) + message


def call(host: str, port: int, path: str, message: bytes, timeout_s: float) -> bytes:
    """The answer; OSError where it is none."""
    with socket.create_connection((host, port), timeout_s) as connected:
        h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        h2.initiate_connection()
        headers = [(":method", "POST"), (":scheme", "http"), (":authority", f"{host}:{port}"), (":path", path)]
        h2.send_headers(1, [*headers, ("te", "trailers"), ("content-type", "application/grpc")])
        h2.send_data(1, _framed(message), end_stream=True)
        connected.sendall(h2.data_to_send())
        body, status = b"", ""
        while content := connected.recv(65536):
            for event in h2.receive_data(content):
                if isinstance(event, DataReceived):
                    body += event.data or b""
                    h2.acknowledge_received_data(event.flow_controlled_length or 0, 1)
                elif isinstance(event, TrailersReceived):
                    status = {str(name): str(value) for name, value in event.headers or ()}.get("grpc-status", "")
                elif isinstance(event, StreamReset | ConnectionTerminated):
                    raise OSError(f"{path}: {event}")
                elif isinstance(event, StreamEnded):
                    if status != "0":
                        raise OSError(f"{path}: grpc-status {status or 'is missing'}")
                    return body[5:]
            connected.sendall(h2.data_to_send())
        raise OSError(f"{path}: the connection was closed")


def serve(port: int, caller: str, answer: Answer) -> None:
    """For ever. `caller` is the header that says who calls. Calls of one connection are answered one by one."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
            h2.initiate_connection()
            self.request.sendall(h2.data_to_send())
            asked: dict[int, tuple[dict[str, str], bytes]] = {}
            while content := self.request.recv(65536):
                for event in h2.receive_data(content):
                    if isinstance(event, RequestReceived):
                        headers = {str(name): str(value) for name, value in event.headers or ()}
                        asked[event.stream_id or 0] = (headers, b"")
                    elif isinstance(event, DataReceived):
                        number = event.stream_id or 0
                        headers, body = asked[number]
                        asked[number] = (headers, body + (event.data or b""))
                        h2.acknowledge_received_data(event.flow_controlled_length or 0, number)
                    elif isinstance(event, StreamEnded):
                        number = event.stream_id or 0
                        self._answered(h2, number, *asked.pop(number))
                    elif isinstance(event, StreamReset):
                        asked.pop(event.stream_id or 0, None)
                self.request.sendall(h2.data_to_send())

        def _answered(self, h2: H2Connection, number: int, headers: dict[str, str], body: bytes) -> None:
            begun = [(":status", "200"), ("content-type", "application/grpc")]
            try:
                said = answer(headers[":path"], body[5:], headers.get(caller, ""))
            except OSError as error:
                why = repr(error).replace("%", "%25").replace("\n", " ")
                h2.send_headers(number, [*begun, ("grpc-status", "14"), ("grpc-message", why)], end_stream=True)
                return
            h2.send_headers(number, begun)
            h2.send_data(number, _framed(said))
            h2.send_headers(number, [("grpc-status", "0")], end_stream=True)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = daemon_threads = True
        address_family = socket.AF_INET6  # with IPv4

    Server(("::", port), Handler).serve_forever()
