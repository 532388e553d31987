"""The targets by name, each with its seeds."""

from collections.abc import Callable
from typing import Final, NamedTuple

from fuzz import ca, documents, http1, http2, mesh, names


class Target(NamedTuple):
    """`run` raises for an input that shows something wrong; `seeds` are inputs to begin with."""

    run: Callable[[bytes], None]
    seeds: list[bytes]


TARGETS: Final = {
    "http1_request": Target(http1.request, http1.heads_of(http1.REQUESTS)),
    "http1_response": Target(http1.response, http1.heads_of(http1.RESPONSES)),
    "http1_trailers": Target(http1.trailers, [b"X-Sum: 1\r\nContent-Length: 5\r\nY: 2", b"", b"grpc-status: 0"]),
    "http1_chunked": Target(http1.chunked, http1.CHUNKS),
    "http1_connection": Target(http1.connection, [b"\x09" + each for each in http1.REQUESTS]),
    "http1_answer": Target(http1.answer, [b"\x09" + each for each in http1.RESPONSES]),
    "http2_engine_server": Target(http2.engine_server, http2.SEEDS_BYTES),
    "http2_engine_client": Target(http2.engine_client, http2.SEEDS_BYTES),
    "http2_frames": Target(http2.engine_frames, http2.SEEDS_FRAMES),
    "http2_connection": Target(http2.connection, http2.SEEDS_FRAMES),
    "http2_block": Target(http2.block, http2.SEEDS_BLOCKS),
    "http2_head": Target(http2.head, http2.SEEDS_FIELDS),
    "mesh_header": Target(mesh.header, mesh.HEADERS),
    "mesh_records": Target(mesh.records, mesh.RECORDS),
    "first_bytes": Target(mesh.first_bytes, mesh.FIRST_BYTES),
    "client_hello": Target(mesh.client_hellos, mesh.HELLOS),
    "ca_token": Target(ca.token, ca.TOKENS),
    "ca_request": Target(ca.request, ca.REQUESTS),
    "jwt_token": Target(ca.jwt_token, ca.JWTS),
    "jwt_parts": Target(ca.jwt_parts, ca.PARTS),
    "document": Target(documents.document, documents.TEXTS),
    "names_query": Target(names.query, names.QUERIES),
}
