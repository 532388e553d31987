"""Both ends of a connection that may be captured on its way.

serve NAME READY HOST PORT [HOST PORT …]   says NAME to each who connects, and where they were going, by the kernel
call HOST PORT                             prints what the other end said, or the name of the error
"""

import errno
import selectors
import socket
import struct
import sys
from pathlib import Path

SO_ORIGINAL_DST = 80
TIMEOUT_S = 60.0


def original(connection: socket.socket) -> str:
    """HOST:PORT that the caller connected to; `-` where nothing was translated."""
    v6 = connection.family == socket.AF_INET6
    try:
        raw = connection.getsockopt(socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP, SO_ORIGINAL_DST, 28)
    except OSError:
        return "-"
    port = struct.unpack_from("!H", raw, 2)[0]
    host = socket.inet_ntop(connection.family, raw[8:24] if v6 else raw[4:8])
    if (host, port) == connection.getsockname()[:2]:
        return "-"
    return f"[{host}]:{port}" if v6 else f"{host}:{port}"


def serve(name: str, ready: str, *places: str) -> None:
    chosen = selectors.DefaultSelector()
    for host, port in zip(places[::2], places[1::2], strict=True):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, int(port)), family=family)
        chosen.register(listener, selectors.EVENT_READ)
    Path(ready).touch()
    while True:
        for key, _ in chosen.select():
            assert isinstance(key.fileobj, socket.socket)
            connection, _ = key.fileobj.accept()
            with connection:
                connection.sendall(f"{name} {original(connection)}".encode())


def call(host: str, port: str) -> None:
    try:
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection:
            print(connection.recv(200).decode())
    except OSError as error:
        print(errno.errorcode.get(error.errno or 0, repr(error)))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*sys.argv[2:])
    else:
        call(*sys.argv[2:])
