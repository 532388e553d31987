"""Applications for pods, all of them for one connection after the other, each in a thread:

    pod_app.py http ADDRESS:PORT …    HTTP/1.1 and, by prior knowledge, HTTP/2: answers with the fields of the request,
                                      and the address of who connected; POST /healthz/bad has GET /healthz answered 503
    pod_app.py greet ADDRESS:PORT …   says hello first, then what it heard
    pod_app.py hear HOST:PORT         a client of the former: prints all that it is told
    pod_app.py knock HOST:PORT        connects, and prints whether that can be done

As SIGTERM it goes on until what is under way has ended, as an application does that knows its trade.
"""

import http.server
import json
import signal
import socket
import socketserver
import sys
import threading

import h2.connection
import h2.events

PREFACE = b"PRI * HTTP/2.0"
well = threading.Event()
well.set()


class Http(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        first = self.connection.recv(len(PREFACE), socket.MSG_PEEK)
        if first.startswith(PREFACE[:3]):
            http2(self.connection)
        else:
            super().handle()

    def do_GET(self) -> None:
        bad = self.path == "/healthz" and not well.is_set()
        said = {name.lower(): value for name, value in self.headers.items()}
        body = json.dumps({**said, ":path": self.path, ":from": self.client_address[0]}).encode()
        self.send_response(503 if bad else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        (well.clear if self.path == "/healthz/bad" else well.set)()
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


def http2(connection: socket.socket) -> None:
    state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    state.initiate_connection()
    connection.sendall(state.data_to_send())
    while data := connection.recv(65536):
        for event in state.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                body = json.dumps({**dict(event.headers), ":version": "2"}).encode()
                state.send_headers(event.stream_id, [(":status", "200")])
                state.send_data(event.stream_id, body, end_stream=True)
        connection.sendall(state.data_to_send())


class Greet(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(b"220 hello\r\n")
        self.request.sendall(b"heard " + self.request.recv(100) + b"\r\n")


def serve(handler: type[socketserver.BaseRequestHandler], where: list[str]) -> None:
    servers = []
    for each in where:
        host, _, port = each.rpartition(":")

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True
            request_queue_size = 128
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        servers.append(Server((host.strip("[]"), int(port)), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        signal.pause()


def hear(where: str) -> None:
    host, _, port = where.rpartition(":")
    heard = b""
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        heard += connection.recv(100)
        connection.sendall(b"me")
        while data := connection.recv(100):
            heard += data
    print(heard)


def knock(where: str) -> None:
    host, _, port = where.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=60).close()
        print("open")
    except ConnectionRefusedError:
        print("refused")


if __name__ == "__main__":
    if sys.argv[1] in ("hear", "knock"):
        {"hear": hear, "knock": knock}[sys.argv[1]](sys.argv[2])
    else:
        serve({"http": Http, "greet": Greet}[sys.argv[1]], sys.argv[2:])
