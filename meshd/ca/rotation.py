"""One issuer after another, and one root after another with no failed request: which stage follows which, and when.

    issuer   asked → done                        below the same root: peers need nothing new
    root     asked → prepared                    the new root is in the bundle, and signs nothing
             prepared → active                   a new issuer below it signs; certificates from before are to be renewed
             active → done                       the old root has left the bundle
             aborting → aborted                  the new root has left the bundle, having signed nothing
             aborting → reverting → aborted      … once what it has signed is renewed in its turn

What a stage waits for are nodes: that they have its bundle, and hold nothing older. They say so as they wait for news
(`meshd.ca.api`). Whose certificates say of no node are waited for until they expire. The operator asks
(`meshd.ca.registrar`) and the daemon does, since it has the keys; each step changes files first, then what is signed
with, then the record, and may be interrupted between any two: it is then done again, and what is done already stays.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from meshd.ca import certificates, material, roots
from meshd.ca.certificates import Life
from meshd.ca.files import CaFiles
from meshd.ca.material import Material
from meshd.ca.records import Held, Node, Rotation, Running, Stage
from meshd.ca.sharing import APART_S
from meshd.ca.store import Peers, Store

UNKNOWN: Final = "hosts that did not say which they are, until their certificates expire"

MAX_NAMED: Final = 10

BETWEEN_CAS_S: Final = 10.0
"""How much later than the one that leads others may have signed as before: the store's calls until that cannot be."""

ON_ITS_WAY_S: Final = 5.0
"""How long after a stage began there may still be signatures of what signed before it: a request that was being looked
at then."""


class Step(NamedTuple):
    """What to sign with from now on, and what is then to be on record."""

    own: Material
    rotation: Rotation


def missing(
    rotation: Rotation,
    nodes: Sequence[Node],
    held: Mapping[str, Held],
    holders: Collection[str],
    denied: Collection[str],
    now: float,
) -> tuple[str, ...]:
    """Who has not done yet what this stage waits for: names of nodes, and UNKNOWN. `holders` have certificates from
    before the stage, `denied` are nodes that are revoked and so wait for nothing."""
    waited = set(holders)
    if rotation.stage == "prepared":
        waited |= {node.name for node in nodes if node.not_after > now}
    late = [name for name in sorted(waited - set(denied)) if not _has_done(rotation, held.get(name))]
    return tuple(name or UNKNOWN for name in late)


def late(rotation: Rotation, peers: Peers | None) -> tuple[str, ...]:
    """The other CAs that run and have not done yet what this stage waits for; nothing where there are none."""
    found, _ = peers.roots() if peers is not None else (None, 0)
    if found is None or peers is None:
        return ()
    signs, *others = map(roots.key_hash, roots.read_certificates(found.bundle_pem, "the roots"))
    bundle = certificates.bundle_hash(found.bundle_pem)

    def is_late(running: Running) -> bool:
        if running.has_root_key:
            return False  # it is the one that does all this
        if rotation.what == "issuer":
            return running.issuer_since < rotation.begun_at - APART_S
        if rotation.stage == "prepared":
            return running.roots != bundle or running.ready_for not in others
        return running.roots != bundle or running.issuer != signs

    return tuple(f"the CA {each.ca}" for each in peers.live() if is_late(each))


def waits_for(rotation: Rotation, store: Store, now: float) -> tuple[str, ...]:
    """`missing` and `late`, as the store knows it; nothing where the stage waits for no one. Unreachable."""
    if (rotation.what, rotation.stage) == ("issuer", "asked"):
        return late(rotation, store.peers)
    if rotation.stage not in ("prepared", "active", "reverting"):
        return ()
    denied = {each.value for each in store.denied().records if each.kind == "node"}
    held = {each.node: each for each in store.held()}
    on_its_way_s = ON_ITS_WAY_S if store.peers is None else ON_ITS_WAY_S + BETWEEN_CAS_S
    holders = store.holders(rotation.stage_at + on_its_way_s, now)
    return late(rotation, store.peers) + missing(rotation, store.nodes(), held, holders, denied, now)


def described(rotation: Rotation, waiting: Sequence[str]) -> str:
    """For people, in a line."""
    text = f"{rotation.what}: {rotation.stage} since {material.when(rotation.stage_at)}"
    if waiting:
        more = f" and {len(waiting) - MAX_NAMED} more" if len(waiting) > MAX_NAMED else ""
        text += f", waits for {', '.join(waiting[:MAX_NAMED])}{more}"
    return text


def step(paths: CaFiles, store: Store, own: Material, rotation: Rotation, now: float) -> Step | None:
    """Do what is due, in the files; None when nothing is. Problem or Unreachable when it cannot be done now."""
    match rotation.what, rotation.stage:
        case "issuer", "asked" if not late(rotation, store.peers):
            return _entering(rotation, "done", material.renew_issuer(paths, own, now), now)
        case "issuer", "aborting":
            return _entering(rotation, "aborted", own, now)
        case "root", "asked":
            return _entering(rotation, "prepared", material.prepare_root(paths, own, now), now)
        case "root", "prepared" if _may_go_on(rotation, store, now):
            return _changed(rotation, "active", material.change_root(paths, own, now), store, now)
        case "root", "aborting" if paths.root_next.exists() and _has_signed(paths, own):
            return _changed(rotation, "reverting", material.change_root(paths, own, now, back=True), store, now)
        case "root", "aborting":
            return _entering(rotation, "aborted", material.withdraw_root(paths, own, now), now)
        case "root", "active" | "reverting" if _may_go_on(rotation, store, now):
            last: Stage = "done" if rotation.stage == "active" else "aborted"
            return _entering(rotation, last, material.withdraw_root(paths, own, now), now)
    return None


def _has_signed(paths: CaFiles, own: Material) -> bool:
    """Whether the root in `root.next` is the one that signs."""
    return material.load_next(paths) == own.root


def _has_done(rotation: Rotation, held: Held | None) -> bool:
    if held is None or held.sequence < rotation.sequence:
        return False
    return rotation.stage == "prepared" or held.oldest >= rotation.issued_before


def _may_go_on(rotation: Rotation, store: Store, now: float) -> bool:
    lasted_s = now - rotation.stage_at
    if lasted_s < rotation.settle_s:
        return False
    is_forced = 0 < rotation.force_after_s <= lasted_s
    return is_forced or not waits_for(rotation, store, now)


def _entering(rotation: Rotation, stage: Stage, own: Material, now: float) -> Step:
    return Step(own, rotation._replace(stage=stage, stage_at=now))


def _changed(rotation: Rotation, stage: Stage, own: Material, store: Store, now: float) -> Step:
    """Whatever was signed before its issuer was made is below the other root; times in certificates are whole seconds,
    and a signature may have been on its way. Other CAs change with the publication that follows, by clocks of their
    own: some of what they sign after it is renewed once more."""
    issued_before = Life.of(own.issuer.certificate).not_before + 2.0
    if store.peers is not None:
        ahead_s = max((each.clock - now for each in store.peers.live()), default=0.0)
        issued_before = max(issued_before, now - certificates.BACKDATE_S + BETWEEN_CAS_S + max(ahead_s, 0.0))
    return _entering(rotation._replace(issued_before=issued_before), stage, own, now)
