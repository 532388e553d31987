"""What `meshd ca status` says of a CA: its certificates and what is in its store, with none of its keys."""

from pathlib import Path

from cryptography import x509
from msgspec import Struct

from meshd.api.problems import Problem
from meshd.ca import certificates, files, material
from meshd.ca.certificates import Life
from meshd.ca.files import CaFiles
from meshd.ca.rotation import described, waits_for
from meshd.ca.store import Store


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


class Summary(Struct, frozen=True):
    """Times in seconds since the epoch; `root_hash` is what join tokens name the CA by (SHA-256, hexadecimal)."""

    trust_domain: str
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
