"""HPACK: `hpack` is the oracle in both directions, over several blocks of one connection."""

import tracemalloc

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http2.fields import (
    MAX_LIST_BYTES,
    STATIC,
    TABLE_BYTES,
    CompressionError,
    Field,
    FieldDecoder,
    FieldsTooLarge,
    encode,
)

KNOWN = st.sampled_from(STATIC)
NAMES = st.one_of(KNOWN.map(lambda field: field[0]), st.binary(min_size=1, max_size=20))
VALUES = st.one_of(st.binary(max_size=40), st.text("abc/0123456789-", max_size=200).map(str.encode))
FIELDS = st.lists(st.one_of(KNOWN, st.tuples(NAMES, VALUES)), max_size=12)
SIZES = st.lists(st.integers(0, TABLE_BYTES), max_size=3)
BLOCKS = st.lists(st.tuples(FIELDS, SIZES, st.booleans(), st.booleans()), min_size=1, max_size=6)


def blocks_of(encoder: hpack.Encoder, blocks: list[tuple[list[Field], list[int], bool, bool]]) -> list[bytes]:
    """Each list of fields as hpack encodes it: after table size updates, with Huffman or not, sensitive or not."""
    made = []
    for fields, sizes, huffman, sensitive in blocks:
        for size in sizes:
            if size != encoder.header_table_size:  # set twice to the same, hpack forgets to tell of it
                encoder.header_table_size = size
        tuples = [hpack.NeverIndexedHeaderTuple(*field) if sensitive else hpack.HeaderTuple(*field) for field in fields]
        made.append(encoder.encode(tuples, huffman=huffman))
    return made


def by_hpack(decoder: hpack.Decoder, block: bytes) -> list[Field]:
    return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]


@given(BLOCKS)
def test_what_hpack_encodes_decodes_to_the_same(blocks: list[tuple[list[Field], list[int], bool, bool]]) -> None:
    decoder = FieldDecoder()
    for (fields, *_), block in zip(blocks, blocks_of(hpack.Encoder(), blocks), strict=True):
        assert decoder.decode(block) == fields


@given(st.lists(FIELDS, min_size=1, max_size=5))
def test_what_we_encode_is_the_same_to_hpack_whatever_came_before_it(lists: list[list[Field]]) -> None:
    decoder, ours = hpack.Decoder(), FieldDecoder()
    for fields in lists:
        block = encode(fields)
        assert by_hpack(decoder, block) == fields
        assert ours.decode(block) == fields
        assert ours.self_contained
        assert not ours.added
    assert ours.version == 0


@given(FIELDS, FIELDS)
def test_blocks_can_be_joined(first: list[Field], second: list[Field]) -> None:
    assert FieldDecoder().decode(encode(first) + encode(second)) == first + second


@pytest.mark.parametrize("name", [b"authorization", b"cookie", b"set-cookie"])
def test_what_is_secret_is_never_to_be_indexed(name: bytes) -> None:
    (field,) = hpack.Decoder().decode(encode([(name, b"s3cret")]), raw=True)
    assert isinstance(field, hpack.NeverIndexedHeaderTuple)


@settings(max_examples=100)
@given(BLOCKS, st.data())
def test_what_hpack_refuses_is_refused(
    blocks: list[tuple[list[Field], list[int], bool, bool]], data: st.DataObject
) -> None:
    """Mutated blocks; where both accept one, they agree on it. Ours may refuse more: integers beyond 32 bits."""
    ours, oracle = FieldDecoder(), hpack.Decoder(max_header_list_size=MAX_LIST_BYTES)
    for block in blocks_of(hpack.Encoder(), blocks):
        mutated = bytearray(block)
        for _ in range(data.draw(st.integers(0, 3)) if mutated else 0):
            mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
        whole = (
            bytes(mutated[: data.draw(st.integers(0, len(mutated)))]) if data.draw(st.booleans()) else bytes(mutated)
        )
        try:
            expected: list[Field] | None = by_hpack(oracle, whole)
        except hpack.HPACKError:
            expected = None
        try:
            found: list[Field] | None = ours.decode(whole)
        except (CompressionError, FieldsTooLarge):
            return
        assert found == expected
        if expected is None:
            return


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(block: bytes) -> None:
    try:
        fields = FieldDecoder().decode(block)
    except (CompressionError, FieldsTooLarge):
        return
    assert fields == by_hpack(hpack.Decoder(), block)


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # index 0
        b"\xbe",  # the first entry of an empty table
        b"\xff\x80\x80\x80\x80\x80\x01",  # an integer that does not end in 32 bits
        b"\xff",
        b"\x40",
        b"\x40\x05abc",  # a name that ends too early
        b"\x40\x01a",
        b"\x40\x01a\x85ab",
        b"\x40\x01a\x81\x00",  # Huffman: padding that is not ones
        b"\x40\x01a\x84\xff\xff\xff\xff",  # Huffman: EOS
        b"\x82\x20",  # a size update after a field
        b"\x3f\xe2\x1f",  # a table of 4,097 bytes
    ],
)
def test_a_malformed_block_is_refused(block: bytes) -> None:
    with pytest.raises(CompressionError):
        FieldDecoder().decode(block)


def test_an_entry_larger_than_the_table_empties_it() -> None:
    decoder = FieldDecoder()
    decoder.decode(b"\x40\x01a\x01b")
    assert decoder.decode(b"\xbe") == [(b"a", b"b")]
    huge = hpack.Encoder().encode([(b"name", b"x" * TABLE_BYTES)], huffman=False)
    assert decoder.decode(huge) == [(b"name", b"x" * TABLE_BYTES)]
    with pytest.raises(CompressionError):
        decoder.decode(b"\xbe")


def test_a_list_that_is_too_large_leaves_the_table_in_step() -> None:
    encoder, decoder = hpack.Encoder(), FieldDecoder()
    large = [(b"x-large", b"v" * 9000)] * 8 + [(b"x-last", b"indexed")]
    with pytest.raises(FieldsTooLarge):
        decoder.decode(encoder.encode(large))
    assert decoder.decode(encoder.encode([(b"x-last", b"indexed")])) == [(b"x-last", b"indexed")]


def test_a_bomb_costs_little_and_is_not_decoded_to_its_end() -> None:
    """64 KiB of references to one entry of 4 KB would be 250 MB of fields."""
    decoder = FieldDecoder()
    decoder.decode(hpack.Encoder().encode([(b"x", b"v" * 4000)], huffman=False))
    tracemalloc.start()
    with pytest.raises(CompressionError, match="no end"):
        decoder.decode(b"\xbe" * (64 << 10))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 256 << 10
