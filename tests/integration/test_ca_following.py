"""What is revoked is known to every agent within seconds: the bundle with what is denied, and those who wait for it."""

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509

from meshd.api.names import Address
from meshd.api.tasks import Tasks
from meshd.ca import certificates
from meshd.ca.authority import Authority
from meshd.ca.following import Following
from meshd.ca.local import LocalCa
from meshd.ca.registrar import Registrar
from meshd.ca.server import CaServer
from meshd.ca.settings import CaDaemonSettings, LimitSettings
from meshd.ca.source import Forbidden
from meshd.ca.wire import Denial
from tests.support import aio
from tests.support.authorities import TOKEN, TRUST_DOMAIN, WEB, client, served
from tests.support.csr import csr
from tests.support.waiting import eventually


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    with closing(Authority.create(tmp_path / "ca", TRUST_DOMAIN, time.time(), TOKEN)) as made:
        yield made


def revoke_serial(directory: Path, serial: str) -> None:
    """As another process does, beside the daemon."""
    with Registrar.at(directory) as registrar:
        registrar.deny_serial(serial, "stolen")


def test_who_waits_hears_of_a_revocation_at_once(authority: Authority, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(authority) as server:
            source = client(server, authority.bundle_pem)
            signed = await source.sign(csr(), WEB)
            serial = certificates.serial(x509.load_pem_x509_certificate(signed.chain_pem.encode()))
            before = authority.bundle()
            assert before.denied == ()
            waiting = asyncio.ensure_future(source.news(before.sequence))  # noqa: TID251 - ended below
            await asyncio.sleep(0)
            await asyncio.to_thread(revoke_serial, tmp_path / "ca", serial)
            news = await waiting
            assert news.sequence != before.sequence
            assert [(each.kind, each.value) for each in news.denied] == [("serial", serial)]
            assert news.denied[0].expires_at == pytest.approx(signed.not_after, abs=1)

    aio.run(main())


def test_what_is_denied_is_refused_from_then_on_and_allowed_again(authority: Authority, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(authority) as server:
            source = client(server, authority.bundle_pem)
            await source.sign(csr(), WEB)
            with Registrar.at(tmp_path / "ca") as registrar:
                registrar.deny_identity(WEB, "leaked")
                with pytest.raises(Forbidden, match=f"the identity {WEB} is denied: leaked"):
                    await source.sign(csr(), WEB)
                assert (await source.news(0)).denied == (Denial("identity", str(WEB)),)
                registrar.allow("identity", str(WEB))
            await source.sign(csr(), WEB)

    aio.run(main())


@pytest.mark.parametrize("query", ["after=x&wait=1", "after=-1&wait=1", "after=0&wait=1.5", "after=0&wait=" + "9" * 20])
def test_what_is_no_number_is_refused(authority: Authority, query: str) -> None:
    async def main() -> None:
        async with served(authority) as server, aiohttp.ClientSession() as http:
            url = f"https://{server.address}/v1/bundle?{query}"
            async with http.get(url, ssl=False) as response:
                assert response.status == 400
                assert "is not a whole number" in (await response.json())["error"]

    aio.run(main())


def test_who_waits_at_a_ca_that_ends_is_answered(authority: Authority) -> None:
    """And told to come again, rather than kept until it is cut off."""

    async def main() -> None:
        async with served(authority) as server:
            source = client(server, authority.bundle_pem)
            sequence = (await source.news(0)).sequence
            waiting = asyncio.ensure_future(source.news(sequence))  # noqa: TID251 - ended below
            await eventually(lambda: server.waiting == 1, "it waits")
        news = await waiting
        assert (news.sequence, news.again_s > 0) == (sequence, True)

    aio.run(main())


def test_strangers_do_not_wait(authority: Authority) -> None:
    """Who proves nothing has the bundle at once: places to wait are for the mesh."""

    async def main() -> None:
        async with served(authority) as server, aiohttp.ClientSession() as http:
            async with asyncio.timeout(60):
                url = f"https://{server.address}/v1/bundle?after={authority.store.sequence()}&wait=600"
                async with http.get(url, ssl=False) as response:
                    assert response.status == 200

    aio.run(main())


def test_above_its_bound_no_one_more_waits(authority: Authority) -> None:
    async def main() -> None:
        following = Following(authority.store, max_waiting=1)
        now = authority.store.sequence()
        first = asyncio.ensure_future(following.newer(now, 600))  # noqa: TID251 - ended below
        await asyncio.sleep(0)
        async with asyncio.timeout(60):
            assert await following.newer(now, 600) > 0
            assert await following.newer(now - 1, 600) == 0  # there is news for this one
        assert not first.done()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        async with asyncio.timeout(60):
            await following.newer(now, 0.01)  # its place is free again

    aio.run(main())


def test_who_waits_is_let_go_when_the_store_cannot_be_looked_at_any_more(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And may ask another CA, which can look."""
    monkeypatch.setattr("meshd.ca.following.LONGEST_WAIT_S", 3600.0)

    async def main() -> None:
        following = Following(authority.store, max_waiting=1, look_every_s=0.01)
        tasks = Tasks("test")
        waiting = tasks.start(following.newer(authority.store.sequence(), 3600.0), "waiting")
        await eventually(lambda: following.waiting == 1, "it waits")
        with closing(sqlite3.connect(tmp_path / "ca" / "ca.db")) as database:
            database.execute("DROP TABLE counters")
        tasks.start(following.run(), "following")
        await eventually(waiting.done, "it is let go", 60.0)
        await tasks.cancel()

    aio.run(main(), 120.0)


def test_how_many_may_wait_is_a_setting_and_the_others_hear_of_what_is_new_all_the_same(
    authority: Authority, tmp_path: Path
) -> None:
    async def main() -> None:
        none = CaDaemonSettings(LimitSettings(waiting=0))
        server = CaServer(authority, Address("127.0.0.1", 0), settings=none)
        await server.start()
        try:
            source, now = client(server, authority.bundle_pem), authority.store.sequence()
            async with asyncio.timeout(60):
                while (news := await source.news(now)).bundle_pem:  # until it has looked for the first time
                    await asyncio.sleep(0.05)
                assert news.sequence == now
                assert news.again_s > 0
                with Registrar.at(tmp_path / "ca") as registrar:
                    registrar.deny_node("vm1", "stolen")
                while (news := await source.news(now)).sequence == now:
                    await asyncio.sleep(0.05)
            assert (news.again_s, news.bundle_pem) == (0, authority.bundle_pem)
            assert news.denied == (Denial("node", "vm1"),)
        finally:
            await server.stop()

    aio.run(main())


def test_an_agent_with_a_ca_of_its_own_follows_it_too(authority: Authority) -> None:
    async def main() -> None:
        local = LocalCa(authority)
        assert (await local.news(-1)).trust_domain == TRUST_DOMAIN

    aio.run(main())
