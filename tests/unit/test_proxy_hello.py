"""The server name in a ClientHello: what OpenSSL writes, in whatever pieces, and what is not quite that."""

import ssl
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.hello import MAX_HELLO_BYTES, HelloReader
from tests.support.hellos import client_hello, extension, hello, names, number, record

HELLO = client_hello("api.example")
MESSAGE = HELLO[5:]


def read(*pieces: bytes) -> tuple[bool, str | None]:
    reader = HelloReader()
    for piece in pieces:
        reader.feed(piece)
    return reader.done, reader.name


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_openssl_says_with_a_name_and_without(version: ssl.TLSVersion) -> None:
    assert read(client_hello("api.example", version)) == (True, "api.example")
    assert read(client_hello("API.Example", version)) == (True, "api.example")
    assert read(client_hello(None, version)) == (True, "")


@given(st.lists(st.integers(1, len(MESSAGE) - 1), max_size=5), st.lists(st.integers(1, len(HELLO)), max_size=8))
def test_however_it_is_cut_into_records_and_reads(cuts: list[int], reads: list[int]) -> None:
    places = sorted({0, *cuts, len(MESSAGE)})
    data = b"".join(record(MESSAGE[start:end]) for start, end in pairwise(places)) + b"what follows"
    bounds = sorted({0, *reads, len(data)})
    assert read(*(data[start:end] for start, end in pairwise(bounds))) == (True, "api.example")


def test_byte_by_byte_and_no_sooner_than_it_is_whole() -> None:
    reader = HelloReader()
    done = [reader.feed(HELLO[at : at + 1]) for at in range(len(HELLO))]
    assert done == [False] * (len(HELLO) - 1) + [True]
    assert reader.name == "api.example"


@given(st.integers(0, len(HELLO) - 1), st.integers(0, 255), st.binary(max_size=20))
def test_nothing_it_is_given_is_an_error(place: int, byte: int, more: bytes) -> None:
    changed = HELLO[:place] + bytes([byte]) + more + HELLO[place + 1 :]
    _, name = read(changed[: place + 10], changed[place + 10 :])
    assert name is None or name.isascii()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (hello(names((0, b"a.example"))), "a.example"),
        (hello(extension(10, b"\0\x02\0\x1d") + names((0, b"a_b.example"))), "a_b.example"),
        (hello(names((0, b"localhost"))), "localhost"),
        (hello(None), ""),
        (hello(b""), ""),
        (hello(extension(10, b"")), ""),
        (b"GET / HTTP/1.1\r\n", None),
        (b"\x80\x2e\x01\x03\x01", None),  # SSL 2
        (record(MESSAGE, kind=23), None),
        (record(MESSAGE, version=b"\x02\x00"), None),
        (record(b""), None),
        (b"\x16\x03\x01\x40\x01", None),
        (record(b"\x02" + MESSAGE[1:]), None),
        (record(b"\x01" + number(MAX_HELLO_BYTES, 3)), None),
        (hello(names((0, b"a.example")), version=0x0200), None),
        (hello(names((0, b"a.example")), suites=b""), None),
        (hello(names((0, b"a.example")), suites=b"\x13\x01\x13"), None),
        (hello(names((0, b"a.example")), session=bytes(33)), None),
        (hello(names((0, b"a.example")) + b"\0"), None),
        (hello(names((0, b"a.example")) * 2), None),
        (hello(names((0, b"a.example"), (0, b"b.example"))), None),
        (hello(names((1, b"a.example"))), None),
        (hello(names()), None),
        (hello(extension(0, b"")), None),  # what a server may answer with
        (hello(names((0, b""))), None),
        (hello(names((0, b"192.0.2.1"))), None),
        (hello(names((0, b"2001:db8::1"))), None),
        (hello(names((0, b"a.example."))), None),
        (hello(names((0, b'a"} 1\n'))), None),
        (hello(names((0, b"\xc3\xa4.example"))), None),
        (hello(names((0, b"a" * 64))), None),
        (hello(names((0, b"a." * 127))), None),
    ],
)
def test_the_letter_of_it(data: bytes, name: str | None) -> None:
    assert read(data) == (True, name)


def test_what_is_kept_of_it_is_bounded() -> None:
    reader = HelloReader()
    length = MAX_HELLO_BYTES - 4
    reader.feed(record(b"\x01" + number(length, 3) + bytes(100)))
    for _ in range(200):
        reader.feed(record(bytes(100)))
    assert reader.done
