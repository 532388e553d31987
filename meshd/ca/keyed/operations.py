"""Keys with values, several of which are changed in one transaction: what a shared store is made of, whatever has it.

`meshd.ca.consul.client` and `meshd.ca.objects.client` are the two `Keys`. Indexes are numbers that grow with every
change of anything; by them a transaction says what it was decided on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

MAX_VALUE_BYTES: Final = 320 << 10
"""Consul takes 512 KiB in one transaction, in base64 and with what is around it; an object of Kubernetes 1.5 MiB."""

MAX_OPERATIONS: Final = 64
"""In one transaction: Consul's own bound."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is under a key, and when it came there: numbers grow with every change of anything in the store."""

    value: bytes
    index: int


class Raced(Exception):
    """A transaction was not done, because of what was under these keys."""

    def __init__(self, keys: frozenset[str]) -> None:
        super().__init__(", ".join(sorted(keys)))
        self.keys = keys


class Operation(NamedTuple):
    """One of a transaction. `at` is the index that the key has to have, 0 where there must be none; None: whatever it
    is. `session` is whose it is, of what goes with a session."""

    verb: Literal["put", "remove", "check", "take"]
    key: str
    value: bytes = b""
    at: int | None = None
    session: str = ""


def put(key: str, value: bytes, index: int | None = None) -> Operation:
    """`value` under key; with index, only where that is the one that was found there, 0: where there was none."""
    return Operation("put", key, value, index)


def take(key: str, value: bytes, session: str) -> Operation:
    """`value` under key for as long as the session lives, where no other one has it."""
    return Operation("take", key, value, session=session)


def remove(key: str, index: int) -> Operation:
    return Operation("remove", key, at=index)


def unchanged(key: str, index: int) -> Operation:
    """Have the transaction fail where something else is under key."""
    return Operation("check", key, at=index)


class Keys(Protocol):
    """Keys of one trust domain. Called by several threads; every failure is Unreachable."""

    where: str
    """What it is, and where, for people."""

    place: str
    """And which part of it."""

    in_the_way: str
    """What to do about records that are there already, and should not be; of a sentence."""

    @property
    def max_batch_bytes(self) -> int:
        """Of the values in one transaction of many changes."""

    def read(self, *prefixes: str) -> dict[str, Found]:
        """All that is under keys that begin so, as of one moment or later."""

    def pages(self, prefix: str) -> Iterator[dict[str, Found]]:
        """The same, of a prefix that has much, in parts."""

    def get(self, key: str) -> Found | None: ...

    def commit(self, operations: Sequence[Operation]) -> dict[str, int]:
        """Do all of them; the new index of each key that was written. Raced when none was done."""

    def begin_session(self, name: str, ttl_s: int) -> str:
        """A session of the CA called name, which ends ttl_s after its last renewal, at the earliest, with all that it
        holds."""

    def renew_session(self, session: str) -> bool:
        """Whether there still was one."""

    def end_session(self, session: str) -> None: ...

    def close(self) -> None: ...
