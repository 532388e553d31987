"""Field blocks seen before, with the heads they decode to.

A block that does not use the dynamic table decodes to the same on every connection, and adds the same to each one's
table (nginx's blocks all add, and none uses it); one that uses it, to the same on its connection until the table
changes. Both are remembered when they come a second time, in bounded tables, so that what repeats costs a look-up and
what does not costs little more than decoding it.
"""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from proxy.http2.fields import Additions, Field, FieldDecoder
from proxy.repeats import Repeats

H = TypeVar("H")

MAX_SHARED: Final = 1024
MAX_BLOCK: Final = 1024
MAX_OWN: Final = 16
MAX_OWN_BLOCK: Final = 256
"""A connection's own table is small, since there may be many connections: some 30 KB at most."""


class SharedHeads(Generic[H]):
    """What blocks decode to that do not use the dynamic table, and in `adding` those that add to it; one for all."""

    def __init__(self) -> None:
        self.heads: dict[bytes, H] = {}
        self.adding: dict[bytes, tuple[H, Additions]] = {}
        self.repeats = Repeats(4 * MAX_SHARED)

    def offer(self, block: bytes, head: H, added: list[Field]) -> None:
        """Remember head and what its block adds to the table, if it came before."""
        if not self.repeats.again(block):
            return
        if len(self.heads) + len(self.adding) >= MAX_SHARED:
            self.heads.clear()
            self.adding.clear()
        if added:
            self.adding[block] = head, Additions(added)
        else:
            self.heads[block] = head


class BlockReader(Generic[H]):
    """The field blocks of one direction of a connection. `interpret` makes a head of fields, or raises."""

    def __init__(self, decoder: FieldDecoder, shared: SharedHeads[H], interpret: Callable[[list[Field]], H]) -> None:
        self._decoder = decoder
        self._shared = shared
        self._interpret = interpret
        self._own: dict[bytes, H] = {}
        self._version = decoder.version

    def read(self, block: bytes) -> H:
        """The head of block. What the decoder and `interpret` raise."""
        head = self._shared.heads.get(block)
        if head is not None:
            return head
        decoder = self._decoder
        known = self._shared.adding.get(block)
        if known is not None:
            decoder.add(known[1])
            return known[0]
        if self._own:
            if decoder.version != self._version:
                self._own.clear()
            elif (head := self._own.get(block)) is not None:
                return head
        before = decoder.version
        head = self._interpret(decoder.decode(block))
        if len(block) <= MAX_BLOCK:
            if decoder.self_contained:
                self._shared.offer(block, head, decoder.added)
            elif decoder.version == before and len(self._own) < MAX_OWN and len(block) <= MAX_OWN_BLOCK:
                self._version = before
                self._own[block] = head
        return head
