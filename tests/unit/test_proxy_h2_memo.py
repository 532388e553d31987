"""Remembered heads are the heads decoded anew, whatever the dynamic table went through in between."""

import hpack
from hypothesis import given
from hypothesis import strategies as st

from proxy.http2.fields import TABLE_BYTES, Field, FieldDecoder, encode
from proxy.http2.memo import MAX_BLOCK, MAX_OWN, MAX_SHARED, BlockReader, SharedHeads

FIELD = st.sampled_from([(b"a", b"1"), (b"a", b"2"), (b"b", b"1"), (b":path", b"/"), (b":path", b"/x")])
MANNERS = ("without the table", "with the table", "adding always, using never")
BLOCKS = st.lists(
    st.tuples(st.lists(FIELD, max_size=4), st.sampled_from([None, 0, 40, 100, 4096]), st.sampled_from(MANNERS)),
    max_size=25,
)


def adding(fields: list[Field]) -> bytes:
    """A block that adds each field to the table, as nginx's do."""
    return b"".join(b"\x40%c%b%c%b" % (len(name), name, len(value), value) for name, value in fields)


def reader(decoder: FieldDecoder, shared: SharedHeads[tuple[Field, ...]]) -> BlockReader[tuple[Field, ...]]:
    return BlockReader(decoder, shared, tuple)


@given(BLOCKS, BLOCKS)
def test_what_is_remembered_is_what_is_decoded_anew(
    first: list[tuple[list[Field], int | None, str]], second: list[tuple[list[Field], int | None, str]]
) -> None:
    """Two connections share a table; each has two readers on one decoder, as a server's has."""
    shared: SharedHeads[tuple[Field, ...]] = SharedHeads()
    for blocks in (first, second):
        decoder, encoder, anew = FieldDecoder(), hpack.Encoder(), FieldDecoder()
        readers = (reader(decoder, shared), reader(decoder, shared))
        for fields, size, manner in blocks:
            if manner == MANNERS[0]:
                block = encode(fields)
            elif manner == MANNERS[1]:
                if size not in (None, encoder.header_table_size):  # set twice, hpack forgets to tell of it
                    encoder.header_table_size = size
                block = encoder.encode(fields)
            else:
                block = adding(fields)
                for field in fields:
                    encoder.header_table.add(*field)  # it is one encoder with two manners
            assert readers[len(fields) % 2].read(block) == tuple(anew.decode(block))


def test_a_block_without_the_table_is_remembered_for_all_when_it_comes_again() -> None:
    shared: SharedHeads[tuple[Field, ...]] = SharedHeads()
    block = encode([(b":path", b"/often")])
    first = reader(FieldDecoder(), shared).read(block)
    assert not shared.heads
    second = reader(FieldDecoder(), shared).read(block)
    assert shared.heads == {block: second}
    assert reader(FieldDecoder(), shared).read(block) is second
    assert first == second


def test_a_block_that_uses_the_table_is_remembered_by_its_connection_until_the_table_changes() -> None:
    shared: SharedHeads[tuple[Field, ...]] = SharedHeads()
    decoder = FieldDecoder()
    one = reader(decoder, shared)
    assert one.read(b"\x40\x01a\x01b") == ((b"a", b"b"),)
    found = one.read(b"\xbe")
    assert one.read(b"\xbe") is found
    assert one.read(b"\x40\x01c\x01d") == ((b"c", b"d"),)
    assert one.read(b"\xbe") == ((b"c", b"d"),)
    assert not shared.heads


def test_the_tables_are_bounded() -> None:
    shared: SharedHeads[tuple[Field, ...]] = SharedHeads()
    decoder = FieldDecoder()
    one = reader(decoder, shared)
    for number in range(3 * MAX_SHARED):
        block = encode([(b"x", b"%d" % number)])
        one.read(block)
        one.read(block)
        assert len(shared.heads) <= MAX_SHARED
        assert len(shared.repeats) <= 4 * MAX_SHARED
    large = encode([(b"x", b"v" * MAX_BLOCK)])
    one.read(large)
    one.read(large)
    assert large not in shared.heads
    one.read(b"\x40\x01a\x01b")
    for number in range(2 * MAX_OWN):
        block = b"\xbe" + encode([(b"x", b"%d" % number)])
        assert one.read(block) == one.read(block)
    assert sum(one.read(b"\xbe" + encode([(b"x", b"%d" % each)])) is one.read(b"\xbe" + encode([(b"x", b"%d" % each)]))
               for each in range(2 * MAX_OWN)) == MAX_OWN  # fmt: skip


def test_a_head_that_is_refused_is_refused_again() -> None:
    def refusing(fields: list[Field]) -> object:
        raise ValueError(fields)

    one = BlockReader(FieldDecoder(), SharedHeads[object](), refusing)
    refused = 0
    for _ in range(3):
        try:
            one.read(b"\x82")
        except ValueError:
            refused += 1
    assert refused == 3


def test_a_block_that_only_adds_is_remembered_for_all_and_adds_each_time() -> None:
    shared: SharedHeads[tuple[Field, ...]] = SharedHeads()
    block = adding([(b"a", b"1"), (b"b", b"2")])
    first, other = FieldDecoder(), FieldDecoder()
    found = reader(first, shared).read(block)
    again = reader(first, shared).read(block)
    assert found == again
    assert reader(other, shared).read(block) is again
    assert other.decode(b"\xbe\xbf") == [(b"b", b"2"), (b"a", b"1")]
    assert first.decode(b"\xbe\xbf\xc0\xc1") == [(b"b", b"2"), (b"a", b"1")] * 2


def test_what_a_table_is_still_to_take_in_is_bounded_by_the_table() -> None:
    shared: SharedHeads[tuple[Field, ...]] = SharedHeads()
    decoder, anew = FieldDecoder(), FieldDecoder()
    one = reader(decoder, shared)
    for number in range(2000):
        block = adding([(b"n", b"%d" % (number % 7)), (b"long", b"v" * 60)])
        one.read(block)
        anew.decode(block)
    assert sum(additions.size for additions in decoder._later) < 2 * TABLE_BYTES
    for index in range(62, 62 + 60):
        assert decoder.decode(bytes([0x80 | index])) == anew.decode(bytes([0x80 | index]))
