"""tier.py NAME [--http PORT] [--grpc PORT] [--store PORT] [BACKEND …]: one part of an application of several.

    --http    GET / asks every BACKEND and answers with JSON: `name`, `caller` (who the mesh says that calls), `behind`
              (what each backend answered); GET /healthz is well
    --grpc    /tier.Tier/Ask answers with the same, for `grpc://HOST:PORT`
    --store   a line is said first, NAME; then each line heard is said again, for `store://HOST:PORT`

tier.py --ask URL says what a backend answers. gRPC is by grpcio or, where that is not there, by `unary.py` beside this.

The backends may be in $BACKENDS too. One that cannot be asked makes the answer a 502 that says why.
"""

import argparse
import http.client
import http.server
import json
import os
import signal
import socket
import socketserver
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

PATIENCE_S = 30.0
CALLER = "l5d-client-id"
EVERYWHERE = "::"  # of IPv4 too

Answer = dict[str, Any]


class Tier:
    def __init__(self, name: str, backends: list[str]) -> None:
        self.name, self.backends = name, backends

    def answer(self, caller: str) -> Answer:
        return {"name": self.name, "caller": caller, "behind": [ask(each) for each in self.backends]}


def ask(url: str) -> Any:
    where = urlsplit(url)
    assert where.hostname is not None
    match where.scheme:
        case "http":
            connection = http.client.HTTPConnection(where.hostname, where.port or 80, timeout=PATIENCE_S)
            connection.request("GET", "/")
            got = connection.getresponse()
            body = got.read()
            if got.status != 200:
                raise OSError(f"{url}: {got.status} {body!r}")
            return json.loads(body)
        case "grpc":
            try:
                import grpc
            except ImportError:
                import unary  # type: ignore[import-not-found]

                return json.loads(unary.call(where.hostname, where.port or 80, "/tier.Tier/Ask", b"", PATIENCE_S))
            with grpc.insecure_channel(where.netloc) as channel:
                return json.loads(channel.unary_unary("/tier.Tier/Ask")(b"", timeout=PATIENCE_S))
        case "store":
            with socket.create_connection((where.hostname, where.port), PATIENCE_S) as connected:
                lines = connected.makefile("rw")
                first = lines.readline()
                lines.write("kept\n")
                lines.flush()
                return {"name": first.strip(), "caller": "", "kept": lines.readline().strip()}
    raise OSError(f"{url} is nothing to ask")


def serve_http(tier: Tier, port: int) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, said = 200, {}
            if self.path != "/healthz":
                try:
                    said = tier.answer(self.headers.get(CALLER, ""))
                except Exception as error:
                    status, said = 502, {"error": repr(error)}
            body = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6

    Server((EVERYWHERE, port), Handler).serve_forever()


def serve_grpc(tier: Tier, port: int) -> None:
    try:
        import grpc
    except ImportError:
        import unary

        unary.serve(port, CALLER, lambda _path, _message, caller: json.dumps(tier.answer(caller)).encode())

    def answered(_: bytes, context: Any) -> bytes:
        return json.dumps(tier.answer(dict(context.invocation_metadata()).get(CALLER, ""))).encode()

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, called: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(answered) if called.method == "/tier.Tier/Ask" else None

    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((Handler(),))
    server.add_insecure_port(f"[::]:{port}")
    server.start()
    server.wait_for_termination()


def serve_store(tier: Tier, port: int) -> None:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(f"{tier.name}\n".encode())
            for line in self.rfile:
                self.wfile.write(line)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = daemon_threads = True
        address_family = socket.AF_INET6

    Server((EVERYWHERE, port), Handler).serve_forever()


def main() -> None:
    if sys.argv[1:2] == ["--ask"]:
        print(json.dumps(ask(sys.argv[2])))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    for kind in ("http", "grpc", "store"):
        parser.add_argument(f"--{kind}", type=int)
    parser.add_argument("backends", nargs="*", default=os.environ.get("BACKENDS", "").split())
    given = parser.parse_args()
    tier = Tier(given.name, given.backends)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    servers = [
        threading.Thread(target=serve, args=(tier, port), daemon=True)
        for serve, port in ((serve_http, given.http), (serve_grpc, given.grpc), (serve_store, given.store))
        if port
    ]
    for each in servers:
        each.start()
    for each in servers:
        each.join()


main()
