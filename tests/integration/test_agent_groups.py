"""The host's proxy asks who calls: a real agent, and control groups of the kernel's."""

import os
from pathlib import Path

from meshd.agent.peer import Access
from meshd.agent.settings import CaptureSettings, ProxySettings
from meshd.api.control import Attach, Caller, IdentifyCaller, ProxyConfiguration, Refused, RegisterWorkload
from tests.support import aio
from tests.support.agents import local_agent
from tests.support.cgroups import cgroups
from tests.support.control import ControlClient
from tests.support.ports import free_port

DOCUMENT = """
apiVersion: meshd.io/v1
kind: Workload
metadata: {name: web}
spec:
  ports: [{port: 8080}]
  selectors: [{cgroup: %s}]
"""


RUN = RegisterWorkload("f" * 32, "default", "web", (), (), "127.0.0.1:40001", "127.0.0.1:40002", "", 4711)


def proxy() -> ProxySettings:
    return ProxySettings(outbound=f"127.0.0.1:{free_port()}", inbound=f"127.0.0.1:{free_port()}", admin="")


def path(group: Path) -> str:
    """How the kernel calls it, whose directory is at group."""
    return f"/{group.parent.name}/{group.name}"


def test_the_hosts_proxy_is_told_who_calls(tmp_path: Path) -> None:
    async def main(web: int, other: int) -> None:
        async with local_agent(tmp_path, proxy(), capture=CaptureSettings(enabled=True)):
            client = await ControlClient.connect(tmp_path / "meshd.sock")
            configuration = await client.call(Attach("0.1"))
            assert isinstance(configuration, ProxyConfiguration)
            assert configuration.capture is not None
            assert await client.call(IdentifyCaller(web, 0)) == Caller("default/web")
            stranger = await client.call(IdentifyCaller(other, 0))
            assert isinstance(stranger, Caller)
            assert stranger.workload == ""
            assert "no Workload document selects this process" in stranger.reason
            await client.close()

    with cgroups("web.service", "other.service") as (web, other):
        (tmp_path / "conf.d").mkdir()
        (tmp_path / "conf.d" / "web.yaml").write_text(DOCUMENT % path(web))
        aio.run(main(web.stat().st_ino, other.stat().st_ino))


def test_nobody_else_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        declares = Access(frozenset((os.geteuid(),)), frozenset())
        async with local_agent(tmp_path, proxy(), declares):
            client = await ControlClient.connect(tmp_path / "meshd.sock")
            not_attached = await client.call(IdentifyCaller(4711, 0))
            assert isinstance(not_attached, Refused)
            assert not_attached.reason == "attach first"
            await client.close()
            run = await ControlClient.connect(tmp_path / "meshd.sock")
            await run.call(RUN)
            assert isinstance(await run.call(Attach("0.1", RUN.instance)), ProxyConfiguration)
            told = await run.call(IdentifyCaller(4711, 0))
            assert isinstance(told, Refused)
            assert told.reason == "only the host's proxy is told who calls"
            await run.close()

    aio.run(main())


def test_nothing_is_captured_where_it_is_set_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with local_agent(tmp_path, proxy(), capture=CaptureSettings(enabled=False)):
            client = await ControlClient.connect(tmp_path / "meshd.sock")
            configuration = await client.call(Attach("0.1"))
            assert isinstance(configuration, ProxyConfiguration)
            assert configuration.capture is not None
            assert configuration.capture.idle
            await client.close()

    aio.run(main())
