"""What a registry said last, in a file: an agent that starts while the registry is away knows the services of before,
and the documents.

The file is of one registry as it is configured (`scope`): what another said is not believed. It is a help and not a
need: that it cannot be read or written is logged, and no more. Services that were not confirmed for `MAX_AGE_S` are
left out, for endpoints move; documents are not.
"""

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from discovery.registry import Key
from meshd.api.endpoints import EndpointSet

log = logging.getLogger(__name__)

MAX_AGE_S = 7 * 24 * 3600.0
MAX_BYTES = 256 << 20

VERSION = 1


class Kept(NamedTuple):
    """What was last good of a service, and when the registry last said it."""

    good: EndpointSet
    read_at: float


class _File(msgspec.Struct, frozen=True):
    version: int
    scope: str
    services: tuple[tuple[Any, EndpointSet, float], ...]


class _Contents(msgspec.Struct, frozen=True):
    version: int
    scope: str
    contents: dict[str, str]


F = TypeVar("F", _File, _Contents)


class Keeper:
    """The file; None: nothing is kept. Times are seconds since the epoch."""

    def __init__(self, file: Path | None, scope: str) -> None:
        self._file, self._scope = file, scope

    def load(self, key: type[Key], now: float) -> dict[Key, Kept]:
        """What is kept, by keys of the type key."""
        file = _load(self._file, _File, self._scope)
        if file is None:
            return {}
        try:
            services = {msgspec.convert(name, key): Kept(good, read_at) for name, good, read_at in file.services}
        except msgspec.MsgspecError as error:
            log.warning("%s: what was known before is not known: %s", self._file, error)
            return {}
        return {name: kept for name, kept in services.items() if now - MAX_AGE_S < kept.read_at <= now + MAX_AGE_S}

    def save(self, services: Iterable[tuple[Key, Kept]]) -> None:
        """Keep services, and nothing else."""
        content = _File(VERSION, self._scope, tuple((key, kept.good, kept.read_at) for key, kept in services))
        _save(self._file, content)


class ContentKeeper:
    """A file of documents, by their origin; None: nothing is kept."""

    def __init__(self, file: Path | None, scope: str) -> None:
        self._file, self._scope = file, scope

    def load(self) -> dict[str, bytes]:
        """What is kept."""
        file = _load(self._file, _Contents, self._scope)
        return {} if file is None else {origin: content.encode() for origin, content in file.contents.items()}

    def save(self, contents: Mapping[str, bytes]) -> None:
        """Keep contents, which are UTF-8, and nothing else."""
        texts = {origin: content.decode() for origin, content in contents.items()}
        _save(self._file, _Contents(VERSION, self._scope, texts))


def _load(file: Path | None, kind: type[F], scope: str) -> F | None:
    """What is in the file, if it is good and of that scope."""
    if file is None:
        return None
    try:
        with file.open("rb") as opened:
            found = msgspec.json.decode(opened.read(MAX_BYTES), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        log.warning("%s: what was known before is not known: %s", file, error)
        return None
    if (found.version, found.scope) != (VERSION, scope):
        log.info("%s: it is of another configuration, and passed over", file)
        return None
    return found


def _save(file: Path | None, content: _File | _Contents) -> None:
    if file is None:
        return
    beside = file.with_suffix(".new")
    try:
        file.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as opened:
            opened.write(msgspec.json.encode(content))
        beside.replace(file)
    except OSError as error:
        log.warning("%s: cannot be written: %s", file, error.strerror)
