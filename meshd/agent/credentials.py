"""What this host knows the CA by, and the CA this host: the files that the settings name, or that joining left.

Apart from the settings themselves (`meshd.agent.settings_file`), which much reads that has nothing to do with the CA.
"""

from pathlib import Path
from typing import NamedTuple

from meshd.agent import node
from meshd.agent.clock import TrustPeriod
from meshd.agent.settings import Settings
from meshd.api.loading import ConfigurationError, Finding
from meshd.api.names import Identity
from meshd.api.problems import Problem


def read_bundle(settings: Settings, file: str) -> str:
    """The trust bundle that the settings name, PEM."""
    text = _read(Path(settings.ca.bundle), file, "ca.bundle", "copy bundle.pem of the CA there")
    try:
        TrustPeriod(text)
    except ValueError as error:
        message = "holds no certificates (PEM): copy bundle.pem of the CA there"
        raise ConfigurationError([Finding(settings.ca.bundle, message)]) from error
    return text


class Proof(NamedTuple):
    """What this host proves itself to the CA with: the token that agents share, or the file with the certificate that
    it joined with, whose serial number tells it from another in the same file."""

    token: str = ""
    node: Path | None = None
    serial: int = 0


def read_proof(settings: Settings, file: str) -> Proof:
    """By what the CA knows this host: the token where `ca.tokenFile` says so, else what it joined with."""
    joined = Path(settings.state_dir, node.FILE_NAME)
    try:
        if settings.ca.token_file or not node.exists(joined):
            return Proof(token=_token(settings, file))
        found = node.read(joined)
    except Problem as problem:
        raise ConfigurationError([Finding(file, str(problem), "stateDir")]) from problem
    if found is None or found.certificate is None:
        message = f"{joined}: holds no certificate yet: joining was interrupted: run `meshd join` again"
        raise ConfigurationError([Finding(file, message, "stateDir")])
    expected, identity = (
        Identity.of_host(settings.trust_domain, settings.node_name),
        node.identity_of(found.certificate),
    )
    if identity != expected:
        message = (
            f"{joined}: this host joined as {identity}, and the settings make it {expected}: correct them, or join"
        )
        raise ConfigurationError([Finding(file, message, "node")])
    return Proof(node=joined, serial=found.certificate.serial_number)


def _token(settings: Settings, file: str) -> str:
    path = Path(settings.ca.token_file or Path(settings.state_dir, "ca.token"))
    advice = "join this host with `meshd join`, or copy agent.token of the CA there, readable by this user alone"
    token = _read(path, file, "ca.tokenFile", advice).strip()
    if not token:
        raise ConfigurationError([Finding(str(path), "is empty: copy agent.token of the CA there")])
    return token


def _read(path: Path, file: str, setting: str, advice: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ConfigurationError([Finding(file, f"{path}: cannot be read: {reason}: {advice}", setting)]) from error
