"""A workload's first certificate, and one that is renewed before its time, since the CA is about to change its root."""

import asyncio
import time

import pytest

from meshd.api.control import Certificate
from meshd.api.names import Identity, WorkloadName
from proxy.mesh import identity as module
from proxy.mesh.identity import WorkloadIdentity
from proxy.mesh.tls import NoCertificate
from tests.support import aio
from tests.support.certificates import Root, identity
from tests.support.sleeping import Clock, until
from tests.support.waiting import eventually

WEB = Identity.of("mesh.example", WorkloadName("default", "web"))


def test_only_what_is_older_is_renewed_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    root, signed = Root(), 0
    held = root.held(identity("web"), begins_s=-600.0)

    async def key(_: str) -> tuple[bytes, str]:
        return held.key_pem, "csr"

    async def sign(_: str) -> Certificate:
        nonlocal signed
        signed += 1
        begin = held.certificate.not_before if signed == 1 else time.time()
        return Certificate(held.certificate.chain_pem, begin, time.time() + 3600)

    monkeypatch.setattr(module, "_make_key", key)
    monkeypatch.setattr(module, "RETRY_MIN_S", 0.0)

    async def main() -> None:
        mine = WorkloadIdentity(WEB, {}, lambda: None)
        mine.trust(root.bundle_pem)
        renewing = asyncio.get_running_loop().create_task(mine.renew_forever(sign))
        await eventually(lambda: signed == 1, "the first certificate")
        assert mine.state().not_before == held.certificate.not_before
        mine.renew_older(held.certificate.not_before, 0.0)  # it is just not older
        for _ in range(20):
            await asyncio.sleep(0)
        assert signed == 1
        asked = held.certificate.not_before + 1
        mine.renew_older(asked, 0.0)
        await eventually(lambda: signed == 2, "the next certificate")
        mine.renew_older(asked, 0.0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert signed == 2
        assert mine.state().not_before > asked
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)

    aio.run(main())


@pytest.mark.parametrize("is_asked_for", [False, True])
def test_a_certificate_that_is_not_good_yet_waits_while_there_is_one_that_is(
    is_asked_for: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CA's clock is ahead by two hours, or this one behind: half of the peers would not believe it. One that is
    asked for before its time does not wait: what it is to replace may be worthless."""
    root, clock, signed, shown = Root(), Clock(time.time()), 0, list[tuple[float, float]]()
    held = root.held(identity("web"))
    first, second = clock.now - 70000.0, clock.now + 7140.0  # the first is due, however chance would have it

    async def key(_: str) -> tuple[bytes, str]:
        return held.key_pem, "csr"

    async def sign(_: str) -> Certificate:
        nonlocal signed
        signed += 1
        begin = first if signed == 1 else second
        if is_asked_for:
            mine.renew_older(first + 1.0, 0.0)
        return Certificate(held.certificate.chain_pem, begin, begin + 86400.0)

    def falls_asleep() -> None:
        shown.append((clock.now, mine.state().not_before))

    mine = WorkloadIdentity(WEB, {}, lambda: None)
    mine.trust(root.bundle_pem)
    monkeypatch.setattr(module, "_make_key", key)
    monkeypatch.setattr(time, "time", clock)

    work = mine.renew_forever(sign)
    aio.run(until(lambda: mine.state().not_before == second, work, clock, monkeypatch, falls_asleep))
    early = [at for at, begin in shown if begin == second and at < second]
    assert bool(early) == is_asked_for


@pytest.mark.parametrize("why", ["ended", "due", "older"])
def test_one_that_is_due_as_soon_as_it_is_there_is_not_renewed_for_ever(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This host's clock is ahead by more than two thirds of a certificate's life, or by all of it; or the CA that signs
    has one that is behind that of the CA which asks for others."""
    root, start, signed = Root(), 1e9, list[float]()
    clock, held = Clock(start), root.held(identity("web"))
    ahead_s = {"ended": 90000.0, "due": 70000.0, "older": 0.0}[why]

    async def key(_: str) -> tuple[bytes, str]:
        return held.key_pem, "csr"

    async def sign(_: str) -> Certificate:
        signed.append(clock.now)
        if why == "older":
            mine.renew_older(start + 3600.0, 0.0)
        return Certificate(held.certificate.chain_pem, clock.now - ahead_s - 60.0, clock.now - ahead_s + 86400.0)

    mine = WorkloadIdentity(WEB, {}, lambda: None)
    mine.trust(root.bundle_pem)
    monkeypatch.setattr(module, "_make_key", key)
    monkeypatch.setattr(time, "time", clock)

    aio.run(until(lambda: clock.now >= start + 600.0, mine.renew_forever(sign), clock, monkeypatch))
    assert signed[1] - signed[0] <= 1.0
    assert len(signed) <= 16


def test_the_first_is_waited_for_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Root()

    async def main() -> None:
        mine = WorkloadIdentity(WEB, {}, lambda: None)
        mine.trust(root.bundle_pem)
        wanting = asyncio.get_running_loop().create_task(mine.client_context())
        await asyncio.sleep(0)
        mine.install(root.held(identity("web")))
        assert await wanting is await mine.client_context()
        mine.withdraw()
        with pytest.raises(NoCertificate):
            await mine.client_context()
        monkeypatch.setattr(module, "FIRST_WITHIN_S", 0.01)
        with pytest.raises(NoCertificate):
            await WorkloadIdentity(WEB, {}, lambda: None).client_context()

    aio.run(main())
