"""What runs on a host that captures: an application, and callers.

serve HTTP OPAQUE       answers on the two ports of loopback: HTTP with the fields it was asked with, as JSON; opaque
                        bytes with a greeting, and what it was sent
resolve NAME PORT       prints the addresses that the name server at that port has for it, as JSON
ask ADDRESS PORT [NAME] prints the status and the body of a request, or the name of the error
talk ADDRESS PORT       prints what the other end says that is told what is no HTTP, or the name of the error
asks ADDRESS PORT FILE  asks over and over, each time by a connection of its own, until there is the file; prints how
                        often, and each that was no success of web's
"""

import errno
import http.client
import http.server
import json
import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from pathlib import Path

TIMEOUT_S = 60.0


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Greeting(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(b"welcome ")
        self.request.sendall(b"heard " + self.request.recv(100))


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


def serve(http_port: str, opaque_port: str) -> None:
    with Server(("127.0.0.1", int(opaque_port)), Greeting) as opaque:
        threading.Thread(target=opaque.serve_forever, daemon=True).start()
        http.server.ThreadingHTTPServer(("127.0.0.1", int(http_port)), Answer).serve_forever()


def resolve(name: str, port: str) -> None:
    import dns.message
    import dns.query
    import dns.rdatatype

    found = []
    for kind in ("A", "AAAA"):
        answer = dns.query.udp(dns.message.make_query(name, kind), "127.0.0.1", timeout=TIMEOUT_S, port=int(port))
        wanted = dns.rdatatype.from_text(kind)
        found += [str(each) for rrset in answer.answer for each in rrset if each.rdtype == wanted]
    print(json.dumps(found))


def asked(address: str, port: str, name: str = "api.mesh") -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, int(port), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/", headers={"host": name})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def named(error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    return errno.errorcode.get(number or 0, repr(error))


def ask(address: str, port: str, name: str = "api.mesh") -> None:
    try:
        status, body = asked(address, port, name)
        print(f"{status} {body}")
    except (OSError, http.client.HTTPException) as error:
        print(named(error))


def talk(address: str, port: str) -> None:
    try:
        with socket.create_connection((address, int(port)), timeout=TIMEOUT_S) as connection:
            connection.sendall(b"\0me")
            heard = b""
            while data := connection.recv(100):
                heard += data
        print(heard.decode())
    except OSError as error:
        print(named(error))


def asks(address: str, port: str, until: str) -> None:
    count, wrong = 0, []
    while not Path(until).exists() or not count:
        try:
            status, body = asked(address, port)
            if status != 200 or "/ns/default/sa/web" not in body:
                wrong.append(f"{status} {body}")
        except (OSError, http.client.HTTPException) as error:
            wrong.append(named(error))
        count += 1
    print(json.dumps([count, wrong]))


COMMANDS: dict[str, Callable[..., None]] = {
    "serve": serve,
    "resolve": resolve,
    "ask": ask,
    "talk": talk,
    "asks": asks,
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
