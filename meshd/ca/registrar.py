"""What an operator does to a CA that may be running: join tokens, entries, denials. Each change is in the audit log.

It works on the store and needs none of the CA's keys; the daemon sees each change with its next look at the store. The
counterpart on the command line is `meshd.cli.ca`.
"""

import os
import pwd
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, Literal, Self

from meshd.api.names import Identity, InvalidName, check_label
from meshd.api.problems import Misuse, Problem
from meshd.ca import certificates, material, stores
from meshd.ca.audit import AuditLog
from meshd.ca.files import CaFiles
from meshd.ca.patterns import check_node, check_workload
from meshd.ca.records import Denied, Entry, Issued, JoinToken, JwtKey, Rotation, hashed
from meshd.ca.settings import StoreSettings
from meshd.ca.source import Unreachable
from meshd.ca.store import Conflict, Store
from meshd.ca.tokens import PrintedToken, new_id

NO_JWT_KEY: Final = "there is no key of JWT-SVIDs that is not being followed by another already"

MAX_NAMED: Final = 10
"""Workloads, in a message."""

MAX_USES: Final = 10_000
LONGEST_TTL_S: Final = 30 * 86400.0
MAX_WORKLOADS: Final = 64
"""Patterns of one token: each becomes an entry of every node that joins with it."""


class Registrar:
    """Acts for `actor` on one CA's store. Problem when something cannot be done, Misuse when it cannot be meant."""

    def __init__(
        self,
        store: Store,
        audit: AuditLog,
        trust_domain: str,
        root_hash: bytes,
        actor: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store, self.trust_domain = store, trust_domain
        self._audit, self._root_hash, self._actor, self._clock = audit, root_hash, actor, clock

    @classmethod
    @contextmanager
    def at(
        cls, directory: Path, clock: Callable[[], float] = time.time, store: StoreSettings = stores.SQLITE
    ) -> Iterator[Self]:
        """For the CA in directory, on behalf of the user who runs this."""
        paths = CaFiles(directory)
        paths.check()
        trust_domain, root = material.load_root(paths)
        with closing(stores.open_store(paths, store, trust_domain)) as opened:
            root_hash = certificates.key_hash(root.public_key())
            yield cls(opened, AuditLog(paths.audit), trust_domain, root_hash, operator(), clock)

    def create_token(self, node: str, workloads: Sequence[str], uses: int, ttl_s: float) -> tuple[str, JoinToken]:
        """A new join token, as text that is nowhere else, and as it is on record."""
        _check(check_node, "--node", node)
        if not workloads:
            raise Misuse(
                "which workloads may such a node have certificates for? Name them with --workload, as in "
                "--workload default/web; for all that there are or will be, --workload '*/*'"
            )
        for workload in workloads:
            _check(check_workload, "--workload", workload)
        if len(workloads) > MAX_WORKLOADS:
            raise Misuse(f"--workload is given {len(workloads)} times, and {MAX_WORKLOADS} is the most: use patterns")
        if not 1 <= uses <= MAX_USES:
            raise Misuse(f"--uses {uses} is not from 1 to {MAX_USES}")
        printed, now = PrintedToken.new(self._root_hash), self._clock()
        token = JoinToken(
            printed.id, hashed(printed.secret), node, tuple(dict.fromkeys(workloads)), uses, 0, now, now + ttl_s
        )
        with _problems():
            self._changed("token create", self.store.add_join_token(token), described(token), node=node)
        return printed.text(), token

    def revoke_token(self, token_id: str) -> None:
        """From now on no node joins with it; those that did stay."""
        with _problems():
            self._changed("token revoke", self.store.revoke_join_token(token_id, self._clock()), f"token {token_id}")

    def add_entries(self, node: str, workloads: Sequence[str]) -> list[Entry]:
        """Let the nodes that `node` matches have certificates for each of workloads; those that they may have already
        are left out of the answer."""
        _check(check_node, "--node", node)
        for workload in workloads:
            _check(check_workload, "--workload", workload)
        have = {entry.workload for entry in self.store.entries() if entry.node == node}
        added = [
            Entry(new_id(), node, workload, "operator", self._clock())
            for workload in dict.fromkeys(workloads)
            if workload not in have
        ]
        with _problems():
            for entry in added:
                self._changed(
                    "entry add", self.store.add_entry(entry), f"entry {entry.id}: {entry.workload}", node=node
                )
        return added

    def remove_entry(self, entry_id: str) -> None:
        """Certificates that were issued because of it stay good until they expire."""
        with _problems():
            self._changed("entry remove", self.store.remove_entry(entry_id), f"entry {entry_id}")

    def deny_node(self, name: str, reason: str) -> int:
        """Sign nothing for the node any more, and have no one believe what it was given: how many certificates. Those
        follow when none can be added to them any more. Problem when there is no room for them on the deny list."""
        _check(check_label, "--node", name)
        now = self._clock()
        with _problems():
            self._deny([Denied("node", name, reason, now)], f"node {name}", reason, node=name)
            held = self.store.issued(node=name, until=now)
            if held:
                records = [
                    Denied("serial", each.serial, f"node {name}: {reason}", now, each.not_after) for each in held
                ]
                try:
                    self._deny(records, f"{len(held)} certificates of node {name}", reason, node=name)
                except Conflict as conflict:
                    raise Problem(_still_believed(name, held, str(conflict))) from conflict
        return len(held)

    def deny_identity(self, identity: Identity, reason: str) -> None:
        """Sign nothing for the identity any more, and have no one believe any certificate of it."""
        with _problems():
            self._deny([Denied("identity", str(identity), reason, self._clock())], f"identity {identity}", reason)

    def deny_serial(self, serial: str, reason: str) -> Issued:
        """Have no one believe the certificate with that serial number; what it is."""
        with _problems():
            found = self.store.issued(serial=serial)
            if not found:
                raise Conflict(f"no certificate with the serial number {serial} is on record")
            record = Denied("serial", serial, reason, self._clock(), found[0].not_after)
            self._deny([record], f"serial {serial}", reason, node=found[0].node)
        return found[0]

    def allow(self, kind: Literal["serial", "identity", "node"], value: str) -> None:
        """Withdraw a denial; a node's with those of what it was given."""
        with _problems():
            self._changed("allow", self.store.allow(kind, value), f"{kind} {value}")
            if kind == "node":
                mine = {each.serial for each in self.store.issued(node=value)}
                for each in self.store.denied().records:
                    if each.kind == "serial" and each.value in mine and each.reason.startswith(f"node {value}: "):
                        self._changed("allow", self.store.allow("serial", each.value), f"serial {each.value}")

    def rotate(
        self, what: Literal["issuer", "root"], settle_s: float, renew_within_s: float, force_after_s: float
    ) -> None:
        """Ask the CA for a new issuer, or a new root; it does so when it runs."""
        now = self._clock()
        with _problems():
            before = self.store.rotation()
            if before is not None and not before.is_over:
                raise Conflict(f"a rotation is under way already ({before.what}: {before.stage})")
            asked = Rotation(what, "asked", now, now, settle_s, renew_within_s, force_after_s)
            _, sequence = self.store.rotate(before, asked)
            self._changed(f"rotate {what}", sequence, f"{what}: asked")

    def abort_rotation(self) -> None:
        """Ask the CA to go back to the root that there was before."""
        with _problems():
            before = self.store.rotation()
            if before is None or before.is_over or before.stage in ("aborting", "reverting"):
                raise Conflict("there is no rotation that could be aborted")
            _, sequence = self.store.rotate(before, before._replace(stage="aborting", stage_at=self._clock()))
            self._changed("rotate abort", sequence, f"{before.what}: {before.stage} → aborting")

    def rotate_jwt(self, settle_s: float) -> list[str]:
        """Ask all CAs for new keys of JWT-SVIDs, published for settle_s before they sign; they do so when they run.
        Which keys (kid) are followed by others, or sign before their time."""
        now = self._clock()
        asked = []
        with _problems():
            for key in self.store.jwt_keys():
                wanted = _sooner(key, now, settle_s)
                if wanted is not None:
                    self._changed("rotate jwt", self.store.put_jwt_key(key, wanted), f"jwt key {key.kid}: asked")
                    asked.append(key.kid)
        if not asked:
            raise Problem(f"{NO_JWT_KEY}: see `meshd ca status`")
        return asked

    def _deny(self, records: Sequence[Denied], subject: str, reason: str, node: str = "") -> None:
        self._changed("revoke", self.store.deny(records), subject, node=node, reason=reason)

    def _changed(self, action: str, sequence: int, subject: str, node: str = "", reason: str = "") -> None:
        self._audit.write(
            self._clock(), sequence, action, "changed", self._actor, subject=subject, node=node, reason=reason
        )


def _sooner(key: JwtKey, now: float, settle_s: float) -> JwtKey | None:
    """The key's record when what is to follow is to follow now; None when that is under way, or over."""
    match key.state(now):
        case "signs" if key.succeed_at > now:
            return key._replace(succeed_at=now, settle_s=settle_s)
        case "published" if key.use_at > now + settle_s:
            return key._replace(use_at=now + settle_s)
        case _:
            return None


def described(token: JoinToken) -> str:
    """For the audit log: which token, and what it is good for."""
    often = "once" if token.uses == 1 else f"{token.uses} times"
    return f"token {token.id}: {often} until {material.when(token.expires_at)}, for {' '.join(token.workloads)}"


def _still_believed(name: str, held: Sequence[Issued], why: str) -> str:
    """What is left to do where a node has more certificates than can be denied one by one, and holds on to them."""
    workloads = list(dict.fromkeys(each.workload for each in held if each.workload))
    options = " ".join(f"--workload {each}" for each in workloads[:MAX_NAMED])
    more = f" and {len(workloads) - MAX_NAMED} more" if len(workloads) > MAX_NAMED else ""
    return (
        f"{why}. The node {name} is denied and gets no more certificates, but the {len(held)} that it has are still "
        f"believed, until {material.when(max(each.not_after for each in held))} at the latest. Deny its workloads, on "
        f"every node, with `meshd ca issued revoke` for each of {options}{more}; or `meshd ca rotate root` with "
        "--force-after"
    )


def _check(check: Callable[..., str], option: str, value: str) -> None:
    try:
        check(value, "the name") if check is check_label else check(value)
    except InvalidName as error:
        raise Misuse(f"{option} {error}") from error


@contextmanager
def _problems() -> Iterator[None]:
    try:
        yield
    except (Conflict, Unreachable) as error:
        raise Problem(str(error)) from error


def operator() -> str:
    """Who runs this, for the audit log."""
    uid = os.getuid()
    try:
        return f"operator {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"operator uid {uid}"
