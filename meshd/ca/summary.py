"""What `meshd ca status` says of a CA: its certificates and what is in its store, with none of its keys."""

from pathlib import Path
from typing import Final

from cryptography import x509
from msgspec import Struct

from meshd.api.problems import Problem
from meshd.ca import certificates, files, material
from meshd.ca.certificates import Life
from meshd.ca.files import CaFiles
from meshd.ca.records import Running
from meshd.ca.rotation import described, waits_for
from meshd.ca.store import Store

MAX_AHEAD_S: Final = 5.0
"""Of another's clock. What it said last may be some seconds old, so that one that is behind looks like that from here;
to it, this one is ahead."""


class Standing(Struct, frozen=True):
    """One CA certificate: until when it is good, and what stands in the way of its being so; empty for nothing."""

    not_before: float
    not_after: float
    trouble: str


class JwtKeyStanding(Struct, frozen=True):
    """A key of JWT-SVIDs: which CA has it, and whether it is published, signs, or is retired."""

    kid: str
    ca: str
    state: str
    use_at: float
    not_after: float


class Alive(Struct, frozen=True):
    """A CA that runs on a store that several may share; `trouble` is what it does not agree with this one about."""

    name: str
    begun_at: float
    has_root_key: bool
    trouble: str


class Summary(Struct, frozen=True):
    """Times in seconds since the epoch; `root_hash` is what join tokens name the CA by (SHA-256, hexadecimal)."""

    trust_domain: str
    store: str
    authorities: tuple[Alive, ...]
    root_hash: str
    root_key: str
    root: Standing
    issuer: Standing
    nodes: int
    tokens: int
    entries: int
    certificates: int
    denied: int
    sequence: int
    rotation: str
    jwt_keys: tuple[JwtKeyStanding, ...] = ()


def summary(paths: CaFiles, store: Store, chain: Path | None, now: float) -> Summary:
    """Of the CA in its files; `chain` is where an issuer's certificate is that is made elsewhere. Problem when its
    certificates cannot be read."""
    trust_domain, root = material.load_root(paths)
    if chain is None:
        chain = paths.issuer_chain if paths.trust_domain.exists() else paths.issuer
    denied, rotation = store.denied(), store.rotation()
    return Summary(
        trust_domain,
        store.where,
        tuple(_alive(each, paths, now) for each in (store.peers.live() if store.peers is not None else ())),
        certificates.key_hash(root.public_key()).hex(),
        "here" if paths.root_key.exists() else "elsewhere",
        _standing(root, now),
        _standing(_first(chain), now),
        nodes=len(store.nodes()),
        tokens=sum(token.state(now) == "valid" for token in store.join_tokens()),
        entries=len(store.entries()),
        certificates=len(store.issued(until=now)),
        denied=len(denied.records),
        sequence=denied.sequence,
        rotation="none" if rotation is None else described(rotation, waits_for(rotation, store, now)),
        jwt_keys=tuple(
            JwtKeyStanding(each.kid, each.ca, each.state(now), each.use_at, each.not_after)
            for each in store.jwt_keys()
            if each.not_after > now
        ),
    )


def _alive(running: Running, paths: CaFiles, now: float) -> Alive:
    trouble = ""
    if running.roots != certificates.bundle_hash(files.read(paths.bundle).decode("ascii", "replace")):
        trouble = "its trust bundle is another than the one here"
    elif running.clock > now + MAX_AHEAD_S:
        trouble = f"its clock is {running.clock - now:.0f} s ahead of the one here"
    return Alive(running.ca, running.begun_at, running.has_root_key, trouble)


def _first(file: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(files.read(file))
    except ValueError as error:
        raise Problem(f"{file}: holds no certificate (PEM)") from error


def _standing(certificate: x509.Certificate, now: float) -> Standing:
    life = Life.of(certificate)
    trouble = ""
    if now < life.not_before:
        trouble = "not good yet: is this host's clock right?"
    elif now >= life.not_after:
        trouble = "expired"
    elif life.is_due(now):
        trouble = "due for renewal"
    return Standing(life.not_before, life.not_after, trouble)
