"""A service that knows nothing of any mesh and calls others by name, on a host of a test: `caller.py PORT CALL…`.

A CALL is http:NAME:PORT, redis:NAME:PORT or grpc:NAME:PORT, and made again and again, a connection each but for gRPC.
How it went is said at PORT of 127.0.0.1, as JSON: of each CALL how many were `good`, what was wrong with the others,
and which was the `longest` (seconds) since that was last asked. With Debian's Python and gRPC, and nothing of meshd's.
"""

import http.client
import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

PAUSE_S = 0.05
PATIENCE_S = 90.0
"""More than anything between here and there has, so that what is lost is not lost by us."""

told: dict[str, dict[str, Any]] = {}


def http_get(name: str, port: int) -> None:
    connection = http.client.HTTPConnection(name, port, timeout=PATIENCE_S)
    try:
        connection.request("GET", "/", headers={"connection": "close"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise OSError(f"{answer.status} {answer.getheader('l5d-proxy-error', '')}")
    finally:
        connection.close()


def redis_incr(name: str, port: int) -> None:
    argv = ["redis-cli", "-e", "-h", name, "-p", str(port), "INCR", "calls"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode or not done.stdout.strip().isdigit():
        raise OSError(f"{done.returncode} {done.stdout} {done.stderr}")


def grpc_hello(name: str, port: int) -> Callable[[], None]:
    import grpc

    hello = grpc.insecure_channel(f"dns:///{name}:{port}").unary_unary("/greeter.Greeter/Hello")

    def call() -> None:
        try:
            answer = hello(b"mesh", timeout=PATIENCE_S)
        except grpc.RpcError as error:
            raise OSError(f"{error.code()} {error.details()}") from error
        if answer != b"hello, mesh":
            raise OSError(f"it said {answer!r}")

    return call


def again_and_again(call: Callable[[], None], how: dict[str, Any]) -> None:
    while True:
        began, at = time.monotonic(), time.time()
        try:
            call()
        except (OSError, http.client.HTTPException, subprocess.TimeoutExpired) as error:
            took_s = time.monotonic() - began
            how["failed"].append(f"{at:.3f}: {type(error).__name__}: {error}, {took_s:.3f} s later")
            time.sleep(0.2)
        else:
            how["good"] += 1
        how["longest"] = max(how["longest"], time.monotonic() - began)
        time.sleep(PAUSE_S)


class Said(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = json.dumps(told).encode()
        for how in told.values():
            how["longest"] = 0.0
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's
        pass


def main() -> None:
    for what in sys.argv[2:]:
        kind, name, port = what.split(":")
        how = told[what] = {"good": 0, "failed": [], "longest": 0.0}
        if kind == "grpc":
            call = grpc_hello(name, int(port))
        else:
            one = {"http": http_get, "redis": redis_incr}[kind]
            call = lambda one=one, name=name, port=int(port): one(name, port)  # type: ignore[misc]  # noqa: E731
        threading.Thread(target=again_and_again, args=(call, how), daemon=True).start()
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Said).serve_forever()


main()
