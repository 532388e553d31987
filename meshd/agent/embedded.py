"""The agent that `meshd run` starts for a user on a host that has none: nothing to set, and no root.

    DIRECTORY/meshd.sock    the control API         DIRECTORY/ca        a certificate authority of its own
    DIRECTORY/conf.d        documents, if any       DIRECTORY/agent.lock

Its trust domain is `mesh.local`; a mesh of several hosts needs the host's agent and a CA that they share.
"""

import asyncio
import time
from contextlib import closing
from pathlib import Path

from discovery.chain import Named
from discovery.file import FileSource
from meshd.agent.agent import Agent
from meshd.agent.certificates import Signer
from meshd.agent.daemon import heed_signals, serve
from meshd.agent.linger import Linger
from meshd.agent.listening import answers
from meshd.agent.lock import AlreadyRunning, StateLock
from meshd.agent.peer import Access
from meshd.agent.settings import host_label
from meshd.api.notify import leave_manager
from meshd.ca.local import LocalCa
from meshd.client.sockets import SOCKET_NAME

TRUST_DOMAIN = "mesh.local"

PREDECESSOR_WITHIN_S = 10.0
"""How long an agent that holds the directory may take to answer, or to end."""

LOOK_AGAIN_S = 0.02


async def run_embedded(directory: Path, linger_s: float) -> None:
    """Run until no workload has been registered for linger_s seconds, or SIGTERM. Another agent in the directory is
    what the caller wanted: then this returns at once."""
    leave_manager()  # the one that manages the `meshd run` which happened to start this agent
    ended = heed_signals()
    lock = await _lock(directory, ended)
    if lock is None:
        return
    try:
        with closing(LocalCa.at(directory / "ca", TRUST_DOMAIN)) as ca:
            await _run(directory, ca, linger_s, ended)
    finally:
        lock.release()


async def _lock(directory: Path, ended: asyncio.Event) -> StateLock | None:
    """The directory's lock; None when the agent that holds it answers, or this one is told to end. An agent that does
    not answer is just ending or starting: whoever started this one counts on there being one, so it is waited for."""
    deadline = time.monotonic() + PREDECESSOR_WITHIN_S
    while not ended.is_set():
        try:
            return StateLock(directory)
        except AlreadyRunning:
            if answers(directory / SOCKET_NAME):
                return None
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(LOOK_AGAIN_S)
    return None


async def _run(directory: Path, ca: LocalCa, linger_s: float, ended: asyncio.Event) -> None:
    documents = directory / "conf.d"
    documents.mkdir(mode=0o700, exist_ok=True)
    agent = Agent(
        node=host_label(),
        trust_domain=TRUST_DOMAIN,
        mode="embedded",
        socket=directory / SOCKET_NAME,
        state_dir=directory,
        access=Access.of((), "")[0],
        signer=Signer(ca, ca.bundle, "embedded"),
        sources=[Named("file", FileSource(documents, TRUST_DOMAIN))],
        proxy=None,
    )
    linger = Linger(agent.registry, linger_s, ended.set)
    await serve(agent, lambda: agent.reload(agent.core.access, None, ()), ended)
    linger.cancel()
