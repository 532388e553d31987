"""What the CA in a cluster signs with: an issuer below a root, in the Secret `meshd-identity-issuer`.

    made      by `install`: a root for ten years and an issuer for one; the root's key is kept nowhere unless a file for
              it is named, and then it renews the issuer (`upgrade`)
    files     of a root that is elsewhere
    a Secret  that something else makes and renews, cert-manager say, in the form that has (kubernetes.io/tls); only the
              trust anchors are ours to know then

The Secret's `tls.crt` is the chain as of `meshd.ca.external`, and `tls.key` its key. The CA has it as files, and takes
what is renewed there without a restart.
"""

import os
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from meshd.api.problems import Problem
from meshd.ca import certificates, external, files, material
from meshd.ca.certificates import ISSUER_LIFE_S, ROOT_LIFE_S, KeyPair, Life
from meshd.ca.external import IssuerFiles

ISSUER_SECRET: Final = "meshd-identity-issuer"  # noqa: S105 - the name of a Secret
CHAIN_KEY: Final = "tls.crt"
PRIVATE_KEY: Final = "tls.key"


class KeyMaterial(NamedTuple):
    """PEM. `chain` and `key` are empty where something else makes the Secret."""

    anchors: str
    chain: str = ""
    key: str = ""

    def __repr__(self) -> str:
        return "KeyMaterial(…)"  # the key is for no message


def make(trust_domain: str, now: float) -> tuple[KeyMaterial, KeyPair]:
    """An issuer below a new root, and that root with its key."""
    root = certificates.make_root(trust_domain, Life.starting(now, ROOT_LIFE_S))
    return issue(trust_domain, root, now), root


def issue(trust_domain: str, root: KeyPair, now: float) -> KeyMaterial:
    """A new issuer below root."""
    until = min(now + ISSUER_LIFE_S, Life.of(root.certificate).not_after)
    issuer = certificates.make_issuer(trust_domain, root, Life(now - certificates.BACKDATE_S, until))
    assert isinstance(issuer.key, ec.EllipticCurvePrivateKey)
    chain, key = certificates.pem(issuer.certificate), certificates.key_pem(issuer.key)
    return KeyMaterial(certificates.pem(root.certificate).decode(), chain.decode(), key.decode())


def from_files(trust_domain: str, anchors: Path, issuer: IssuerFiles, now: float) -> KeyMaterial:
    """What is in the files, as it is there. Problem when one of them cannot be read or is not good now, or they do not
    fit each other."""
    return below(trust_domain, files.read(anchors).decode("ascii", "replace"), str(anchors), issuer, now)


def below(trust_domain: str, anchors: str, what: str, issuer: IssuerFiles, now: float) -> KeyMaterial:
    """The issuer in the files, below one of the anchors (PEM; messages call them `what`). Problem as there."""
    external.read(trust_domain, anchors.encode(), what, issuer, now)
    chain, key = (files.read(each).decode("ascii", "replace") for each in (issuer.chain, issuer.key))
    return KeyMaterial(anchors, chain, key)


def anchors_alone(file: Path, trust_domain: str) -> KeyMaterial:
    """The trust anchors in file, for an issuer that something else makes. Problem when there are none, or they are of
    another trust domain."""
    return KeyMaterial(external.check_bundle(files.read(file), trust_domain))


def write_root_key(file: Path, root: KeyPair) -> None:
    """The root's key, for nobody but who runs this. Problem when the file is there or cannot be written: what is there
    may be another root's key, of which there is no other copy."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError as error:
        raise Problem(f"{file}: is there already, and a root's key is never overwritten: name another file") from error
    except OSError as error:
        raise Problem(f"{file}: cannot be written: {error.strerror}") from error
    with open(descriptor, "wb") as opened:
        opened.write(certificates.key_pem(root.key))
        opened.flush()
        os.fsync(opened.fileno())


def read_root(file: Path, anchors: str, now: float) -> KeyPair:
    """The root among the anchors whose key is in file. Problem when there is none, or it is over."""
    key = material.load_key(file, None)
    for root in x509.load_pem_x509_certificates(anchors.encode()):
        if root.public_key() == key.public_key():
            if Life.of(root).not_after <= now:
                raise Problem(f"{file}: its root expired at {material.when(Life.of(root).not_after)}")
            return KeyPair(root, key)
    raise Problem(f"{file}: not the key of a root that this installation trusts")
