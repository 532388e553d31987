"""What a connection speaks, from its first bytes, however many of them there are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.detect import MAX_LINE_BYTES, Detected, detect


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", None),
        (b"\r", None),
        (b"\r\n", None),
        (b"GE", None),
        (b"GET", None),
        (b"GET /", None),
        (b"GET / HTTP/1.1", None),
        (b"GET / HTTP/1.1\r\n", "http1"),
        (b"\r\nGET / HTTP/1.1\r\nHost: a\r\n", "http1"),
        (b"GET / HTTP/1.0\r\n\r\n", "http1"),
        (b"M-SEARCH * HTTP/1.1\r\n", "http1"),
        # Malformed, but whoever sent it means HTTP: it is to be refused as such.
        (b"GET / HTTP/1.1\nHost: a\n\n", "http1"),
        (b"GET  / HTTP/1.1\r\n", "http1"),
        (b"GET /\x00 HTTP/1.1\r\n", "http1"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http2"),
        (b"\x16\x03\x01\x02\x00\x01", "tcp"),
        (b"*1\r\n$4\r\nPING\r\n", "tcp"),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", "tcp"),
        (b"PING\r\n", "tcp"),
        (b"EHLO example\r\n", "tcp"),
        (b"GET key\r\n", "tcp"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "tcp"),
        (b"A" * 33, "tcp"),
        (b"GET /" + b"x" * MAX_LINE_BYTES, "tcp"),
    ],
)
def test_first_bytes(data: bytes, found: Detected | None) -> None:
    assert detect(data) == found


@given(st.binary(max_size=64))
def test_more_bytes_never_change_what_was_found(data: bytes) -> None:
    found = None
    for end in range(len(data) + 1):
        now = detect(data[:end])
        assert found is None or now == found
        found = now
