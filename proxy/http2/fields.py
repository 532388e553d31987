"""HPACK (RFC 7541): field blocks to fields, and back.

The decoder is complete: static and dynamic table, Huffman (its table is `hpack`'s), size updates. The encoder uses the
static table alone and leaves the dynamic one empty. A block is then a pure function of its fields: it can be computed
once and sent on any connection, blocks can be joined, and a peer of ours finds the same bytes again and need not
decode them. That is worth more to a proxy than the bytes it costs on the wire.
"""

from collections import deque
from typing import Final

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

Field = tuple[bytes, bytes]

STATIC: Final[tuple[Field, ...]] = tuple(HeaderTable.STATIC_TABLE)
TABLE_BYTES: Final = 4096
"""The dynamic table a peer may use towards us: the protocol's default."""
NO_TABLE: Final = b"\x20"
"""A size update to 0. An encoder whose peer allows less than the default must say so, even if it uses no table (RFC
7541, section 4.2)."""
ENTRY_OVERHEAD: Final = 32
MAX_LIST_BYTES: Final = 64 << 10
"""What a list of fields may measure, with 32 bytes for each (RFC 9113, section 6.5.2): as a head of HTTP/1.1."""

MAX_UNPACKED_BYTES: Final = 4 * MAX_LIST_BYTES
"""What a list may measure for the table's sake; whoever goes beyond it makes us work for each byte of theirs."""

_MAX_REMEMBERED: Final = 4096

_PLAIN: Final = frozenset((0x00, 0x10))
"""Literals that go into no table and whose name is in none (RFC 7541, sections 6.2.2 and 6.2.3)."""


class CompressionError(Exception):
    """A block that cannot be decoded; the connection's state is lost with it."""


class FieldsTooLarge(Exception):
    """A list of fields beyond `MAX_LIST_BYTES`. The table is still in step: only this list is refused."""


class Additions:
    """What a block puts into the dynamic table, and how much room that takes there, in bytes."""

    __slots__ = ("fields", "size")

    def __init__(self, fields: list[Field]) -> None:
        self.fields = tuple(fields)
        self.size = sum(len(name) + len(value) + ENTRY_OVERHEAD for name, value in fields)


class FieldDecoder:
    """One direction of one connection.

    After `decode`, `self_contained` tells whether the block's fields are a pure function of its bytes (it did not use
    the dynamic table, nor resize it), and `added` what it put into the table. `version` counts the table's changes:
    what a block that uses it was decoded to before the last one may differ now.
    """

    __slots__ = ("_dynamic", "_later", "_later_bytes", "_limit", "_size", "added", "self_contained", "version")

    def __init__(self) -> None:
        self._dynamic: deque[Field] = deque()
        self._size = 0
        self._limit = TABLE_BYTES
        self._later: deque[Additions] = deque()  # in the table already, for all that the peer knows
        self._later_bytes = 0
        self.self_contained = True
        self.added: list[Field] = []
        self.version = 0

    def add(self, additions: "Additions") -> None:
        """Take it that a block which makes these additions, and is known, has been decoded once more."""
        # Most encoders of servers add the same fields with each block and never use them: so they are put into the
        # table when a block is decoded that might use it, and those that would be gone by then, never.
        self.version += 1
        self._later.append(additions)
        self._later_bytes += additions.size
        while len(self._later) > 1 and self._later_bytes - self._later[0].size >= self._limit:
            self._later_bytes -= self._later.popleft().size

    def _settle(self) -> None:
        for additions in self._later:
            for field in additions.fields:
                self._add(field)
        self._later.clear()
        self._later_bytes = 0

    def decode(self, block: bytes) -> list[Field]:
        """The fields of a whole block. CompressionError; FieldsTooLarge."""
        try:
            return self._decode(block)
        except IndexError as error:
            raise CompressionError("a block that ends too early") from error
        except HPACKDecodingError as error:
            raise CompressionError(f"Huffman: {error}") from error

    def _decode(self, block: bytes) -> list[Field]:
        fields: list[Field] = []
        if self._later:
            self._settle()
        self.self_contained = True
        self.added = []
        at, end, size = 0, len(block), 0
        while at < end:
            byte = block[at]
            if byte in _PLAIN and block[at + 1] < 0x7F and block[value_at := at + 2 + block[at + 1]] < 0x7F:
                # As our own encoder has what no table has: two short strings, without Huffman's code.
                name, at = block[at + 2 : value_at], value_at + 1 + block[value_at]
                if at > end:
                    raise CompressionError("a string that ends too early")
                field = name, block[value_at + 1 : at]
            elif byte & 0x80:
                index, at = (byte & 0x7F, at + 1) if byte != 0xFF else _integer(block, at, 0x7F)
                field = self._entry(index)
            elif byte & 0x40:
                field, at = self._literal(block, at, 0x3F)
                self._add(field)
                self.added.append(field)
            elif byte & 0x20:
                if fields:
                    raise CompressionError("a table size update after a field")
                limit, at = _integer(block, at, 0x1F)
                self._resize(limit)
                continue
            else:
                field, at = self._literal(block, at, 0x0F)
            size += len(field[0]) + len(field[1]) + ENTRY_OVERHEAD
            # Beyond the limit decoding goes on, for the table's sake, but nothing more is kept.
            if size <= MAX_LIST_BYTES:
                fields.append(field)
            elif size > MAX_UNPACKED_BYTES:
                raise CompressionError("a list of fields that has no end")
        if size > MAX_LIST_BYTES:
            raise FieldsTooLarge
        return fields

    def _entry(self, index: int) -> Field:
        if index <= 61:
            if index == 0:
                raise CompressionError("an index of 0")
            return STATIC[index - 1]
        self.self_contained = False
        if index - 62 >= len(self._dynamic):
            raise CompressionError(f"an index of {index}, beyond the table")
        return self._dynamic[index - 62]

    def _literal(self, block: bytes, at: int, mask: int) -> tuple[Field, int]:
        index = block[at] & mask
        if index == mask:
            index, at = _integer(block, at, mask)
        else:
            at += 1
        if index:
            name = self._entry(index)[0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        return (name, value), at

    def _add(self, field: Field) -> None:
        self.version += 1
        self._dynamic.appendleft(field)
        self._size += len(field[0]) + len(field[1]) + ENTRY_OVERHEAD
        self._evict()

    def _resize(self, limit: int) -> None:
        if limit > TABLE_BYTES:
            raise CompressionError(f"a table of {limit} bytes")
        self.self_contained = False
        self.version += 1
        self._limit = limit
        self._evict()

    def _evict(self) -> None:
        while self._size > self._limit:
            name, value = self._dynamic.pop()
            self._size -= len(name) + len(value) + ENTRY_OVERHEAD


def _integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """An integer with a prefix of as many bits as mask has (RFC 7541, section 5.1), and where it ends."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
        shift += 7
        if shift > 28:
            raise CompressionError("an integer of more than 32 bits")


_plain: dict[bytes, bytes] = {}


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    """A string literal (RFC 7541, section 5.2), and where it ends."""
    byte = block[at]
    length, at = (byte & 0x7F, at + 1) if byte & 0x7F != 0x7F else _integer(block, at, 0x7F)
    end = at + length
    raw = block[at:end]
    if len(raw) < length:
        raise CompressionError("a string that ends too early")
    if not byte & 0x80:
        return raw, end
    text = _plain.get(raw)
    if text is None:
        text = bytes(decode_huffman(raw))
        if length <= 128:
            if len(_plain) >= _MAX_REMEMBERED:
                _plain.clear()
            _plain[raw] = text
    return text, end


_by_field = {field: index for index, field in reversed(list(enumerate(STATIC, 1)))}
_by_name = {name: index for index, (name, _) in reversed(list(enumerate(STATIC, 1)))}

_SENSITIVE: Final = frozenset((b"authorization", b"cookie", b"set-cookie", b"proxy-authenticate", b"www-authenticate"))
"""Encoded so that no intermediary may put them into a table (RFC 7541, section 7.1.3)."""


def encode(fields: list[Field]) -> bytes:
    """A block of these fields, the same for every connection."""
    out: list[bytes] = []
    for field in fields:
        index = _by_field.get(field)
        if index is not None:
            out.append(_BYTES[0x80 | index])
            continue
        name, value = field
        size = len(value)
        out += (
            _names.get(name) or _encoded_name(name),
            _BYTES[size] if size < 0x7F else _integer_bytes(size, 0x7F, 0),
            value,
        )
    return b"".join(out)


_BYTES: Final = tuple(bytes((each,)) for each in range(256))

_names: dict[bytes, bytes] = {}


def _encoded_name(name: bytes) -> bytes:
    """What a literal of that name begins with; remembered, since fields have few names and many values."""
    pattern = 0x10 if name in _SENSITIVE else 0x00
    index = _by_name.get(name)
    if index is not None:
        encoded = _integer_bytes(index, 0x0F, pattern)
    else:
        encoded = _BYTES[pattern] + _integer_bytes(len(name), 0x7F, 0) + name
    if len(name) <= 64:
        if len(_names) >= _MAX_REMEMBERED:
            _names.clear()
        _names[name] = encoded
    return encoded


def _integer_bytes(value: int, mask: int, pattern: int) -> bytes:
    """value behind a prefix of as many bits as mask has (RFC 7541, section 5.1); the bits before it are pattern's."""
    if value < mask:
        return _BYTES[pattern | value]
    out = bytearray((pattern | mask,))
    value -= mask
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
