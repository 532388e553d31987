"""A certificate source in the same process: the authority that an embedded agent holds for its user."""

import asyncio
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from meshd.api.control import Certificate
from meshd.api.names import Identity
from meshd.api.problems import Problem
from meshd.ca.authority import Authority
from meshd.ca.files import CaFiles
from meshd.ca.following import LONGEST_WAIT_S
from meshd.ca.requester import LOCAL
from meshd.ca.source import Unreachable
from meshd.ca.wire import Bundle, Renewal, Token


class LocalCa:
    """Signs with `authority`, in the caller's own time: some 0.5 ms of arithmetic and one fsync of the database."""

    def __init__(self, authority: Authority, clock: Callable[[], float] = time.time) -> None:
        self._authority, self._clock = authority, clock

    @classmethod
    def at(cls, directory: Path, trust_domain: str, clock: Callable[[], float] = time.time) -> Self:
        """The CA in directory, which is made when there is none. Problem when it cannot be had or is of another
        trust domain."""
        if not CaFiles(directory).exist():
            return cls(Authority.create(directory, trust_domain, clock(), audited=False), clock)
        authority = Authority.open(directory, clock(), audited=False)
        if authority.trust_domain != trust_domain:
            raise Problem(
                f"{directory}: the CA there is of the trust domain {authority.trust_domain}, not {trust_domain}: "
                "choose another directory"
            )
        return cls(authority, clock)

    @property
    def bundle(self) -> str:
        """The trust bundle, PEM."""
        return self._authority.bundle_pem

    async def sign(self, csr_pem: str, identity: Identity) -> Certificate:
        self._authority.maintain(self._clock())
        return self._authority.issue(csr_pem, identity, self._clock(), LOCAL)

    async def jwt(self, identity: Identity, audiences: tuple[str, ...]) -> Token:
        now = self._clock()
        try:
            self._authority.jwts.keep(now)
        except Problem as problem:
            raise Unreachable(str(problem)) from problem
        return self._authority.jwts.issue(identity, audiences, 0.0, now, LOCAL)

    async def news(self, after: int, oldest: float = 0.0) -> Bundle:  # noqa: ARG002 - it is for CAs of many hosts
        if self._authority.store.sequence() == after:
            await asyncio.sleep(LONGEST_WAIT_S)
        return self._authority.bundle()

    def trust(self, bundle_pem: str, renewal: Renewal | None = None) -> None:
        """It is in this process: there is nothing to be verified."""

    def begun(self) -> float:
        return math.inf

    async def health(self) -> None:
        self._authority.check(self._clock())

    def close(self) -> None:
        self._authority.close()
