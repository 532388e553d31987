"""The store that several CAs share; see `meshd.ca.store.Store` for what it does, `meshd.ca.keyed` for what is where.

Each change is one transaction (`meshd.ca.keyed.transactions`), which is decided on here.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Self

from meshd.api.problems import Problem
from meshd.ca.keyed import layout
from meshd.ca.keyed.layout import About, denied_written, read, written
from meshd.ca.keyed.operations import MAX_OPERATIONS, Found, Keys, Operation, Raced, put, remove, unchanged
from meshd.ca.keyed.transactions import NOTHING, Transactions, number_after
from meshd.ca.patterns import matches_node
from meshd.ca.records import (
    NODE_ORIGIN,
    Denied,
    DenyList,
    Entry,
    Held,
    Issued,
    JoinToken,
    JwtKey,
    Node,
    Rotation,
    hashed,
)
from meshd.ca.source import Unreachable
from meshd.ca.store import MAX_DENIED, MAX_JWT_KEYS, MAX_LISTED, Conflict


class KeyedStore(Transactions):
    """What is in `client`, for the CA called `name` (`CaFiles.name`)."""

    callers: Final = 1
    keep_expired_s: Final = 86400.0

    @classmethod
    def create(cls, client: Keys, name: str, trust_domain: str) -> Self:
        """A new, empty one; Problem when there is something already, or it cannot be used."""
        try:
            if found := client.read(layout.ABOUT):
                of = read(found[layout.ABOUT], About, layout.ABOUT).trust_domain if layout.ABOUT in found else "?"
                raise Problem(
                    f"{client.place}: there is a CA already, of {of}: make this one below its root with `meshd ca init "
                    f"--bundle`, or {client.in_the_way}"
                )
            client.commit(
                [
                    put(layout.ABOUT, written(About(layout.FORMAT, trust_domain)), 0),
                    put(layout.SEQUENCE, written(0), 0),
                    put(layout.DENIED, denied_written(()), 0),
                    put(layout.ROOTS, written(None), 0),
                ]
            )
        except Raced as raced:
            raise Problem(
                f"{client.place}: another CA was made there at this moment: see which, and try again"
            ) from raced
        except Unreachable as error:
            raise Problem(str(error)) from error
        return cls(client, name)

    @classmethod
    def share(cls, client: Keys, name: str, trust_domain: str) -> Self:
        """The one that is there, as of `open`, or a new one where there is none."""
        try:
            exists = client.get(layout.ABOUT) is not None
        except Unreachable as error:
            raise Problem(str(error)) from error
        if not exists:
            try:
                return cls.create(client, name, trust_domain)
            except Problem as problem:
                if not isinstance(problem.__cause__, Raced):
                    raise
        return cls.open(client, name, trust_domain)

    @classmethod
    def open(cls, client: Keys, name: str, trust_domain: str) -> Self:
        """The one that is there. Problem when there is none, it is of another trust domain or a later version, or it
        cannot be used."""
        try:
            found = client.get(layout.ABOUT)
            if found is None:
                raise Problem(f"{client.place}: the CA's records are missing: restore them from a copy")
            about = read(found, About, layout.ABOUT)
        except Unreachable as error:
            raise Problem(str(error)) from error
        if about.format != layout.FORMAT:
            raise Problem(f"{client.place}: was made by another version of meshd (format {about.format})")
        if about.trust_domain != trust_domain:
            raise Problem(f"{client.place}: is of the trust domain {about.trust_domain}, and this CA of {trust_domain}")
        return cls(client, name)

    # --- certificates

    def add(self, issued: Issued, node: Node | None = None) -> int:
        def decide() -> list[Operation]:
            changes = self._issuing(issued)
            if node is not None:
                key = layout.of_node(node.name, "node")
                if (found := self._client.get(key)) is not None:
                    before = read(found, Node, key)
                    renewed = before._replace(
                        key_hash=node.key_hash, renewed_at=node.renewed_at, not_after=node.not_after
                    )
                    changes.append(put(key, written(renewed), found.index))
            return changes

        return self._change(decide)

    def issued(
        self, *, node: str = "", identity: str = "", serial: str = "", until: float = 0.0, limit: int = MAX_LISTED
    ) -> list[Issued]:
        with self._used():
            found = [
                (each.issued_at, at.index, each)
                for at, each in self._certificates(serial)
                if each.not_after > until
                and (not node or each.node == node)
                and (not identity or each.identity == identity)
            ]
        found.sort(key=lambda each: each[:2], reverse=True)
        return [each for _, _, each in found[:limit]]

    def forget_expired(self, now: float) -> None:
        with self._used():
            if not self.peers.alone("pruning"):
                return  # another CA does
            before = now - self.keep_expired_s
            every = self._certificates("")
            gone = [(layout.issued(each.serial), at.index) for at, each in every if each.not_after < before]
            for key, found in self._client.read(layout.TOKENS).items():
                if read(found, JoinToken, key).expires_at < before:
                    gone.append((key, found.index))
            for begin in range(0, len(gone), MAX_OPERATIONS):
                self._prune([remove(*each) for each in gone[begin : begin + MAX_OPERATIONS]])

        def decide() -> list[Operation] | None:
            trust, (found, keys) = self._fresh_trust(), self._jwt_keys()
            denied = tuple(each for each in trust.denied if not 0 < each.expires_at < now)
            good = [each for each in keys if each.not_after >= now]
            changes = [] if len(denied) == len(trust.denied) else [self._denied(trust, denied)]
            if len(good) < len(keys):
                changes.append(put(layout.JWT_KEYS, written(good), found.index))
            return [*changes, self._counted(trust)] if changes else None

        self._change(decide, is_audited=False)

    # --- the token that agents share

    def add_token(self, token: str, now: float) -> None:
        key = layout.shared(_token_hash(token))
        self._change(lambda: [put(key, written(now))], is_audited=False)

    def knows_token(self, token: str) -> bool:
        """By a look at one key, named by a hash of the token: how long it takes says nothing of the token."""
        with self._used():
            return self._client.get(layout.shared(_token_hash(token))) is not None

    # --- nodes, and the tokens they join with

    def add_join_token(self, token: JoinToken) -> int:
        return self._change(lambda: [put(layout.token(token.id), written(token), 0)])

    def join_token(self, token_id: str) -> JoinToken | None:
        key = layout.token(token_id)
        with self._used():
            found = self._client.get(key)
            return None if found is None else read(found, JoinToken, key)

    def join_tokens(self) -> list[JoinToken]:
        with self._used():
            found = [read(each, JoinToken, key) for key, each in self._client.read(layout.TOKENS).items()]
        return sorted(found, key=lambda each: (each.made_at, each.id))

    def revoke_join_token(self, token_id: str, now: float) -> int:
        def decide() -> list[Operation]:
            found, token = self._token(token_id)
            return [put(layout.token(token_id), written(token._replace(revoked_at=now)), found.index)]

        return self._change(decide)

    def join(self, token_id: str, node: Node, issued: Issued, entries: Sequence[Entry], now: float) -> int:
        def decide() -> list[Operation]:
            at_token, token = self._token(token_id)
            own = self._client.read(layout.of_node(node.name, ""))
            key, entries_key = layout.of_node(node.name, "node"), layout.of_node(node.name, "entries")
            at_node, at_entries = own.get(key, NOTHING), own.get(entries_key, NOTHING)
            known = read(at_node, Node, key) if at_node.index else None
            if reason := token.refuses(node.name, node.key_hash, known, now):
                raise Conflict(reason)
            again = token.is_used_by(known, node.key_hash)
            used = token if again else token._replace(used=token.used + 1)
            after = _joined(_entries(at_entries, entries_key), entries)
            return [
                put(layout.token(token_id), written(used), at_token.index),
                put(key, written(node), at_node.index),
                put(entries_key, written(after), at_entries.index),
                *self._issuing(issued),
            ]

        return self._change(decide)

    def node(self, name: str) -> Node | None:
        key = layout.of_node(name, "node")
        with self._used():
            found = self._client.get(key)
            return None if found is None else read(found, Node, key)

    def nodes(self) -> list[Node]:
        with self._used():
            found = self._client.read(layout.NODES).items()
            return sorted(read(each, Node, key) for key, each in found if key.endswith("/node"))

    # --- entries

    def add_entry(self, entry: Entry) -> int:
        key = layout.entries_for(entry.node)

        def decide() -> list[Operation]:
            found = self._client.get(key) or NOTHING
            have = _entries(found, key)
            for each in have:
                if each.workload == entry.workload:
                    raise Conflict(f"the node {entry.node} may have {entry.workload} already: entry {each.id}")
            return [put(key, written([*have, entry]), found.index)]

        return self._change(decide)

    def remove_entry(self, entry_id: str) -> int:
        def decide() -> list[Operation]:
            for key, found in self._all_entries():
                have = _entries(found, key)
                left = [each for each in have if each.id != entry_id]
                if len(left) < len(have):
                    return [put(key, written(left), found.index)]
            raise Conflict(f"there is no entry {entry_id}")

        return self._change(decide)

    def entries(self) -> list[Entry]:
        with self._used():
            found = [each for key, at in self._all_entries() for each in _entries(at, key)]
        return sorted(found, key=lambda each: (each.node, each.workload))

    def entries_of(self, node: str) -> list[Entry]:
        with self._used():
            found = self._client.read(layout.entries_for(node), layout.PATTERNS)
            every = [each for key, at in found.items() for each in _entries(at, key)]
        return sorted(
            (each for each in every if matches_node(each.node, node)), key=lambda each: (each.node, each.workload)
        )

    # --- what is denied

    def deny(self, records: Sequence[Denied]) -> int:
        def decide() -> list[Operation]:
            trust = self._fresh_trust()
            after = {(each.kind, each.value): each for each in (*records, *trust.denied)}  # what is there already stays
            known = {(each.kind, each.value) for each in trust.denied}
            added = [each for which, each in after.items() if which not in known]
            if (count := len(trust.denied) + len(added)) > MAX_DENIED:
                raise Conflict(
                    f"the deny list would have {count} records, and {MAX_DENIED} is the most that agents are sent"
                )
            return self._denying(trust, (*trust.denied, *added))

        return self._change(decide)

    def allow(self, kind: str, value: str) -> int:
        def decide() -> list[Operation]:
            trust = self._fresh_trust()
            left = tuple(each for each in trust.denied if (each.kind, each.value) != (kind, value))
            if len(left) == len(trust.denied):
                raise Conflict(f"the {kind} {value} is not denied")
            return self._denying(trust, left)

        return self._change(decide)

    def denied(self) -> DenyList:
        with self._used():
            trust = self._fresh_trust()
        return DenyList(trust.sequence, tuple(sorted(trust.denied, key=lambda each: each.made_at)))

    def sequence(self) -> int:
        with self._used():
            return read(self._there(self._client.get(layout.SEQUENCE)), int, layout.SEQUENCE)

    def renumber(self) -> None:
        """Have agents hear of the bundle again, which something other than this store has changed."""
        self._change(lambda: [self._counted(self._fresh_trust())], is_audited=False)

    # --- the change of issuer and root

    def rotation(self) -> Rotation | None:
        with self._used():
            found = self._client.get(layout.ROTATION)
            return None if found is None else read(found, Rotation, layout.ROTATION)

    def rotate(self, before: Rotation | None, after: Rotation) -> tuple[Rotation, int]:
        made = after

        def decide() -> list[Operation]:
            nonlocal made
            found, trust = self._client.get(layout.ROTATION) or NOTHING, self._fresh_trust()
            if (read(found, Rotation, layout.ROTATION) if found.index else None) != before:
                raise Conflict("the rotation is further than it was: look at `meshd ca rotate status`")
            made = after._replace(sequence=number_after(trust.sequence))
            return [
                put(layout.ROTATION, written(made), found.index),
                put(layout.SEQUENCE, written(made.sequence), trust.sequence_index),
            ]

        number = self._change(decide)
        return made, number

    def hear(self, held: Held) -> None:
        with self._used():
            self._client.commit([put(layout.of_node(held.node, "held"), written(held))])

    def held(self) -> list[Held]:
        with self._used():
            found = self._client.read(layout.NODES).items()
            return sorted(read(each, Held, key) for key, each in found if key.endswith("/held"))

    def holders(self, issued_before: float, now: float) -> list[str]:
        with self._used():
            denied = {(each.kind, each.value) for each in self._fresh_trust().denied}
            return sorted(
                {
                    each.node
                    for _, each in self._certificates("")
                    if each.issued_at < issued_before
                    and each.not_after > now
                    and each.requester != "itself"
                    and denied.isdisjoint({("serial", each.serial), ("identity", each.identity)})
                }
            )

    # --- the keys of JWT-SVIDs

    def jwt_keys(self) -> list[JwtKey]:
        with self._used():
            return sorted(self._jwt_keys()[1], key=lambda each: (each.made_at, each.kid))

    def put_jwt_key(self, before: JwtKey | None, after: JwtKey) -> int:
        def decide() -> list[Operation]:
            trust, (found, keys) = self._fresh_trust(), self._jwt_keys()
            others = [each for each in keys if each.kid != after.kid]
            if next((each for each in keys if each.kid == after.kid), None) != before:
                raise Conflict(f"the JWT key {after.kid} is another now")
            if (count := len(others) + 1) > MAX_JWT_KEYS:
                raise Conflict(f"there would be {count} JWT keys, and {MAX_JWT_KEYS} is the most that agents are sent")
            kept = put(layout.JWT_KEYS, written([*others, after]), found.index)
            return [kept, self._counted(trust)]

        return self._change(decide)

    # --- the audit log

    def next_audit(self) -> int:
        return self._change(list)

    def close(self) -> None:
        self.peers.close()
        self._client.close()

    # --- inside

    def _certificates(self, serial: str) -> Iterator[tuple[Found, Issued]]:
        """All there are, or the one with that serial number."""
        prefix = layout.issued(serial)
        for page in self._client.pages(prefix):
            for key, found in page.items():
                if not serial or key == prefix:
                    yield found, read(found, Issued, key)

    def _all_entries(self) -> list[tuple[str, Found]]:
        found = self._client.read(layout.NODES, layout.PATTERNS).items()
        return [(key, each) for key, each in found if key.endswith("/entries")]

    def _token(self, token_id: str) -> tuple[Found, JoinToken]:
        key = layout.token(token_id)
        found = self._client.get(key)
        if found is None:
            raise Conflict(f"there is no join token {token_id}")
        return found, read(found, JoinToken, key)

    def _jwt_keys(self) -> tuple[Found, list[JwtKey]]:
        found = self._client.get(layout.JWT_KEYS) or NOTHING
        return found, read(found, list[JwtKey], layout.JWT_KEYS) if found.index else []

    def _issuing(self, issued: Issued) -> list[Operation]:
        """A certificate on record, beside the deny list that it was compared with. Conflict when it is denied."""
        trust = self._trust or self._fresh_trust()
        if _denial(trust.denied, issued) is not None:
            trust = self._fresh_trust()  # what was read before may be out of date, and is not the last word
        if (found := _denial(trust.denied, issued)) is not None:
            raise Conflict(f"the {found.kind} {found.value} is denied: {found.reason}")
        taken = self.peers.taken
        return [
            *([] if taken is None else [unchanged(layout.ROOTS, taken)]),
            unchanged(layout.DENIED, trust.denied_index),
            put(layout.issued(issued.serial), written(issued), 0),
        ]

    def _prune(self, operations: Sequence[Operation]) -> None:
        try:
            self._client.commit(operations)
        except Raced:
            return  # something of it was changed: an hour later is soon enough


def _entries(found: Found, key: str) -> list[Entry]:
    return read(found, list[Entry], key) if found.index else []


def _joined(have: Sequence[Entry], new: Sequence[Entry]) -> list[Entry]:
    """Those by hand, and the new ones that are not among them."""
    kept = [each for each in have if not each.origin.startswith(NODE_ORIGIN)]
    taken = {each.workload for each in kept}
    return kept + [each for each in new if each.workload not in taken]


def _denial(denied: Sequence[Denied], issued: Issued) -> Denied | None:
    wanted = {("identity", issued.identity), ("node", issued.node)}
    return next((each for each in denied if (each.kind, each.value) in wanted), None)


def _token_hash(token: str) -> str:
    return hashed(token.encode("utf-8", "surrogatepass"))
