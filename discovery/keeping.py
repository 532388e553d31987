"""What a registry said last, in a file: an agent that starts while the registry is away knows the services of before.

The file is of one registry as it is configured (`scope`): what another said is not believed. It is a help and not a
need: that it cannot be read or written is logged, and no more. What was not confirmed for `MAX_AGE_S` is left out.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from discovery.registry import Key
from meshd.api.endpoints import EndpointSet

log = logging.getLogger(__name__)

MAX_AGE_S = 7 * 24 * 3600.0
MAX_BYTES = 256 << 20

VERSION = 1


class Kept(NamedTuple):
    """What was last good of a service, and when the registry was read last."""

    good: EndpointSet
    read_at: float


class _File(msgspec.Struct, frozen=True):
    version: int
    scope: str
    services: tuple[tuple[Any, EndpointSet, float], ...]


class Keeper:
    """The file; None: nothing is kept. Times are seconds since the epoch."""

    def __init__(self, file: Path | None, scope: str) -> None:
        self._file, self._scope = file, scope

    def load(self, key: type[Key], now: float) -> dict[Key, Kept]:
        """What is kept, by keys of the type key."""
        if self._file is None:
            return {}
        try:
            with self._file.open("rb") as opened:
                file = msgspec.json.decode(opened.read(MAX_BYTES), type=_File)
            services = {msgspec.convert(name, key): Kept(good, read_at) for name, good, read_at in file.services}
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("%s: what was known before is not known: %s", self._file, error)
            return {}
        if (file.version, file.scope) != (VERSION, self._scope):
            log.info("%s: it is of another configuration, and passed over", self._file)
            return {}
        return {name: kept for name, kept in services.items() if now - MAX_AGE_S < kept.read_at <= now + MAX_AGE_S}

    def save(self, services: Iterable[tuple[Key, Kept]]) -> None:
        """Keep services, and nothing else."""
        if self._file is None:
            return
        content = _File(VERSION, self._scope, tuple((key, kept.good, kept.read_at) for key, kept in services))
        beside = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as opened:
                opened.write(msgspec.json.encode(content))
            beside.replace(self._file)
        except OSError as error:
            log.warning("%s: cannot be written: %s", self._file, error.strerror)
