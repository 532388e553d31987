"""Keys in objects of a cluster, and transactions on several of them, which its API does not have.

An object is replaced only where it is still as it was read (`resourceVersion`); nothing of the API does that for two at
once. So there is one object that all transactions go through, the journal. A transaction is done by replacing the
journal: from then on it says under a number what is in other objects. They are written after it, and whoever reads
before that was done takes what the journal says; whoever comes with the next transaction writes them first, should the
one whose it was have ended. An object has the number of the last transaction that changed it, so that none is written
twice:

    1. read the journal, and see to it that what it says is in the objects
    2. read what is decided on, and compare: Raced where it is another
    3. replace the journal, by one with the next number. Others were faster: begin anew
    4. write the objects

No object is read but after the journal, and no transaction gets past the journal as it was read: so what is compared
in 2 is of one moment. Two of these calls are for a certificate, besides the reading.

Some keys are nobody's condition (`placing.is_loose`): what a CA or a node says of itself. They are written alone.
"""

import random
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

from meshd.ca.keyed import layout
from meshd.ca.keyed.operations import Found, Operation, Raced
from meshd.ca.objects.placing import (
    CALLED_ISSUED,
    JOURNAL,
    NUMBERED,
    is_here,
    is_loose,
    is_tracked,
    place_of,
    places_of,
)
from meshd.ca.objects.records import Change, Record, Session, Spec, Value, new
from meshd.ca.source import Unreachable

MAX_BATCH_BYTES: Final = 40 << 10

ATTEMPTS: Final = 60
LONGEST_PAUSE_S: Final = 0.1
"""When others are faster: some 60 transactions are waited out."""


MAX_NAME: Final = 40
"""Characters of a CA's name that its sessions begin with, for people."""

CLEAR_AFTER_S: Final = 600.0


class Clash(Exception):
    """The object is another than it was, is there already, or is gone."""


class Objects(Protocol):
    """The records in one namespace. Called by several threads; every failure is Unreachable."""

    where: str
    place: str
    in_the_way: str

    def get(self, name: str) -> Record | None: ...

    def pages(self, label: str) -> Iterator[list[Record]]:
        """All with that label, in parts."""

    def create(self, record: Record) -> Record:
        """As it is then. Clash when there is one of that name."""

    def replace(self, record: Record) -> Record:
        """As it is then. Clash when it is another than it was, or gone."""

    def delete(self, record: Record) -> None:
        """Clash when it is another than it was; nothing when it is gone."""

    def now(self) -> float:
        """By the clock of the API server."""

    def close(self) -> None: ...


class ObjectKeys:
    """See `meshd.ca.keyed.operations.Keys`."""

    max_batch_bytes: Final = MAX_BATCH_BYTES

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self.where, self.place, self.in_the_way = objects.where, objects.place, objects.in_the_way
        self._applied = -1
        """The number of a transaction that is known to be in the objects: that and no other, since those after it come
        again where a cluster was restored from an older copy."""
        self._trust: dict[str, Found] = {}

    # --- reading

    def read(self, *prefixes: str) -> dict[str, Found]:
        found: dict[str, Found] = {}
        journal = self._journal()
        for prefix in prefixes:
            if is_tracked(prefix):
                found |= self._of_trust(journal, prefix)
                continue
            names, labels = places_of(prefix)
            records = [self._objects.get(name) for name in names]
            for label in labels:
                records += [each for page in self._objects.pages(label) for each in page]
            values = self._values(journal, [each for each in records if each is not None], labels, names)
            values |= {key: each for key, each in journal.spec.values.items() if is_here(key)}
            found |= {key: self._found(key, each) for key, each in values.items() if key.startswith(prefix)}
        return found

    def _of_trust(self, journal: Record, prefix: str) -> dict[str, Found]:
        """What is below `trust/`. It is looked at for each certificate, and is read again when its index is another."""
        found = {}
        for key, value in journal.spec.values.items():
            if not key.startswith(prefix):
                continue
            known = self._trust.get(key)
            if is_here(key):
                known = self._found(key, value)
            elif known is None or known.index != value.index:
                known = self._trust[key] = self._tracked(journal, key)
            found[key] = known
        return found

    def _tracked(self, journal: Record, key: str) -> Found:
        """What the journal has only the index of."""
        name = place_of(key, 0).object
        record = self._objects.get(name)
        value = self._values(journal, [] if record is None else [record], (), (name,)).get(key)
        if value is None:
            raise Unreachable(f"the CA's store: {key} is missing, which the journal says there is")
        return self._found(key, value)

    def pages(self, prefix: str) -> Iterator[dict[str, Found]]:
        if not prefix.startswith(layout.ISSUED):
            yield self.read(prefix)
            return
        journal = self._journal()
        last: list[Change] = [each for each in journal.spec.journal if each.label == CALLED_ISSUED]
        for page in self._objects.pages(CALLED_ISSUED):
            known = {key for record in page for key in record.spec.values}
            last = [each for each in last if each.key not in known]
            values = {key: each for record in page for key, each in record.spec.values.items()}
            yield {key: self._found(key, each) for key, each in values.items() if key.startswith(prefix)}
        left = {each.key: each.value for each in last if each.value is not None and each.key.startswith(prefix)}
        yield {key: self._found(key, each) for key, each in left.items()}

    def get(self, key: str) -> Found | None:
        return self.read(key).get(key)

    def _values(
        self, journal: Record, records: Iterable[Record], labels: Sequence[str], names: Sequence[str]
    ) -> dict[str, Value]:
        """What the objects have, with what the journal says that is not in them yet."""
        values: dict[str, Value] = {}
        current = set()
        for record in records:
            if record.spec.number >= journal.spec.number:
                current.add(record.name)
            if record.spec.session is None or self._is_live(record.spec.session):
                values |= record.spec.values
        for change in journal.spec.journal:
            if change.object in current or not (change.label in labels or change.object in names):
                continue
            values.pop(change.key, None)
            if change.value is not None:
                values[change.key] = change.value
        return values

    def _journal(self) -> Record:
        """As it is now; empty where there is none."""
        return self._objects.get(JOURNAL) or new(JOURNAL, JOURNAL, Spec())

    def _found(self, key: str, value: Value) -> Found:
        try:
            return Found(value.content, value.index)
        except ValueError as error:
            raise Unreachable(f"the CA's store: {key} cannot be read: {error}") from error

    # --- transactions

    def commit(self, operations: Sequence[Operation]) -> dict[str, int]:
        if operations and all(is_loose(each.key) for each in operations):
            for each in operations:
                self._write(each)
            return {each.key: 1 for each in operations}
        return self._transact(operations)

    def _transact(self, operations: Sequence[Operation]) -> dict[str, int]:
        for attempt in range(ATTEMPTS):
            before = self._begun()
            self._apply(before, {})
            known: dict[str, Record | None] = {}
            after = self._decided(before, operations, known)
            try:
                made = self._put(after)
            except Clash:
                _pause(attempt)
                continue
            with suppress(Unreachable):  # it is done; whoever comes next writes what is left
                self._apply(made, known)
            return {each.key: made.spec.number for each in operations if each.verb in {"put", "take"}}
        raise Unreachable(f"{self.where}: others change the CA's records all the time")

    def _begun(self) -> Record:
        """The journal as it is now. Unreachable where it is lost, and objects that were written by it are not: their
        numbers are higher than those that a new one begins with, and what it says would not come into them."""
        found = self._journal()
        if layout.ABOUT in found.spec.values:
            return found
        left = self._left()
        found = self._journal()  # again: what is left may be of one that was made at this moment
        if left and layout.ABOUT not in found.spec.values:
            raise Unreachable(
                f"{self.place}: the {JOURNAL} of the CA's records is missing, and others of them are there "
                f"({', '.join(left)}): restore all from one copy, or {self.in_the_way}"
            )
        return found

    def _left(self) -> list[str]:
        """Objects that were written by transactions, one of each sort."""
        first = (next((each for page in self._objects.pages(label) for each in page), None) for label in NUMBERED)
        return [each.name for each in first if each is not None]

    def _decided(self, before: Record, operations: Sequence[Operation], known: dict[str, Record | None]) -> Record:
        """The journal with the operations in it; what was read of objects is in `known` then."""
        number = before.spec.number + 1
        values, journal = dict(before.spec.values), []
        raced = set()
        for verb, key, content, at, session in operations:
            if at is not None and at != self._index(before, key, at, known):
                raced.add(key)
            if verb == "take" and not self._may_take(before.spec.values.get(key), session):
                raced.add(key)
            if verb == "check":
                continue
            value = None if verb == "remove" else Value.of(content, number, session)
            if not is_here(key):
                place = place_of(key, at or 0 if verb == "remove" else number)
                journal.append(Change(*place, key, value))
                value = Value(number) if is_tracked(key) else None
            if value is None:
                values.pop(key, None)
            else:
                values[key] = value
        if raced:
            raise Raced(frozenset(raced))
        return before.with_spec(Spec(number, values, tuple(journal)))

    def _index(self, journal: Record, key: str, at: int, known: dict[str, Record | None]) -> int:
        """That of what is under a key now, which should be `at`; 0 for nothing."""
        if is_here(key) or is_tracked(key):
            values = journal.spec.values
        elif key.startswith(layout.ISSUED) and not at:
            return 0  # a serial number has 126 random bits: it is not looked for in all objects
        else:
            name = place_of(key, at).object
            if name not in known:
                known[name] = self._objects.get(name)
            found = known[name]
            values = {} if found is None else found.spec.values
        return values[key].index if key in values else 0

    def _may_take(self, has: Value | None, session: str) -> bool:
        return has is None or has.session == session or not self._is_session(has.session)

    def _apply(self, journal: Record, known: dict[str, Record | None]) -> None:
        """Have what the journal says in the objects, as far as it is not; `known` are objects as they were."""
        number = journal.spec.number
        if number == self._applied:
            return
        changes: dict[str, list[Change]] = {}
        for each in journal.spec.journal:
            changes.setdefault(each.object, []).append(each)
        for name, of_object in changes.items():
            self._change(name, partial(_changed, of_object, number), known.get(name), name in known)
        self._applied = number

    def _change(
        self,
        name: str,
        change: Callable[[Record | None], Record | None],
        found: Record | None = None,
        is_known: bool = False,
    ) -> None:
        """Have an object be as `change` makes it of what is there; None leaves it as it is."""
        for attempt in range(ATTEMPTS):
            if not is_known:
                found = self._objects.get(name)
            is_known = False
            wanted = change(found)
            if wanted is None:
                return
            try:
                self._put(wanted)
            except Clash:
                _pause(attempt)
            else:
                return
        raise Unreachable(f"{self.where}: others change {name} all the time")

    def _put(self, record: Record) -> Record:
        """Clash when it is another than it was. One that has nothing is removed."""
        if not record.metadata.resource_version:
            return self._objects.create(record)
        if not record.spec.values and record.spec.session is None:
            self._objects.delete(record)
            return record
        return self._objects.replace(record)

    # --- what is written alone, and sessions

    def _write(self, operation: Operation) -> None:
        name, label = place_of(operation.key, 0)
        value = Value.of(operation.value, 1)

        def change(found: Record | None) -> Record | None:
            if operation.session:
                session = None if found is None else found.spec.session
                if found is None or session is None or session.id != operation.session:
                    raise Raced(frozenset({operation.key}))
                return found.with_spec(Spec(0, {operation.key: value}, (), session))
            if found is None:
                return new(name, label, Spec(0, {operation.key: value}))
            same = found.spec.values == {operation.key: value}
            return None if same else found.with_spec(Spec(0, {operation.key: value}))

        self._change(name, change)

    def begin_session(self, name: str, ttl_s: int) -> str:
        session = f"{name[:MAX_NAME]}-{secrets.token_hex(8)}"
        held = Session(session, self._objects.now(), ttl_s)
        try:
            self._objects.create(new(*place_of(layout.live(name, session), 0), Spec(session=held)))
        except Clash as clash:
            raise Unreachable(f"{self.where}: there is a session {session}") from clash
        self._clear()
        return session

    def _clear(self) -> None:
        """Remove sessions that ended long ago: their CAs could not. Where that cannot be, the next CA does."""
        with suppress(Unreachable):
            for page in self._objects.pages("live"):
                for each in page:
                    session = each.spec.session
                    if session is None or self._objects.now() - session.renewed > CLEAR_AFTER_S:
                        with suppress(Clash):
                            self._objects.delete(each)

    def renew_session(self, session: str) -> bool:
        """See `meshd.ca.keyed.operations.Keys`. One whose time is over is ended, and not renewed: others take what it
        holds after twice that time, which may be this moment."""
        was = []

        def change(found: Record | None) -> Record | None:
            has = None if found is None else found.spec.session
            if found is None or has is None or has.id != session:
                return None
            now = self._objects.now()
            if now - has.renewed >= has.ttl_s:
                return found.with_spec(Spec())
            was.append(session)
            return found.with_spec(Spec(0, found.spec.values, (), Session(session, now, has.ttl_s)))

        self._change(_live(session), change)
        return bool(was)

    def end_session(self, session: str) -> None:
        def change(found: Record | None) -> Record | None:
            has = None if found is None else found.spec.session
            return None if found is None or has is None or has.id != session else found.with_spec(Spec())

        self._change(_live(session), change)

    def _is_session(self, session: str) -> bool:
        """Whether it has not ended."""
        found = self._objects.get(_live(session)) if session else None
        has = None if found is None else found.spec.session
        return has is not None and has.id == session and self._is_live(has)

    def _is_live(self, session: Session) -> bool:
        return self._objects.now() - session.renewed < 2 * session.ttl_s

    def close(self) -> None:
        self._objects.close()


def _live(session: str) -> str:
    return place_of(layout.live("", session), 0).object


def _changed(changes: Sequence[Change], number: int, found: Record | None) -> Record | None:
    """The object with the changes of that number in it; None where it has them."""
    if found is not None and found.spec.number >= number:
        return None
    values = {} if found is None else dict(found.spec.values)
    for each in changes:
        values.pop(each.key, None)
        if each.value is not None:
            values[each.key] = each.value
    spec = Spec(number, values)
    if found is not None:
        return found.with_spec(spec)
    return new(changes[0].object, changes[0].label, spec) if values else None


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0, min(LONGEST_PAUSE_S, 0.002 * 2**attempt)))  # noqa: S311 - no secret
