"""`late PORT FILE`: an HTTP server that listens on 127.0.0.1:PORT as soon as FILE exists, and answers everything."""

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it writes head and body apart, and the second would wait for an acknowledgement

    def do_GET(self) -> None:
        body = f"hello {self.headers.get('l5d-client-id', 'nobody')}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is called there
        """Nothing: what the test looks for is in the answers."""


def main() -> None:
    port, file = int(sys.argv[1]), Path(sys.argv[2])
    while not file.exists():
        time.sleep(0.01)
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


main()
