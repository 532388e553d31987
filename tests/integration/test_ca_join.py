"""A host becomes a node: first contact, the token's use, what the node may have then, and every way it can fail."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from meshd.agent import node
from meshd.agent.join import Membership, Places, join
from meshd.agent.settings_file import load_settings
from meshd.api.loading import ConfigurationError
from meshd.api.names import Identity
from meshd.api.problems import Misuse, Problem
from meshd.ca import certificates
from meshd.ca.authority import Authority
from meshd.ca.client import CaClient
from meshd.ca.failover import Failover
from meshd.ca.first_contact import find_root
from meshd.ca.records import JoinToken
from meshd.ca.registrar import Registrar
from meshd.ca.server import CaServer
from meshd.ca.source import Forbidden, NotAuthenticated, Refusal, Unreachable
from meshd.ca.tokens import PrintedToken
from tests.support import aio
from tests.support.authorities import TOKEN, TRUST_DOMAIN, WEB, recorded, served
from tests.support.csr import csr

VM1 = Identity.of_host(TRUST_DOMAIN, "vm1")
API = Identity.parse(f"spiffe://{TRUST_DOMAIN}/ns/default/sa/api")


class Mesh:
    """A CA in a directory of the test's, its operator, and hosts beside it."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self.directory, self.authority = directory, authority
        self.ahead_s = 0.0

    def clock(self) -> float:
        return time.time() + self.ahead_s

    @asynccontextmanager
    async def serves(self) -> AsyncIterator[CaServer]:
        async with served(self.authority, self.clock) as server:
            yield server

    def token(self, node: str = "*", uses: int = 1, ttl_s: float = 60.0, workload: str = "default/web") -> str:
        with Registrar.at(self.directory / "ca", self.clock) as registrar:
            return registrar.create_token(node, [workload], uses, ttl_s)[0]

    def places(self, host: str) -> Places:
        return Places(self.directory / host / "etc" / "meshd.yaml", self.directory / host / "state")

    async def join(self, server: CaServer, token: str, host: str = "vm1", **more: Any) -> Membership:
        return await join(f"https://{server.address}", token, host, self.places(host), **more)

    def as_node(self, server: CaServer, host: str = "vm1") -> CaClient:
        bundle = (self.directory / host / "etc" / "bundle.pem").read_text()
        return CaClient(f"https://{server.address}", bundle, "", self.directory / host / "state" / "node.key")

    def audited(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.directory / "ca" / "audit.log").read_text().splitlines()]

    def tokens(self) -> list[JoinToken]:
        return self.authority.store.join_tokens()


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    begun = time.time() - 2 * 86400
    with closing(Authority.create(tmp_path / "ca", TRUST_DOMAIN, begun, TOKEN)) as authority:
        yield Mesh(tmp_path, authority)


def test_a_host_joins_and_has_what_it_may_have(mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh.serves() as server:
            token = mesh.token("vm*")
            member = await mesh.join(server, token)
            assert (member.identity, member.is_new) == (VM1, True)
            assert member.not_after == pytest.approx(time.time() + 7 * 86400, abs=60)
            vm1 = mesh.as_node(server)
            await vm1.health()
            await vm1.sign(csr(), WEB)
            for identity, reason in (
                (API, "no entry lets the node vm1 have default/api"),
                (VM1._replace(host="vm2"), "another node's, and this is vm1"),
                (WEB._replace(trust_domain="other.example"), "not of this CA's trust domain"),
            ):
                with pytest.raises(Forbidden, match=reason):
                    await vm1.sign(csr(), identity)
            await vm1.jwt(WEB, ("reports",))
            for identity, reason in ((API, "no entry lets the node vm1 have"), (VM1, "tokens are of workloads")):
                with pytest.raises(Forbidden, match=reason):
                    await vm1.jwt(identity, ("reports",))
            with Registrar.at(mesh.directory / "ca") as registrar:
                registrar.add_entries("vm*", ["default/api"])
            await vm1.sign(csr(), API)
            await vm1.sign(csr(), VM1)  # it renews itself

    aio.run(main())
    issued = recorded(mesh.directory / "ca")
    assert [(each.identity, each.node, each.workload) for each in issued] == [
        (str(VM1), "vm1", ""),
        (str(WEB), "vm1", "default/web"),
        (str(API), "vm1", "default/api"),
        (str(VM1), "vm1", ""),
    ]
    lines = [line for line in mesh.audited() if line["action"] in {"join", "sign", "renew"}]
    assert [(line["action"], line["decision"], line["identity"]) for line in lines] == [
        ("join", "issued", str(VM1)),
        ("sign", "issued", str(WEB)),
        ("sign", "refused", str(API)),
        ("sign", "refused", str(VM1._replace(host="vm2"))),
        ("sign", "refused", "spiffe://other.example/ns/default/sa/web"),
        ("sign", "issued", str(API)),
        ("renew", "issued", str(VM1)),
    ]
    assert [line["actor"] for line in lines[1:]] == ["node vm1"] * 6
    assert {line["peer"] for line in lines} == {"127.0.0.1"}
    sequence = [line["sequence"] for line in mesh.audited()]
    assert sequence == list(range(1, len(sequence) + 1))


def test_what_joining_writes_is_what_the_agent_reads(mesh: Mesh) -> None:
    async def main() -> str:
        async with mesh.serves() as server:
            token = mesh.token()
            await mesh.join(server, token)
            again = await mesh.join(server, token)
            assert (again.is_new, again.written) == (False, ())
            return f"https://{server.address}"

    url = aio.run(main())
    places = mesh.places("vm1")
    settings = load_settings(places.settings)
    assert (settings.trust_domain, settings.node_name, settings.ca.url) == (TRUST_DOMAIN, "vm1", url)
    assert settings.state_dir == str(places.state_dir)
    assert Path(settings.ca.bundle).read_text() == mesh.authority.bundle_pem
    assert (mesh.directory / "vm1" / "state" / "node.key").stat().st_mode & 0o777 == 0o600
    assert mesh.tokens()[0].used == 1


# --- tokens that are not good ------------------------------------------------------------------------------------


def refusal(mesh: Mesh, token: str, host: str = "vm1") -> str:
    """How a joining fails, in one line; nothing is written but the key that was to be certified."""

    async def main() -> str:
        async with mesh.serves() as server:
            with pytest.raises(Problem) as failed:
                await mesh.join(server, token, host)
            return str(failed.value)

    before = len(recorded(mesh.directory / "ca"))
    said = aio.run(main())
    assert "\n" not in said
    assert not mesh.places(host).settings.exists()
    assert len(recorded(mesh.directory / "ca")) == before
    return said


def test_a_token_is_good_for_one_host_and_a_replay_is_on_record(mesh: Mesh) -> None:
    async def main() -> str:
        async with mesh.serves() as server:
            token = mesh.token()
            await mesh.join(server, token)
            return token

    token = aio.run(main())
    assert "the CA refused: the join token" in (said := refusal(mesh, token, "vm2"))
    assert said.endswith("is used up (status 403)")
    refused = mesh.audited()[-1]
    assert (refused["decision"], refused["identity"]) == ("refused", f"spiffe://{TRUST_DOMAIN}/node/vm2")
    assert refused["reason"].endswith("is used up")
    assert token.split(".")[2] not in (mesh.directory / "ca" / "audit.log").read_text()


def test_a_token_that_expired(mesh: Mesh) -> None:
    token = mesh.token(ttl_s=5.0)
    mesh.ahead_s = 20.0
    assert "is expired (status 403)" in refusal(mesh, token)


def test_a_token_that_was_revoked(mesh: Mesh) -> None:
    token = mesh.token()
    with Registrar.at(mesh.directory / "ca") as registrar:
        registrar.revoke_token(PrintedToken.parse(token).id)
    assert "is revoked (status 403)" in refusal(mesh, token)


def test_a_token_for_another_node(mesh: Mesh) -> None:
    assert "is for the node db-*, not for vm1 (status 403)" in refusal(mesh, mesh.token("db-*"))


def test_a_token_whose_secret_is_another(mesh: Mesh) -> None:
    printed = PrintedToken.parse(mesh.token())
    forged = PrintedToken(printed.id, bytes(32), printed.root_hash)
    assert f"the join token {printed.id} is not known to this CA (status 401)" in refusal(mesh, forged.text())
    unknown = PrintedToken.new(printed.root_hash)
    assert f"the join token {unknown.id} is not known to this CA (status 401)" in refusal(mesh, unknown.text())


def test_a_token_that_is_malformed_is_not_even_sent(mesh: Mesh) -> None:
    before = mesh.token()[:-1]
    assert refusal(mesh, before) == "this is no join token: a part of it is missing or changed: copy it whole"
    assert [line["action"] for line in mesh.audited()] == ["rotate", "token create", "serve"]


def test_a_token_of_another_ca_is_not_sent_to_this_one(mesh: Mesh) -> None:
    foreign = PrintedToken.new(bytes(32)).text()
    assert "not the CA that the join token is of" in refusal(mesh, foreign)
    assert "join" not in {line["action"] for line in mesh.audited()}


@pytest.mark.parametrize("how", ["malformed", "foreign"])
def test_the_ca_itself_refuses_such_tokens_too(mesh: Mesh, how: str) -> None:
    text = mesh.token()[:-1] if how == "malformed" else PrintedToken.new(bytes(32)).text()

    async def main() -> None:
        async with mesh.serves() as server:
            client = CaClient(f"https://{server.address}", mesh.authority.bundle_pem, text)
            with pytest.raises(NotAuthenticated, match=r"malformed|of another CA"):
                await client.join(csr(), "vm1")

    aio.run(main())
    assert mesh.audited()[-1]["decision"] == "refused"


@pytest.mark.parametrize(
    ("request_pem", "name", "reason"),
    [
        ("nothing", "vm1", "not a certificate request"),
        (csr(), "vm1.example", "node 'vm1.example' is not a DNS label"),
        (csr(), "VM1\n", "is not a DNS label"),
        (csr(), "", "is not a DNS label"),
    ],
)
def test_what_is_wrong_with_the_request_does_not_use_the_token_up(
    mesh: Mesh, request_pem: str, name: str, reason: str
) -> None:
    token = mesh.token()

    async def main() -> None:
        async with mesh.serves() as server:
            client = CaClient(f"https://{server.address}", mesh.authority.bundle_pem, token)
            with pytest.raises(Refusal, match=reason):
                await client.join(request_pem, name)
            with pytest.raises(Forbidden, match="a join token is for joining as a node"):
                await client.sign(csr(), WEB)
            await mesh.join(server, token)

    aio.run(main())


def test_the_shared_token_does_not_make_a_node(mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh.serves() as server:
            client = CaClient(f"https://{server.address}", mesh.authority.bundle_pem, TOKEN)
            with pytest.raises(Forbidden, match="shared token is no join token"):
                await client.join(csr(), "vm1")

    aio.run(main())
    assert recorded(mesh.directory / "ca") == []


def test_two_daemons_on_one_store_let_one_host_join(mesh: Mesh) -> None:
    """With a token for one, whichever of them is asked first."""
    token = mesh.token("vm*", uses=3)

    async def main() -> list[str]:
        with closing(Authority.open(mesh.directory / "ca", time.time())) as second:
            async with mesh.serves() as one, served(second) as other:
                clients = [
                    CaClient(f"https://{server.address}", second.bundle_pem, token) for server in (one, other) * 4
                ]
                results = await asyncio.gather(
                    *(client.join(csr(), f"vm{index}") for index, client in enumerate(clients)), return_exceptions=True
                )
        return sorted(str(result) if isinstance(result, Forbidden) else "joined" for result in results)

    outcomes = aio.run(main())
    assert outcomes[:3] == ["joined"] * 3
    assert len(outcomes[3:]) == 5
    assert all("is used up" in each for each in outcomes[3:])


# --- who is who ------------------------------------------------------------------------------------------------------


def test_no_one_takes_a_nodes_name_with_a_token_for_any(mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh.serves() as server:
            await mesh.join(server, mesh.token())
            client = CaClient(f"https://{server.address}", mesh.authority.bundle_pem, mesh.token())
            with pytest.raises(Forbidden, match="vm1 has joined before, with another key"):
                await client.join(csr(), "vm1")
            by_name = CaClient(f"https://{server.address}", mesh.authority.bundle_pem, mesh.token("vm1"))
            await by_name.join(csr(), "vm1")

    aio.run(main())


def test_an_answer_that_was_lost_is_asked_for_again(mesh: Mesh) -> None:
    """The key was kept before it was certified, so that the token is good for it once more, and for no other."""

    async def main() -> None:
        async with mesh.serves() as server:
            token = mesh.token()
            key = certificates.new_key()
            host = mesh.places("vm1")
            assert host.state_dir is not None
            host.state_dir.mkdir(parents=True)
            node.write(host.state_dir / "node.key", key)
            lost = CaClient(f"https://{server.address}", mesh.authority.bundle_pem, token)
            await lost.join(node.request(key), "vm1")
            member = await mesh.join(server, token)
            assert member.is_new
            found = node.read(host.state_dir / "node.key")
            assert found is not None
            assert found.key.public_key() == key.public_key()

    aio.run(main())
    assert mesh.tokens()[0].used == 1


def test_a_certificate_of_another_mesh_is_not_a_nodes_here(mesh: Mesh, tmp_path: Path) -> None:
    async def main() -> None:
        with closing(Authority.create(tmp_path / "other", TRUST_DOMAIN, time.time())) as other:
            theirs = Mesh(tmp_path / "their", other)
            with Registrar.at(tmp_path / "other") as registrar:
                token = registrar.create_token("*", ["*/*"], 1, 60.0)[0]
            async with served(other) as server:
                await theirs.join(server, token)
        async with mesh.serves() as server:
            stranger = CaClient(
                f"https://{server.address}",
                mesh.authority.bundle_pem,
                "",
                theirs.directory / "vm1" / "state" / "node.key",
            )
            for ask in (stranger.health(), stranger.sign(csr(), WEB), stranger.news(0)):
                with pytest.raises(NotAuthenticated, match="not to who shows this node's certificate: it is another"):
                    await ask
        with pytest.raises(Unreachable, match="Connection refused"):
            await stranger.health()

    aio.run(main())
    assert recorded(mesh.directory / "ca") == []


def test_a_workloads_certificate_is_no_nodes(mesh: Mesh, tmp_path: Path) -> None:
    async def main() -> None:
        async with mesh.serves() as server:
            key = certificates.new_key()
            agent = CaClient(f"https://{server.address}", mesh.authority.bundle_pem, TOKEN)
            signed = await agent.sign(node.request(key), WEB)
            node.write(tmp_path / "web.key", key, signed.chain_pem)
            web = CaClient(f"https://{server.address}", mesh.authority.bundle_pem, "", tmp_path / "web.key")
            with pytest.raises(NotAuthenticated, match=f"not a node's, but that of {WEB}"):
                await web.sign(csr(), WEB)

    aio.run(main())


# --- first contact -----------------------------------------------------------------------------------------------


def test_a_server_that_adds_a_root_of_its_own_is_not_believed(mesh: Mesh, tmp_path: Path) -> None:
    """Someone in between answers the first call with the mesh's root and theirs: theirs is not taken, so the second
    call, which would say the token, fails."""

    async def main() -> None:
        with closing(Authority.create(tmp_path / "other", TRUST_DOMAIN, time.time())) as other:
            (tmp_path / "other" / "bundle.pem").write_text(mesh.authority.bundle_pem + other.bundle_pem)
            async with served(other) as between:
                with pytest.raises(Problem, match="not the CA that the trust bundle is of"):
                    await mesh.join(between, mesh.token())
        assert not (tmp_path / "other" / "audit.log").exists() or "join" not in (
            tmp_path / "other" / "audit.log"
        ).read_text().replace("token create", "")

    aio.run(main())


def test_a_root_that_only_has_the_right_key_is_not_the_root(mesh: Mesh) -> None:
    """Anyone can write the public key of the root into a certificate of their own; only its owner can sign it."""
    root = find_root(mesh.authority.bundle_pem, next(iter(mesh.authority.root_hashes())))
    assert root is not None
    theirs = certificates.make_root(TRUST_DOMAIN, certificates.Life.starting(time.time(), 3600.0))
    forged = certificates.make_leaf("spiffe://evil.example", root.public_key(), theirs, certificates.Life.of(root))
    key_hash = certificates.key_hash(root.public_key())
    assert find_root(certificates.pem(forged).decode(), key_hash) is None
    assert find_root("nothing", key_hash) is None
    assert find_root((certificates.pem(forged) + certificates.pem(root)).decode(), key_hash) == root


@pytest.mark.parametrize(("ahead_s", "which"), [(3600.0, "behind"), (-3600.0, "ahead of")])
def test_a_clock_an_hour_off_is_said_before_the_token_is_used(mesh: Mesh, ahead_s: float, which: str) -> None:
    mesh.ahead_s = 0.0

    async def main() -> None:
        async with mesh.serves() as server:
            token = mesh.token()
            with pytest.raises(Problem, match=f"this host's clock is 3[56]\\d\\d s {which} the one of https://"):
                await mesh.join(server, token, clock=lambda: time.time() - ahead_s)

    aio.run(main())
    assert mesh.tokens()[0].used == 0


def test_a_ca_that_is_away_or_is_none(mesh: Mesh) -> None:
    async def main() -> None:
        token = mesh.token()
        with pytest.raises(Problem, match=r"https://127\.0\.0\.1:1: Connection refused"):
            await join("127.0.0.1:1", token, "vm1", mesh.places("vm1"))
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(Problem, match=rf"https://127\.0\.0\.1:{port}: "):
                await join(f"127.0.0.1:{port}", token, "vm1", mesh.places("vm1"))
        for url in ("http://ca.example", "https://ca.example/path", "https://:4180", "https://ca:x", "https://u@ca"):
            with pytest.raises(Misuse, match="is not the URL of a CA"):
                await join(url, token, "vm1", mesh.places("vm1"))

    aio.run(main())


def test_tls_is_not_asked_for_a_certificate_of_who_has_none(mesh: Mesh) -> None:
    """`curl` and the first contact show none; that is no reason to end the handshake."""

    async def main() -> None:
        async with mesh.serves() as server:
            context = ssl.create_default_context(cadata=mesh.authority.bundle_pem)
            _, writer = await asyncio.open_connection("127.0.0.1", server.address.port, ssl=context)
            writer.close()

    aio.run(main())


# --- what is on the host already -------------------------------------------------------------------------------------


def test_settings_that_say_otherwise_are_kept_unless_forced(mesh: Mesh) -> None:
    file = mesh.places("vm1").settings
    file.parent.mkdir(parents=True)
    before = "# ours\ntrustDomain: other.example\nzone: a\n"
    file.write_text(before)

    async def main() -> None:
        async with mesh.serves() as server:
            token = mesh.token()
            with pytest.raises(
                Problem, match=r"trustDomain: it is other\.example, and would be prod\.example: correct"
            ):
                await mesh.join(server, token)
            assert file.read_text() == before
            assert mesh.tokens()[0].used == 0
            await mesh.join(server, token, force=True)

    aio.run(main())
    settings = load_settings(file)
    assert (settings.trust_domain, settings.zone, settings.node) == (TRUST_DOMAIN, "a", "vm1")
    assert "# ours" in file.read_text()
    assert file.with_name("meshd.yaml.before-join").read_text() == before


def test_a_bundle_of_another_mesh_is_kept_unless_forced(mesh: Mesh, tmp_path: Path) -> None:
    Authority.create(tmp_path / "other", TRUST_DOMAIN, time.time()).close()
    theirs = (tmp_path / "other" / "bundle.pem").read_text()
    bundle = mesh.places("vm1").settings.with_name("bundle.pem")
    bundle.parent.mkdir(parents=True)
    bundle.write_text(theirs)

    async def main() -> None:
        async with mesh.serves() as server:
            token = mesh.token()
            with pytest.raises(Problem, match=r"bundle\.pem: this host trusts another CA's root"):
                await mesh.join(server, token)
            assert bundle.read_text() == theirs
            await mesh.join(server, token, force=True)
            assert bundle.read_text() == mesh.authority.bundle_pem

    aio.run(main())


def test_a_ca_that_was_made_anew_is_joined_anew_by_force(mesh: Mesh, tmp_path: Path) -> None:
    """The same trust domain and the same name: what the host holds is good by its dates, and worth nothing there."""

    async def main() -> None:
        with closing(Authority.create(tmp_path / "before", TRUST_DOMAIN, time.time())) as before:
            with Registrar.at(tmp_path / "before") as registrar:
                token = registrar.create_token("*", ["*/*"], 1, 60.0)[0]
            async with served(before) as server:
                await mesh.join(server, token)
        async with mesh.serves() as server:
            token = mesh.token()
            with pytest.raises(Problem, match="--force"):
                await mesh.join(server, token)
            (mesh.directory / "vm1" / "etc" / "bundle.pem").write_text(mesh.authority.bundle_pem)  # as someone may have
            assert (await mesh.join(server, token, force=True)).is_new
            assert not (await mesh.join(server, token)).is_new
            await mesh.as_node(server).sign(csr(), WEB)

    aio.run(main())


def test_settings_that_are_bad_are_said_so_before_anything(mesh: Mesh) -> None:
    file = mesh.places("vm1").settings
    file.parent.mkdir(parents=True)
    file.write_text("trustDomain: x\nports: 1\n")

    async def main() -> None:
        with pytest.raises(ConfigurationError, match="unknown field `ports`"):
            await join("127.0.0.1:1", mesh.token(), "vm1", mesh.places("vm1"))

    aio.run(main())


# --- several CAs ---------------------------------------------------------------------------------------------------


def test_when_one_ca_is_away_another_is_asked(mesh: Mesh) -> None:
    async def main() -> None:
        bundle = mesh.authority.bundle_pem
        async with mesh.serves() as server:
            away = CaClient("https://127.0.0.1:1", bundle, TOKEN)
            here = CaClient(f"https://{server.address}", bundle, TOKEN)
            both = Failover([away, here])
            await both.health()
            await both.sign(csr(), WEB)
            await both.jwt(WEB, ("reports",))
            with pytest.raises(Refusal, match="not a certificate request"):
                await both.sign("x", WEB)
        with pytest.raises(Unreachable, match=rf"https://{here.url[8:]}: .*; https://127\.0\.0\.1:1: Connection"):
            await both.sign(csr(), WEB)  # the one that answered last is asked first

    aio.run(main())


# --- over the life of a node ---------------------------------------------------------------------------------------


def test_a_node_renews_itself_and_goes_on_with_the_new_certificate(mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh.serves() as server:
            await mesh.join(server, mesh.token())
            file = mesh.directory / "vm1" / "state" / "node.key"
            before = node.read(file)
            later = 0.0
            source = node.NodeSource(Failover([mesh.as_node(server)]), file, lambda: time.time() + later)
            await source.health()
            assert (found := node.read(file)) is not None
            assert before is not None
            assert found.chain == before.chain
            later = 5 * 86400.0
            await source.health()
            after = node.read(file)
            assert after is not None
            assert after.chain[0] != before.chain[0]
            with Registrar.at(mesh.directory / "ca") as registrar:  # so that it is known which of them is shown
                registrar.deny_serial(certificates.serial(before.chain[0]), "replaced")
                (known,) = registrar.store.nodes()
            await source.sign(csr(), WEB)
            assert known.key_hash == certificates.key_hash(after.chain[0].public_key()).hex()

    aio.run(main())
    assert [line["action"] for line in mesh.audited()[-3:]] == ["renew", "revoke", "sign"]


def test_a_denied_node_gets_nothing_more(mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh.serves() as server:
            await mesh.join(server, mesh.token())
            vm1 = mesh.as_node(server)
            await vm1.sign(csr(), WEB)
            with Registrar.at(mesh.directory / "ca") as registrar:
                assert registrar.deny_node("vm1", "stolen") == 2
            for identity in (WEB, VM1):
                with pytest.raises(Forbidden, match="the node vm1 is denied: stolen"):
                    await vm1.sign(csr(), identity)
            again = CaClient(f"https://{server.address}", mesh.authority.bundle_pem, mesh.token("vm1"))
            with pytest.raises(Forbidden, match="the node vm1 is denied: stolen"):
                await again.join(csr(), "vm1")

    aio.run(main())
    assert [line["decision"] for line in mesh.audited() if line["action"] in {"sign", "join"}][-3:] == ["refused"] * 3


def test_what_cannot_be_audited_does_not_leave_the_ca(mesh: Mesh) -> None:
    """Neither a certificate nor a refusal; a token that was used meanwhile is good again for the same key."""
    log, aside = mesh.directory / "ca" / "audit.log", mesh.directory / "aside"

    async def main() -> None:
        async with mesh.serves() as server:
            token = mesh.token()
            agent = CaClient(f"https://{server.address}", mesh.authority.bundle_pem, TOKEN)
            log.rename(aside)
            log.mkdir()
            for ask in (agent.sign(csr(), WEB), agent.sign("no CSR", WEB)):
                with pytest.raises(Unreachable, match="the CA cannot sign now"):
                    await ask
            with pytest.raises(Problem, match="the CA cannot sign now"):
                await mesh.join(server, token)
            assert mesh.tokens()[0].used == 1
            log.rmdir()
            aside.rename(log)
            await agent.sign(csr(), WEB)
            assert (await mesh.join(server, token)).is_new

    aio.run(main())
    assert mesh.tokens()[0].used == 1
