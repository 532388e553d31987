"""An agent inside the test, with a certificate authority of its own."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from discovery.chain import Named
from discovery.file import FileSource
from meshd.agent.agent import Agent, WorkloadService
from meshd.agent.certificates import Signer
from meshd.agent.core import Core
from meshd.agent.peer import Access
from meshd.agent.settings import CaptureSettings, ProxySettings
from meshd.ca.local import LocalCa


@asynccontextmanager
async def local_agent(
    directory: Path,
    proxy: ProxySettings | None = None,
    access: Access | None = None,
    workload_api: Callable[[Core], WorkloadService] | None = None,
    capture: CaptureSettings = CaptureSettings(enabled=False),  # noqa: B008 - frozen
) -> AsyncIterator[Agent]:
    """An agent that answers at directory/meshd.sock and follows directory/conf.d; with `proxy`, a host's. Only root and
    the test's own user may use it, unless `access` says otherwise."""
    documents = directory / "conf.d"
    documents.mkdir(exist_ok=True)
    ca = LocalCa.at(directory / "ca", "mesh.local")
    agent = Agent(
        node="test",
        trust_domain="mesh.local",
        mode="embedded" if proxy is None else "host",
        socket=directory / "meshd.sock",
        state_dir=directory,
        access=access or Access.of((), "")[0],
        signer=Signer(ca, ca.bundle, "embedded"),
        sources=[Named("file", FileSource(documents, "mesh.local"))],
        proxy=proxy,
        workload_api=workload_api,
        capture=capture,
    )
    await agent.start()
    try:
        yield agent
    finally:
        await agent.stop()
        ca.close()
