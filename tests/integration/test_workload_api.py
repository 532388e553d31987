"""The Workload API as programs meet it that know SPIFFE: its own client, in processes of several users."""

import asyncio
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from meshd.agent.agent import Agent
from meshd.agent.core import Core
from meshd.agent.trust import Trust
from meshd.agent.workload.jwts import Jwts
from meshd.agent.workload.server import MAX_CONNECTIONS_OF_A_USER, WorkloadServer
from meshd.agent.workload.svids import Svids
from meshd.api.names import WorkloadName
from meshd.ca.wire import Denial
from tests.integration.test_agent_process import Host
from tests.support import aio
from tests.support.agents import local_agent
from tests.support.cgroups import cgroups, inside
from tests.support.waiting import eventually

root = pytest.mark.skipif(os.geteuid() != 0, reason="starts processes of other users: needs root")

CLIENT = """
import json, os, sys
from spiffe import WorkloadApiClient
from spiffe.workloadapi.workload_api_client import RetryPolicy
import grpc
socket, uid, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if uid != os.geteuid():
    os.setgroups([])
    os.setuid(uid)

def said(context):
    print(json.dumps({
        'ids': [str(each.spiffe_id) for each in context.x509_svids],
        'serial': format(context.default_svid.leaf.serial_number, '032x'),
        'chain': len(context.default_svid.cert_chain),
    }), flush=True)

with WorkloadApiClient('unix://' + socket, default_timeout=60) as client:
    if what == 'fetch':
        try:
            said(client.fetch_x509_context())
        except Exception as error:
            print(json.dumps({'error': str(error)}))
    elif what == 'bundles':
        try:
            bundle = next(iter(client.fetch_x509_bundles().bundles))
            print(json.dumps({'domain': str(bundle.trust_domain.name), 'roots': len(bundle.x509_authorities)}))
        except Exception as error:
            print(json.dumps({'error': str(error)}))
    else:
        def failed(error):
            print(json.dumps({'error': str(error)}), flush=True)
        following = client.stream_x509_contexts(said, failed, retry_connect=False)
        sys.stdin.read()
        following.cancel()
"""


MANY = """
import os, socket, sys
os.setuid(65534)
opened = []
for _ in range(int(sys.argv[2])):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(sys.argv[1])
    connection.settimeout(60)
    opened.append(connection)
def is_served(connection):
    try:
        return connection.recv(9) != b''
    except ConnectionResetError:
        return False
print(sum(map(is_served, opened)))
"""


def workload(name: str, selectors: str) -> str:
    return (
        f"apiVersion: meshd.io/v1\nkind: Workload\nmetadata: {{name: {name}}}\nspec: {{selectors: {selectors}}}\n---\n"
    )


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that every user can look into, as /run/meshd is; a test's own is for its user."""
    directory = Path(tempfile.mkdtemp(prefix="meshd-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@asynccontextmanager
async def serving(
    directory: Path,
    *documents: str,
    svids: Callable[[Core], Svids] = Svids,
    jwts: Callable[[Core], Jwts] = Jwts,
) -> AsyncIterator[tuple[Agent, Path]]:
    path = directory / "workload.sock"
    (directory / "conf.d").mkdir()
    declare(directory, *documents)

    def served(core: Core) -> WorkloadServer:
        return WorkloadServer(core, path, svids(core), jwts(core))

    async with local_agent(directory, workload_api=served) as agent:
        yield agent, path


def declare(directory: Path, *documents: str) -> None:
    (directory / "conf.d" / "web.yaml").write_text("".join(documents))


def command(path: Path, what: str, uid: int | None = None) -> list[str]:
    return [sys.executable, "-c", CLIENT, str(path), str(os.geteuid() if uid is None else uid), what]


async def client(path: Path, what: str, uid: int | None = None) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(await aio.output(*command(path, what, uid)))
    return said


def following(path: Path) -> AbstractAsyncContextManager[Callable[[], Awaitable[dict[str, Any]]]]:
    """A client that follows its SVID; what is given waits for the next thing that it says."""
    return aio.speaking(*command(path, "follow"))


def test_a_process_gets_its_identity_and_what_to_check_others_with(directory: Path) -> None:
    async def main() -> None:
        async with serving(directory, workload("web", f'[{{user: "{os.geteuid()}"}}]')) as (_, path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o666
            svid, bundle = await asyncio.gather(client(path, "fetch"), client(path, "bundles"))
            assert svid["ids"] == ["spiffe://mesh.local/ns/default/sa/web"]
            assert svid["chain"] == 2
            assert bundle == {"domain": "mesh.local", "roots": 1}
            assert (await client(path, "fetch"))["serial"] == svid["serial"]
        assert not path.exists()

    aio.run(main())


@root
def test_two_users_get_two_identities_and_a_third_none(directory: Path) -> None:
    async def main() -> None:
        documents = (workload("web", "[{user: nobody}]"), workload("db", "[{user: daemon}, {unit: db.service}]"))
        async with serving(directory, *documents) as (_, path):
            nobody, daemon, me, bundles = await asyncio.gather(
                client(path, "fetch", 65534), client(path, "fetch", 1), client(path, "fetch"), client(path, "bundles")
            )
        assert nobody["ids"] == ["spiffe://mesh.local/ns/default/sa/web"]
        assert daemon["ids"] == ["spiffe://mesh.local/ns/default/sa/db"]
        for refused in (me, bundles):
            assert "PERMISSION_DENIED" in refused["error"]
            assert "no Workload document selects this process: pid" in refused["error"]
            assert "user root" in refused["error"]

    aio.run(main())


@root
def test_units_of_a_host_get_identities_from_its_agent_and_its_ca(tmp_path: Path) -> None:
    """Two processes that differ in nothing but their unit, and one of a unit that no document names."""
    host = Host(tmp_path)
    (host.documents / "units.yaml").write_text(
        "".join(workload(name, f"[{{unit: {name}.service}}]") for name in ("web", "db"))
    )
    path = tmp_path / "workload.sock"  # beside the control socket, unless the settings say otherwise

    async def ask(group: Path) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(await aio.output(*inside(group, *command(path, "fetch"))))
        return said

    async def main(groups: list[Path]) -> list[dict[str, Any]]:
        return list(await asyncio.gather(*map(ask, groups)))

    with cgroups("web.service", "db.service", "other.service") as groups, host.ca_serves(), host.agent():
        web, db, other = aio.run(main(groups))
    assert web["ids"] == ["spiffe://prod.example/ns/default/sa/web"]
    assert db["ids"] == ["spiffe://prod.example/ns/default/sa/db"]
    assert "PERMISSION_DENIED" in other["error"]
    assert "unit other.service" in other["error"]
    assert "no identity: no Workload document selects this process" in host.logged()


def test_a_process_that_is_two_workloads_is_none(directory: Path) -> None:
    async def main() -> None:
        mine = f'[{{user: "{os.geteuid()}"}}]'
        async with serving(directory, workload("a", mine), workload("b", mine)) as (_, path):
            refused = await client(path, "fetch")
        assert "more than one Workload document selects this process" in refused["error"]

    aio.run(main())


def test_a_rotation_is_followed(directory: Path) -> None:
    """Those here are due as soon as they are made."""

    async def main() -> None:
        mine = workload("web", f'[{{user: "{os.geteuid()}"}}]')
        async with (
            serving(directory, mine, svids=lambda core: Svids(core, lambda least, most: -1.0)) as (_, path),
            following(path) as said,
        ):
            seen = [await said() for _ in range(3)]
        assert {each["ids"][0] for each in seen} == {"spiffe://mesh.local/ns/default/sa/web"}
        assert len({each["serial"] for each in seen}) == 3

    aio.run(main())


def test_what_the_ca_denies_is_replaced_at_once(directory: Path) -> None:

    async def main() -> None:
        async with (
            serving(directory, workload("web", f'[{{user: "{os.geteuid()}"}}]')) as (agent, path),
            following(path) as said,
        ):
            first = await said()
            agent.core.signer.trust = Trust(1, denied=(Denial("serial", first["serial"]),))
            agent.core.changed()
            second = await said()
            assert second["ids"] == first["ids"]
            assert second["serial"] != first["serial"]

    aio.run(main())


def test_a_stream_ends_when_documents_select_its_process_no_more(directory: Path) -> None:
    async def main() -> None:
        mine = workload("web", f'[{{user: "{os.geteuid()}"}}]')
        async with serving(directory, mine) as (agent, path), following(path) as said:
            await said()
            declare(directory, workload("web", "[{unit: web.service}]"))
            await eventually(lambda: agent.core.selectors[WorkloadName("default", "web")][0].unit, "it is read")
            assert "PERMISSION_DENIED" in (await said())["error"]

    aio.run(main())


@root
def test_one_user_s_connections_leave_room_for_others(directory: Path) -> None:
    async def main() -> None:
        async with serving(directory, workload("web", f'[{{user: "{os.geteuid()}"}}]')) as (_, path):
            argv = [sys.executable, "-c", MANY, str(path), str(MAX_CONNECTIONS_OF_A_USER + 10)]
            assert int(await aio.output(*argv)) == MAX_CONNECTIONS_OF_A_USER
            assert "ids" in await client(path, "fetch")

    aio.run(main())


@pytest.mark.parametrize(
    ("path", "metadata", "message", "code"),
    [
        ("/SpiffeWorkloadAPI/FetchX509SVID", (), b"", grpc.StatusCode.INVALID_ARGUMENT),
        ("/SpiffeWorkloadAPI/FetchX509SVID", (("workload.spiffe.io", "True"),), b"", grpc.StatusCode.INVALID_ARGUMENT),
        ("/SpiffeWorkloadAPI/Nothing", (("workload.spiffe.io", "true"),), b"", grpc.StatusCode.UNIMPLEMENTED),
        (
            "/SpiffeWorkloadAPI/FetchX509SVID",
            (("workload.spiffe.io", "true"),),
            b"\xff",
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (
            "/SpiffeWorkloadAPI/FetchX509SVID",
            (("workload.spiffe.io", "true"),),
            bytes(100_000),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        ),
    ],
)
def test_calls_that_are_refused(
    directory: Path, path: str, metadata: tuple[tuple[str, str], ...], message: bytes, code: grpc.StatusCode
) -> None:
    def call(at: Path) -> grpc.StatusCode:
        with grpc.insecure_channel(f"unix://{at}") as channel, pytest.raises(grpc.RpcError) as refused:
            list(channel.unary_stream(path)(message, metadata=metadata, timeout=60))
        found: grpc.StatusCode = refused.value.code()
        return found

    async def main() -> None:
        async with serving(directory, workload("web", f'[{{user: "{os.geteuid()}"}}]')) as (_, at):
            assert await asyncio.to_thread(call, at) == code

    aio.run(main())
