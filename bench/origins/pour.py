"""The origin of opaque bytes: whoever connects gets zeros for as long as they are read, from memory and without a copy.

python -m bench.origins.pour FILE    # {"ports": […]} in the file
"""

import json
import os
import selectors
import socket
import sys
from contextlib import suppress
from pathlib import Path

from bench import contenders
from bench.scenario import Origin

_CHUNK_BYTES = 1 << 20


def serve(ports: list[int]) -> None:
    """Pour into every connection to one of the ports, for ever."""
    memory = os.memfd_create("zeros", os.MFD_CLOEXEC)
    os.truncate(memory, _CHUNK_BYTES)
    with selectors.DefaultSelector() as ready:
        for port in ports:
            ready.register(socket.create_server(("127.0.0.1", port), backlog=128), selectors.EVENT_READ)
        while True:
            for key, events in ready.select():
                one = key.fileobj
                assert isinstance(one, socket.socket)
                if events & selectors.EVENT_WRITE:
                    _pour(one, memory, ready)
                else:
                    opened, _ = one.accept()
                    opened.setblocking(False)
                    ready.register(opened, selectors.EVENT_WRITE)


def _pour(connection: socket.socket, memory: int, ready: selectors.BaseSelector) -> None:
    try:
        os.sendfile(connection.fileno(), memory, 0, _CHUNK_BYTES)
    except BlockingIOError:
        pass
    except OSError:  # it has read enough
        ready.unregister(connection)
        connection.close()


def origin() -> Origin:
    """This one, as a scenario has it."""

    def configuration(listen: int, direct: int, _: Path) -> str:
        return json.dumps({"ports": [listen, direct]})

    return Origin(contenders.python(__name__), configuration, _first_bytes, bytes(_CHUNK_BYTES))


def _first_bytes(port: int) -> bytes:
    got = bytearray()
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        while len(got) < _CHUNK_BYTES and (data := connection.recv(_CHUNK_BYTES - len(got))):
            got += data
    return bytes(got)


if __name__ == "__main__":
    serve(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["ports"])
