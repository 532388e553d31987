"""The form in which `kubectl create namespace` and other programs with built-in types send an object: `k8s` and a null
byte, and `runtime.Unknown` in protobuf, in which the object is once more. Of an object its metadata is read, which is
all that such a Namespace has; one that has more is refused, as nobody has needed it."""

from collections.abc import Iterator
from typing import Any

from tests.support.kubernetes.refusals import bad_request

MEDIA = "application/vnd.kubernetes.protobuf"
MAGIC = b"k8s\0"


def read(content: bytes) -> dict[str, Any]:
    """The object; Refused where it is none."""
    if not content.startswith(MAGIC):
        raise bad_request("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    try:
        unknown = dict(_fields(content[len(MAGIC) :]))
        kind = {number: each.decode() for number, each in _fields(unknown[1])}
        meta: dict[str, Any] = {}
        for number, each in _fields(unknown[2]):
            if number == 1:
                meta = _meta(each)
            elif any(below for _, below in _fields(each)):
                raise bad_request(f"field {number} of a {kind[2]} is not read by this double")
    except (KeyError, IndexError, ValueError) as error:
        raise bad_request(f"unable to decode: {error}") from error
    return {"apiVersion": kind[1], "kind": kind[2], "metadata": meta}


def _meta(content: bytes) -> dict[str, Any]:
    meta: dict[str, Any] = {}
    for number, each in _fields(content):
        match number:
            case 1:
                meta["name"] = each.decode()
            case 3:
                meta["namespace"] = each.decode()
            case 11 | 12:
                entry = {at: text.decode() for at, text in _fields(each)}
                meta.setdefault("labels" if number == 11 else "annotations", {})[entry[1]] = entry[2]
    return {key: each for key, each in meta.items() if each}


def _fields(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, content) of those with a length; numbers, which metadata has of its server's alone, are passed over."""
    place = 0
    while place < len(content):
        key, place = _number(content, place)
        length, place = _number(content, place)
        if key & 7 == 0:
            continue
        if key & 7 != 2 or place + length > len(content):
            raise ValueError(f"illegal wireType {key & 7}")
        yield key >> 3, content[place : place + length]
        place += length


def _number(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place
