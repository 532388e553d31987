"""Transactions on the CA's records in a shared store: decided by what was read, and done where it is still so.

What was read and decided on is named in a transaction by its index, so that it is done as it was decided or not at all.
What others were faster with is decided anew. The threads of one process take turns, since each change counts on the
audit log's number; other processes do not wait for each other.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple, cast

from meshd.ca.keyed import layout
from meshd.ca.keyed.layout import denied_read, denied_written, read, written
from meshd.ca.keyed.operations import MAX_OPERATIONS, Found, Keys, Operation, Raced, put
from meshd.ca.keyed.presence import Presence
from meshd.ca.records import Denied
from meshd.ca.source import Unreachable
from meshd.ca.store import Behind, Conflict, Undone

ATTEMPTS: Final = 60
LONGEST_PAUSE_S: Final = 0.05
"""When others are faster: some 60 changes of one record are waited out, by which time a second or so has passed."""

NOTHING: Final = Found(b"", 0)

Decide = Callable[[], Sequence[Operation]]
"""Reads, and says what is to be done; Conflict where it must not be."""


class Trust(NamedTuple):
    """What a certificate must not be beside, and where it was found."""

    denied: tuple[Denied, ...]
    denied_index: int
    sequence: int
    sequence_index: int


class Batch:
    """What is to be one transaction: who decided on it, and the operations, no two of which change the same key."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.decided: list[Decide] = []
        self._operations: dict[str, Operation] = {}
        self._bytes = 0
        self._is_begun = False

    def operations(self) -> list[Operation]:
        return list(self._operations.values())

    def has_room(self, operations: Sequence[Operation]) -> bool:
        """Whether these go with the others: they fit in, and change other keys, or look at the same."""
        shared = [each for each in self._operations.values() if each.verb == "check"]
        added = [each for each in operations if each not in shared]
        return (
            self._operations.keys().isdisjoint(each.key for each in added)
            and len(self._operations) + len(added) < MAX_OPERATIONS
            and self._bytes + _size(added) <= self._max_bytes
        )

    def add(self, decide: Decide, operations: Sequence[Operation]) -> None:
        self.decided.append(decide)
        self._bytes += _size([each for each in operations if each.key not in self._operations])
        self._operations |= {each.key: each for each in operations}

    def decide_again(self) -> None:
        self._operations = {each.key: each for decide in self.decided for each in decide()}

    def done(self) -> None:
        """What was in it is; it is empty now."""
        self.decided, self._operations, self._bytes, self._is_begun = [], {}, 0, True

    def failed(self, why: str) -> Unreachable:
        """What to say of it, should it not be done."""
        return Unreachable(why) if self._is_begun else Undone(why)


class Transactions:
    """On what is below the prefix, for the CA called `name` (`CaFiles.name`)."""

    def __init__(self, client: Keys, name: str) -> None:
        self._client, self._name = client, name
        self._writing, self._counting = threading.RLock(), threading.Lock()
        self._batch: Batch | None = None
        self._trust: Trust | None = None
        self._audit: Found | None = None
        self.errors, self.trouble = 0, ""
        self.where = client.where
        self.peers = Presence(client, name, self._told)

    def _there(self, found: Found | None) -> Found:
        """What is there from the beginning. A store may leave out what its token may not read: none is no empty one."""
        if found is None:
            raise Unreachable(f"{self.where} has not the CA's records, or its token may not read them")
        return found

    def _fresh_trust(self) -> Trust:
        found = self._client.read("trust/")
        sequence, denied = self._there(found.get(layout.SEQUENCE)), self._there(found.get(layout.DENIED))
        number = read(sequence, int, layout.SEQUENCE)
        known = self._trust
        same = known is not None and known.denied_index == denied.index
        records = known.denied if known is not None and same else denied_read(denied)
        self._trust = Trust(records, denied.index, number, sequence.index)
        return self._trust

    def _denying(self, trust: Trust, records: tuple[Denied, ...]) -> list[Operation]:
        return [self._denied(trust, records), self._counted(trust)]

    def _denied(self, trust: Trust, records: tuple[Denied, ...]) -> Operation:
        return put(layout.DENIED, denied_written(records), trust.denied_index)

    def _counted(self, trust: Trust) -> Operation:
        """The next number of what is believed and denied."""
        return put(layout.SEQUENCE, written(number_after(trust.sequence)), trust.sequence_index)

    @contextmanager
    def together(self) -> Iterator[None]:
        """See `meshd.ca.store.Store`. What was decided is done at the end, or as often as a transaction is full; should
        others be faster then, it is decided once more."""
        with self._used(), self._writing:
            self._batch = Batch(self._client.max_batch_bytes)
            self._audit = self._trust = None  # what is read is of now, as far as can be
            try:
                yield
                self._do(self._batch)
            finally:
                self._batch = None

    def _later(self, batch: Batch, decide: Decide) -> int:
        """Have it done with the others of the batch: the number that it will have."""
        operations = decide()
        if not batch.has_room(operations):
            self._do(batch)
            operations = decide()
        batch.add(decide, operations)
        at, number = self._counted_at()
        self._audit = at
        return number + len(batch.decided)

    def _do(self, batch: Batch) -> None:
        """All that is in the batch, which is empty then."""
        key = layout.audit(self._name)
        at, number = self._counted_at()  # as the numbers were given out
        value = written(number + len(batch.decided))
        for attempt in range(ATTEMPTS if batch.decided else 0):
            try:
                indexes = self._client.commit([*batch.operations(), put(key, value, at.index)])
            except Raced as raced:
                if key in raced.keys:  # the numbers are given out, and cannot be others
                    raise batch.failed(f"{self.where}: a command was given on this host at this moment") from raced
                self._look_again(raced, attempt)
                try:
                    batch.decide_again()
                except Conflict as conflict:  # it is too late to say whose
                    raise batch.failed(f"{self.where}: changed at this moment: {conflict}") from conflict
                continue
            self._audit = Found(value, indexes[key])
            batch.done()
            return
        if batch.decided:
            raise Unreachable(f"{self.where}: others change the same records all the time")

    def _counted_at(self) -> tuple[Found, int]:
        """Where the number of the audit log's last line is, and which it is."""
        key = layout.audit(self._name)
        at = self._audit or self._client.get(key) or NOTHING
        return at, read(at, int, key) if at.index else 0

    def _look_again(self, raced: Raced, attempt: int) -> None:
        """Forget what was read, and wait a moment; Unreachable where that would not help."""
        if layout.ROOTS in raced.keys:
            raise Behind("this CA has not taken up the roots yet that all sign below now") from raced
        if any(key.startswith(layout.ISSUED) for key in raced.keys):
            raise Unreachable(f"{self.where}: there is a certificate with that serial number") from raced
        self._audit = self._trust = None
        time.sleep(random.uniform(0, min(LONGEST_PAUSE_S, 0.002 * 2**attempt)))  # noqa: S311 - no secret

    def _change(self, decide: Callable[[], Sequence[Operation] | None], is_audited: bool = True) -> int:
        """Do what decide says, all of it or nothing, and as the next number of the audit log: that number. It is asked
        again when others were faster; what it raises ends the attempt, None means that nothing is to be done."""
        key = layout.audit(self._name)
        with self._used(), self._writing:
            if self._batch is not None and is_audited:
                return self._later(self._batch, cast(Decide, decide))
            for attempt in range(ATTEMPTS):
                operations = decide()
                if operations is None:
                    return 0
                counted, number = list(operations), 0
                if is_audited:
                    at, last = self._counted_at()
                    number = last + 1
                    counted.append(put(key, written(number), at.index))
                try:
                    indexes = self._client.commit(counted)
                except Raced as raced:
                    self._look_again(raced, attempt)
                    continue
                except Unreachable:
                    self._audit = None  # it may have been done all the same
                    raise
                if is_audited:
                    self._audit = Found(written(number), indexes[key])
                return number
            raise Unreachable(f"{self.where}: others change the same records all the time")

    def _used(self) -> "_Used":
        return _Used(self)

    def _told(self, error: Unreachable | None) -> None:
        """How a call of the store ended."""
        with self._counting:
            self.errors += error is not None
        self.trouble = "" if error is None else str(error)


class _Used:
    """Around a call: what goes wrong in it is counted, and is what is the matter until one goes well. A Conflict is an
    answer of the store's like any other."""

    __slots__ = ("_store",)

    def __init__(self, store: Transactions) -> None:
        self._store = store

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._store._told(error if isinstance(error, Unreachable) and not isinstance(error, Behind | Undone) else None)


def _size(operations: Sequence[Operation]) -> int:
    return sum(len(each.value) for each in operations)


def number_after(sequence: int) -> int:
    """The next number: counted on from the time at least, so that what was restored from an older copy is believed
    again from its next change on."""
    return max(sequence + 1, int(time.time()))
