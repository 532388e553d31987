"""The transport header: what a proxy says first on a connection to another.

    length (32 bits, big-endian) · a JSON object of that many bytes, 4096 at most

    {"port": 8080, "protocol": "h2", "service": "api.default:80"}

`port` is the workload's port that is asked for, `protocol` what follows: `h2` HTTP/2, `tcp` opaque bytes as
`proxy.mesh.records`. A field that the receiver does not know is ignored, so that one may be added; a protocol that
it does not know is refused.
"""

from typing import Annotated, Final, Literal

import msgspec

MAX_HEADER_BYTES: Final = 4096

ALPN: Final = "meshd/1"

MeshProtocol = Literal["h2", "tcp"]


class TransportHeader(msgspec.Struct, frozen=True):
    """See the module."""

    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    protocol: MeshProtocol
    service: Annotated[str, msgspec.Meta(max_length=512)] = ""


class BadTransportHeader(Exception):
    """The peer's first frame is no transport header; it speaks something else."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(TransportHeader)


def encode(header: TransportHeader) -> bytes:
    """header as the frame that opens a connection."""
    body = _encoder.encode(header)
    return len(body).to_bytes(4, "big") + body


def decode(data: bytes) -> tuple[TransportHeader, bytes] | None:
    """The header that data begins with and the bytes after it; None while it is not whole. BadTransportHeader."""
    if len(data) < 4:
        return None
    length = int.from_bytes(data[:4], "big")
    if length > MAX_HEADER_BYTES:
        raise BadTransportHeader(f"a transport header of {length} bytes")
    if len(data) < 4 + length:
        return None
    try:
        return _decoder.decode(data[4 : 4 + length]), data[4 + length :]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadTransportHeader(str(error)) from error
