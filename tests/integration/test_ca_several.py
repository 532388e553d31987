"""Several CA daemons on one Consul: one may be lost, and what happens once happens once. Real programs throughout."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import jwt as pyjwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from meshd.api.control import Certificate
from meshd.api.names import Identity, WorkloadName
from meshd.ca import certificates, jwt
from meshd.ca.failover import Failover
from meshd.ca.source import Forbidden, Refusal, Unreachable
from meshd.ca.wire import Token
from tests.support import aio
from tests.support.cas import TRUST_DOMAIN, CaHost, several
from tests.support.consul import Consul, agent, cluster
from tests.support.csr import csr
from tests.support.metrics import samples
from tests.support.waiting import eventually, wait_until

pytestmark = pytest.mark.peer("consul")

WEB = Identity.of(TRUST_DOMAIN, WorkloadName("default", "web"))
WAIT_S = 60.0


@pytest.fixture(scope="module")
def consul() -> Iterator[Consul]:
    with agent() as started:
        yield started


def joined(host: CaHost, name: str, directory: Path) -> Path:
    """The file with key and certificate of a node that has joined through that CA."""
    token = host.says("token", "create", "--node", name, "--workload", "default/*").strip()
    key = certificates.new_key()
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    pem = request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    member = aio.run(host.client(token).join(pem, name))
    file = directory / f"{name}.pem"
    file.write_bytes(certificates.key_pem(key) + member.chain_pem.encode())
    return file


def serial(signed: Certificate) -> str:
    return certificates.serial(x509.load_pem_x509_certificate(signed.chain_pem.encode()))


def test_renewals_go_on_while_one_ca_after_the_other_is_killed(consul: Consul, tmp_path: Path) -> None:
    hosts = several(consul, tmp_path, 3)
    first, second, third = hosts

    async def renews(source: Failover, signed: list[Certificate], until: asyncio.Event) -> None:
        while not until.is_set():
            signed.append(await source.sign(csr(), WEB))

    async def main(node: Path) -> list[Certificate]:
        sources = [Failover([host.client(certificate=node) for host in order]) for order in (hosts, hosts[::-1])]
        signed: list[Certificate] = []
        ended = asyncio.Event()
        tasks = [asyncio.get_running_loop().create_task(renews(source, signed, ended)) for source in sources * 2]
        for lost in (first, second):
            before = len(signed)
            await eventually(lambda least=before + 10: len(signed) >= least, "certificates are signed", WAIT_S)  # type: ignore[misc]
            lost.kill()
        before = len(signed)
        await eventually(lambda: len(signed) >= before + 10, "certificates are signed by the last one", WAIT_S)
        ended.set()
        await asyncio.gather(*tasks)
        return signed

    with ExitStack() as stack:
        for host in hosts:
            stack.enter_context(host.serves())
        wait_until(lambda: len(alive(third)) == 3, "all see each other", WAIT_S)
        signed = aio.run(main(joined(first, "vm1", tmp_path)), 120.0)
        on_record = {each["serial"] for each in json.loads(third.says("issued", "list", "-o", "json"))}
        assert {serial(each) for each in signed} <= on_record
        wait_until(lambda: alive(third) == [third.name], "the lost ones are known to be", WAIT_S)
        stack.enter_context(first.serves())
        wait_until(lambda: sorted(alive(third)) == sorted([first.name, third.name]), "one is back", WAIT_S)


def alive(host: CaHost) -> list[str]:
    """Those that are; whatever is said of how well (by which the command's exit status is 1)."""
    said = host.meshd("status", "-o", "json").stdout
    return [each["name"] for each in json.loads(said)["authorities"]] if said else []


def test_a_token_for_one_is_good_once_at_two_cas_at_one_moment(consul: Consul, tmp_path: Path) -> None:
    first, second = several(consul, tmp_path)

    # those that come together to one CA are stored together, and one of them loses to the other CA
    async def outcome(call: Awaitable[object]) -> str:
        try:
            await call
        except Refusal as refusal:
            return str(refusal)
        return "joined"

    async def main(tokens: list[str]) -> list[list[str]]:
        return [
            list(
                await asyncio.gather(
                    outcome(first.client(token).join(csr(), f"vm{number}a")),
                    outcome(second.client(token).join(csr(), f"vm{number}b")),
                )
            )
            for number, token in enumerate(tokens)
        ]

    with first.serves(), second.serves():
        tokens = [first.says("token", "create", "--workload", "default/web").strip() for _ in range(6)]
        outcomes = aio.run(main(tokens))
        for each in outcomes:
            won, lost = sorted(each, key=lambda said: said != "joined")
            assert (won, "used up" in lost) == ("joined", True), outcomes
        assert len(json.loads(second.says("node", "list", "-o", "json"))) == 6
        refused = [line for host in (first, second) for line in (host.state / "audit.log").read_text().splitlines()]
        assert sum('"refused"' in line and "used up" in line for line in refused) == 6


def test_what_is_revoked_at_one_is_heard_and_kept_to_at_all(consul: Consul, tmp_path: Path) -> None:
    first, second = several(consul, tmp_path)

    async def main(node: Path) -> None:
        one, other = (host.client(certificate=node) for host in (first, second))
        await one.sign(csr(), WEB)
        begun = await one.news(1)
        assert begun == await other.news(1)
        waiting = [asyncio.get_running_loop().create_task(each.news(begun.sequence)) for each in (one, other)]
        await asyncio.to_thread(second.says, "issued", "revoke", "--workload", "default/web")
        for news in await asyncio.gather(*waiting):
            assert news.sequence > begun.sequence
            assert [each.value for each in news.denied] == [str(WEB)]
        for each in (one, other):
            with pytest.raises(Forbidden, match="is denied: revoked"):
                await each.sign(csr(), WEB)

    with first.serves(), second.serves():
        aio.run(main(joined(second, "vm1", tmp_path)))


def test_a_token_of_any_is_good_by_what_all_of_them_say(consul: Consul, tmp_path: Path) -> None:
    """The key of the second is published before it signs; until then the first is asked."""
    first, second = several(consul, tmp_path)

    async def main(node: Path) -> None:
        one, other = (host.client(certificate=node) for host in (first, second))
        await Failover([other, one]).jwt(WEB, ("reports",))
        await asyncio.to_thread(second.says, "rotate", "jwt", "--settle", "0.1s")
        signed: list[Token] = []
        async with asyncio.timeout(WAIT_S):
            while not signed:
                with suppress(Unreachable):
                    signed.append(await other.jwt(WEB, ("reports",)))
        signed.append(await one.jwt(WEB, ("reports",)))
        assert len({pyjwt.get_unverified_header(each.token)["kid"] for each in signed}) == 2
        for source in (one, other):
            keys = {each.kid: jwt.Point(each.x, each.y).key() for each in (await source.news(1)).jwt_keys}
            for each in signed:
                assert jwt.verify(each.token, keys, "reports", TRUST_DOMAIN, time.time()).identity == WEB

    with first.serves(), second.serves():
        aio.run(main(joined(second, "vm1", tmp_path)))
        keys = json.loads(first.says("status", "-o", "json"))["jwt_keys"]
        assert {each["ca"] for each in keys} == {first.name, second.name}


def test_while_consul_is_away_nothing_is_signed_or_lost_and_all_of_it_is_said(tmp_path: Path) -> None:
    with cluster(1) as (consul,), ExitStack() as stack:
        hosts = several(consul, tmp_path)
        first, second = hosts
        for host in hosts:
            stack.enter_context(host.serves())
        node = joined(first, "vm1", tmp_path)
        before = serial(aio.run(second.client(certificate=node).sign(csr(), WEB)))
        known = aio.run(first.client().news(1))
        assert [host.looked_at("/ready")[0] for host in hosts] == [200, 200]
        consul.kill()
        wait_until(lambda: all(host.looked_at("/ready")[0] == 503 for host in hosts), "it is noticed", WAIT_S)
        assert "its store: Consul at http://127.0.0.2" in first.looked_at("/ready")[1]
        assert samples(first.looked_at("/metrics")[1])["meshd_ca_store_up"] == 0
        with pytest.raises(Unreachable, match=r"its store is away, and its log says why .*503"):
            aio.run(first.client(certificate=node).sign(csr(), WEB))
        with pytest.raises(Unreachable, match="503"):  # so that it asks another, which may know more
            aio.run(first.client(certificate=node).news(known.sequence))
        assert aio.run(first.client().news(1)) == known  # who is nobody yet may learn what to believe
        aio.run(first.client().health())
        failed = first.meshd("token", "create", "--workload", "default/web")
        assert (failed.returncode, failed.stdout) == (1, "")
        assert re.fullmatch(r"meshd: Consul at \S+ cannot be used: Connection refused\n", failed.stderr)
        consul.start()
        wait_until(lambda: all(host.looked_at("/ready")[0] == 200 for host in hosts), "it is back", WAIT_S)
        after = serial(aio.run(first.client(certificate=node).sign(csr(), WEB)))
        on_record = {each["serial"] for each in json.loads(second.says("issued", "list", "-o", "json"))}
        assert {before, after} <= on_record
        wait_until(lambda: len(alive(first)) == 2, "both are seen again", WAIT_S)


def test_status_says_where_the_store_is_and_who_runs(consul: Consul, tmp_path: Path) -> None:
    first, second = several(consul, tmp_path)
    with first.serves(), second.serves():
        wait_until(lambda: len(alive(first)) == 2, "both are seen", WAIT_S)
        said = second.says("status")
    assert re.search(rf"store: +Consul at {consul.url}\n", said)
    assert re.search(rf"alive: +{first.name}, since 20\S+, with the root's key\n", said)
    assert re.search(rf"alive: +{second.name}, since 20\S+\n", said)
    assert alive(first) == []
    first.config = first.directory / "other.yaml"
    first.config.write_text("admin: ''\n")
    assert "this CA's store is a shared one, and the settings name none" in first.meshd("status").stderr


def test_a_second_root_on_one_store_is_refused(consul: Consul, tmp_path: Path) -> None:
    first, second = several(consul, tmp_path)
    third = CaHost(tmp_path / "ca3", second.config.read_text().split("\n", 1)[1])
    refused = third.meshd("init", "--trust-domain", TRUST_DOMAIN)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "there is a CA already, of prod.example" in refused.stderr
    again = third.meshd("init", "--trust-domain", "b.example", "--bundle", first.state / "bundle.pem")
    assert again.returncode == 1
    assert "prod.example" in again.stderr
