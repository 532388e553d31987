"""What nothing that signs over HTTPS can be faster than: a server whose answer to whatever is sent is one signature.

python -m bench.origins.signing FILE    # {"port": …, "directory": …} in the file; `bench.configure.ca` lays the latter

ECDSA P-256, by the library that the CA uses, over the CA's TLS, in which clients show their certificates. There are no
rules, no certificate, no store, no log, and no HTTP to speak of: a request is taken to come in one piece.
"""

import asyncio
import json
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import uvloop
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from bench.configure import ca
from bench.scenario import Wiring


class Signing(asyncio.Protocol):
    """A connection to it."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        signature = self._key.sign(data, ec.ECDSA(hashes.SHA256())).hex().encode()
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(signature), signature))


async def serve(port: int, directory: Path) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=directory / "ca" / "bundle.pem")
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.num_tickets = 0
    tls.verify_mode = ssl.CERT_OPTIONAL
    tls.load_cert_chain(directory / "server.pem")
    key = ec.generate_private_key(ec.SECP256R1())
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Signing(key), "127.0.0.1", port, ssl=tls, backlog=1024)
    await server.serve_forever()


def configuration(nodes: int) -> Callable[[Wiring], str]:
    """For clients that are so many nodes."""

    def laid(wiring: Wiring) -> str:
        ca.lay(wiring.directory, nodes)
        return json.dumps({"port": wiring.listen, "directory": str(wiring.directory)})

    return laid


if __name__ == "__main__":
    _told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    uvloop.run(serve(_told["port"], Path(_told["directory"])))
