"""SVIDs for processes: when the CA is asked for one, and what there is while it is away."""

import asyncio
import math
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import load_der_x509_certificate

from discovery.chain import Chain
from meshd.agent.certificates import NotSigned, Signer
from meshd.agent.core import Core
from meshd.agent.peer import Access
from meshd.agent.registry import Registry
from meshd.agent.trust import Trust
from meshd.agent.workload import generate
from meshd.agent.workload.svids import Svids
from meshd.api.control import Certificate
from meshd.api.names import Identity, WorkloadName
from meshd.ca import certificates
from meshd.ca.certificates import Life
from meshd.ca.source import CertificateSource, Unreachable
from meshd.ca.wire import Denial, Renewal

WEB = WorkloadName("default", "web")
ROOT = certificates.make_root("mesh.local", Life(0.0, 1e10))
HOUR = 3600.0


class Ca:
    """A certificate source whose clock is the test's; it counts, and may be away."""

    def __init__(self) -> None:
        self.now, self.asked, self.away = 1_800_000_000.0, 0, False

    async def sign(self, csr_pem: str, identity: Identity) -> Certificate:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise Unreachable("it is away")
        key = x509.load_pem_x509_csr(csr_pem.encode()).public_key()
        life = Life.starting(self.now, certificates.LEAF_LIFE_S)
        leaf = certificates.make_leaf(str(identity), key, ROOT, life)
        return Certificate(certificates.pem(leaf).decode(), life.not_before, life.not_after)


@pytest.fixture
def ca() -> Ca:
    return Ca()


@pytest.fixture
def core(ca: Ca) -> Core:
    source = cast(CertificateSource, ca)
    return Core(
        node="test",
        trust_domain="mesh.local",
        mode="host",
        registry=Registry(),
        discovery=Chain(()),
        signer=Signer(source, certificates.pem(ROOT.certificate).decode(), "ca", clock=lambda: ca.now),
        access=Access.of((), "")[0],
        troubles=lambda: (),
        clock=lambda: ca.now,
    )


def test_the_key_is_the_certificate_s(core: Core) -> None:
    svid = asyncio.run(Svids(core).get(WEB))
    key = serialization.load_der_private_key(svid.key, None)
    assert load_der_x509_certificate(svid.chain).public_key() == key.public_key()
    assert str(svid.identity) == "spiffe://mesh.local/ns/default/sa/web"


def test_processes_that_ask_at_once_have_the_ca_sign_once(ca: Ca, core: Core) -> None:
    async def main() -> int:
        svids = Svids(core)
        return len(set(await asyncio.gather(*(svids.get(WEB) for _ in range(5)))))

    assert asyncio.run(main()) == 1
    assert ca.asked == 1


def test_it_is_renewed_at_two_thirds_of_its_life_and_used_meanwhile_if_the_ca_is_away(ca: Ca, core: Core) -> None:
    svids = Svids(core, lambda least, most: 0.0)
    first = asyncio.run(svids.get(WEB))
    assert svids.due_in_s(WEB) == pytest.approx(16 * HOUR, abs=60)
    ca.now += 15.9 * HOUR
    assert asyncio.run(svids.get(WEB)) == first
    ca.away = True
    ca.now += 0.2 * HOUR
    assert asyncio.run(svids.get(WEB)) == first
    assert asyncio.run(svids.get(WEB)) == first
    assert ca.asked == 2  # a pause is kept
    ca.away = False
    ca.now += 60
    assert asyncio.run(svids.get(WEB)).serial != first.serial


@pytest.mark.parametrize("ahead_s", [20 * HOUR, 25 * HOUR])
def test_one_that_is_due_as_soon_as_it_is_there_is_not_asked_for_with_each_question(
    ahead_s: float, ca: Ca, core: Core
) -> None:
    """This host's clock is ahead of the CA's by more than two thirds of a life, or by all of it."""
    core.clock = lambda: ca.now + ahead_s
    svids = Svids(core)

    async def main() -> None:
        for _ in range(300):
            with suppress(NotSigned):
                await svids.get(WEB)
            ca.now += 1.0

    asyncio.run(main())
    assert 2 <= ca.asked <= 20


def test_one_that_expired_is_given_to_nobody(ca: Ca, core: Core) -> None:
    svids = Svids(core)
    asyncio.run(svids.get(WEB))
    ca.away = True
    ca.now += 25 * HOUR
    for _ in range(3):
        with pytest.raises(NotSigned, match="the CA is away"):
            asyncio.run(svids.get(WEB))
    assert ca.asked == 2


@pytest.mark.parametrize("kind", ["serial", "identity"])
def test_what_is_denied_is_given_to_nobody(ca: Ca, core: Core, kind: str) -> None:
    svids = Svids(core)
    first = asyncio.run(svids.get(WEB))
    value = first.serial if kind == "serial" else str(first.identity)
    core.signer.trust = Trust(1, denied=(Denial(kind, value),))  # type: ignore[arg-type]
    ca.away = True
    with pytest.raises(NotSigned):
        asyncio.run(svids.get(WEB))


def test_keys_of_workloads_that_are_no_more_are_forgotten(ca: Ca, core: Core) -> None:
    svids = Svids(core)
    first = asyncio.run(svids.get(WEB))
    svids.keep(frozenset())
    assert asyncio.run(svids.get(WEB)).serial != first.serial


def test_the_generated_messages_are_current() -> None:
    for name, text in generate.generated().items():
        assert Path(generate.HERE, name).read_text() == text


def test_one_that_is_older_than_the_ca_wants_is_renewed_before_its_time(ca: Ca, core: Core) -> None:
    svids = Svids(core, lambda least, most: most)
    assert svids.oldest() == math.inf
    first = asyncio.run(svids.get(WEB))
    assert svids.oldest() == first.not_before
    ca.now += HOUR
    core.signer.trust = Trust(renewal=Renewal(ca.now, 60.0))
    assert asyncio.run(svids.get(WEB)) == first
    assert svids.due_in_s(WEB) == 60.0
    ca.now += 60.0
    second = asyncio.run(svids.get(WEB))
    assert second.serial != first.serial
    assert svids.oldest() == second.not_before
    ca.now += 60.0
    assert asyncio.run(svids.get(WEB)) == second


def test_a_ca_whose_clock_is_behind_that_of_the_one_which_asks_for_newer_ones_is_not_asked_with_each_question(
    ca: Ca, core: Core
) -> None:
    svids = Svids(core, lambda least, most: most)

    async def main() -> None:
        first = await svids.get(WEB)
        core.signer.trust = Trust(renewal=Renewal(ca.now + 200.0, 5.0))  # all that is signed for 260 s is older
        for _ in range(300):
            await svids.get(WEB)
            ca.now += 1.0
        ca.now += 60.0
        assert (await svids.get(WEB)).not_before >= first.not_before + 260.0  # one that is not older, in the end

    asyncio.run(main())
    assert 3 <= ca.asked <= 20
