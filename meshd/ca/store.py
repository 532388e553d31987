"""The seam between the CA and where it keeps what it must not forget: `meshd.ca.sqlite` on one host, `meshd.ca.keyed`
for several CAs, in Consul (`meshd.ca.consul`) or in objects of a cluster (`meshd.ca.objects`).

Several processes use one store at once: the daemon (or several), and `meshd ca token …` beside it. So what must not
happen twice is one call, which is done whole or not at all: a token's use with the certificate it is for, a
certificate with the look at the deny list. A new implementation is one module, and a line in the suite that all of
them pass (`tests/unit/test_ca_stores.py`).

Calls may block for as long as a disk or a network does, and come from several threads. Unreachable from any of them
when the store cannot be read or written now; a Conflict when it can and what is asked for must not be. Each call that
changes something returns the number of that change in the audit log: numbers are given once and in order, so that a
line that is missing there is missed.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

from meshd.ca.records import (
    Denied,
    DenyList,
    Entry,
    Held,
    Issued,
    IssuerAnswer,
    IssuerRequest,
    JoinToken,
    JwtKey,
    Node,
    Rotation,
    Running,
    SignedRoots,
)
from meshd.ca.source import Unreachable

MAX_DENIED: Final = 5000
"""Records in the deny list: all of it goes to every agent, and a serial takes 32 characters of 256 KiB."""

MAX_JWT_KEYS: Final = 100
"""On record: all of them go to every agent. A CA has two or three, more for an hour when they are changed by hand."""

MAX_LISTED: Final = 100_000


class Behind(Unreachable):
    """The roots are others than those that this CA has taken: what it signs would be of before."""


class Undone(Unreachable):
    """What was to be done together was not, since others were faster: one by one it may be."""


class Conflict(Exception):
    """What is asked for does not go with what is on record; the message says why, for the one who asked."""


class Peers(Protocol):
    """The CAs that run on one store, each on a host of its own. Errors as of the store."""

    @property
    def name(self) -> str:
        """This one's, which no other has."""

    def beat(self, running: Running) -> None:
        """Say that this CA runs, and how it is. To be called every second or so; then it is among `live`, and some
        seconds after the last time it is not."""

    def live(self) -> list[Running]:
        """Those that run now, by name."""

    def alone(self, what: str) -> bool:
        """Whether this CA is the one that does `what`, which it then is until it ends."""

    def roots(self) -> tuple[SignedRoots | None, int]:
        """What all of them hand out, None where nothing was published yet, and a number for it to be named by."""

    def publish(self, roots: SignedRoots, at: int) -> int:
        """Put `roots` in the place of those that the number `at` names: theirs. Conflict when others are there."""

    def take(self, at: int) -> None:
        """From now on `Store.add` and `Store.join` are done beside these roots alone; Behind when they are others. 0 is
        none of any."""

    def ask(self, request: IssuerRequest) -> None:
        """Ask for an issuer, in the place of what this CA asked for before."""

    def asked(self) -> dict[str, tuple[IssuerRequest, IssuerAnswer | None]]:
        """What each CA has asked for, and what it was answered last, perhaps to another request."""

    def answer(self, ca: str, answer: IssuerAnswer) -> None: ...

    def answered(self) -> IssuerAnswer | None:
        """What this CA was answered last."""


class Store(Protocol):
    """Everything the CA remembers besides its keys."""

    @property
    def where(self) -> str:
        """What it is, and where, for people."""

    @property
    def errors(self) -> int:
        """How many calls ended with Unreachable since this was opened."""

    @property
    def callers(self) -> int:
        """How many threads may well change something at once: 1 where they would only wait for each other."""

    def together(self) -> AbstractContextManager[None]:
        """What the thread that enters changes until it leaves may become one write instead of many: it lasts once this
        was left without an error, and not before. A Conflict undoes the call that it is of; after Unreachable, which
        leaving may raise too, nothing counts as done, and after Undone nothing is. For changes alone, and those of
        little time."""

    @property
    def trouble(self) -> str:
        """Why the last call ended with Unreachable; empty when it did not."""

    @property
    def keep_expired_s(self) -> float:
        """How long what has expired is still on record."""

    @property
    def peers(self) -> Peers | None:
        """None where one host alone can have the store."""

    # --- certificates

    def add(self, issued: Issued, node: Node | None = None) -> int:
        """Keep a record of a certificate and, with `node`, of what a node's renewal changed. Conflict when its identity
        or its node is denied, as it may have become since that was looked at."""

    def issued(
        self, *, node: str = "", identity: str = "", serial: str = "", until: float = 0.0, limit: int = MAX_LISTED
    ) -> list[Issued]:
        """The newest first, those alone that fit what is given; `until`: still good then."""

    def forget_expired(self, now: float) -> None:
        """Forget what expired more than `keep_expired_s` ago, and at once denials of certificates and keys of JWT-SVIDs
        that have expired."""

    # --- the token that agents share

    def add_token(self, token: str, now: float) -> None:
        """Know token from now on, by its hash."""

    def knows_token(self, token: str) -> bool:
        """Whether token is one that was added; takes the same time whatever part of it is right."""

    # --- nodes, and the tokens they join with

    def add_join_token(self, token: JoinToken) -> int: ...

    def join_token(self, token_id: str) -> JoinToken | None: ...

    def join_tokens(self) -> list[JoinToken]:
        """In the order they were made."""

    def revoke_join_token(self, token_id: str, now: float) -> int:
        """Conflict when there is no such token."""

    def join(self, token_id: str, node: Node, issued: Issued, entries: Sequence[Entry], now: float) -> int:
        """Use the token, once, for `node`: with its certificate on record, and `entries` in the place of those it had
        from tokens before. Conflict, by `JoinToken.refuses`, when it must not be used (any more)."""

    def node(self, name: str) -> Node | None: ...

    def nodes(self) -> list[Node]:
        """By name."""

    # --- entries

    def add_entry(self, entry: Entry) -> int:
        """Conflict when there is one for the same node and workload."""

    def remove_entry(self, entry_id: str) -> int:
        """Conflict when there is no such entry."""

    def entries(self) -> list[Entry]:
        """By node and workload."""

    def entries_of(self, node: str) -> list[Entry]:
        """Those that match the node, without reading all."""

    # --- what is denied

    def deny(self, records: Sequence[Denied]) -> int:
        """Deny these too; what was denied already stays as it was. Conflict above MAX_DENIED."""

    def allow(self, kind: str, value: str) -> int:
        """Withdraw a denial. Conflict when there is none."""

    def denied(self) -> DenyList: ...

    def sequence(self) -> int:
        """`denied().sequence`, at less cost."""

    # --- the change of issuer and root

    def rotation(self) -> Rotation | None:
        """The last, under way or over."""

    def rotate(self, before: Rotation | None, after: Rotation) -> tuple[Rotation, int]:
        """Put `after` in the place of `before`: as it is on record, with the number that the bundle has from now on.
        Conflict when what is on record is another than `before`."""

    def hear(self, held: Held) -> None:
        """What a node says of itself, in the place of what it said before."""

    def held(self) -> list[Held]: ...

    def holders(self, issued_before: float, now: float) -> list[str]:
        """The nodes that may hold certificates issued before, and not expired or denied; "" for those who did not prove
        which node they are on. The CA's own is not counted."""

    # --- the keys of JWT-SVIDs, as far as they are public

    def jwt_keys(self) -> list[JwtKey]:
        """Of all CAs, by when they were made."""

    def put_jwt_key(self, before: JwtKey | None, after: JwtKey) -> int:
        """Keep `after` in the place of `before`, or as one more when that is None; the bundle has another number then.
        Conflict when what is on record under its kid is another than `before`, and above MAX_JWT_KEYS."""

    # --- the audit log

    def next_audit(self) -> int:
        """The number of what changes nothing here: a refusal."""

    def close(self) -> None: ...
