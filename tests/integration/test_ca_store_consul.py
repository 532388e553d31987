"""The store in a real Consul: the suite of all stores, and what Consul alone can do wrong."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path

import pytest
from msgspec.structs import replace

from meshd.api.problems import Problem
from meshd.ca.consul.client import Client
from meshd.ca.keyed.store import KeyedStore
from meshd.ca.records import Running
from meshd.ca.settings import ConsulSettings
from meshd.ca.source import Unreachable
from meshd.ca.store import Store, Undone
from tests.support.certificates import Root, write
from tests.support.consul import Consul, agent, cluster, token_for, with_acl
from tests.support.stores import (
    NOW,
    TRUST_DOMAIN,
    consul_settings,
    consul_store,
    issued,
)
from tests.support.waiting import wait_until
from tests.unit import test_ca_shared_stores, test_ca_stores

pytestmark = pytest.mark.peer("consul")

for _name, _test in (vars(test_ca_stores) | vars(test_ca_shared_stores)).items():
    if _name.startswith("test_") and {"store", "stores"} & inspect.signature(_test).parameters.keys():
        globals()[_name] = _test  # each asks for the stores below


@pytest.fixture(scope="module")
def consul() -> Iterator[Consul]:
    with agent() as started:
        yield started


@pytest.fixture
def store(consul: Consul) -> Iterator[Store]:
    with closing(consul_store(consul)) as made:
        yield made


@pytest.fixture
def stores(consul: Consul) -> Iterator[list[KeyedStore]]:
    """One store as three CAs have it."""
    settings = consul_settings(consul)
    KeyedStore.create(Client(settings), "first", TRUST_DOMAIN).close()
    with ExitStack() as opened:
        names = ("first", "second", "third")
        yield [opened.enter_context(closing(KeyedStore.open(Client(settings), name, TRUST_DOMAIN))) for name in names]


def test_no_number_is_given_twice_when_a_command_is_given_beside_what_is_done_together(consul: Consul) -> None:
    settings = consul_settings(consul)
    with (
        closing(KeyedStore.create(Client(settings), "first", TRUST_DOMAIN)) as daemon,
        closing(KeyedStore.open(Client(settings), "first", TRUST_DOMAIN)) as command,
    ):

        def counted_meanwhile() -> None:
            with daemon.together():
                daemon.add(issued("01"))
                assert command.next_audit() == 1

        with pytest.raises(Undone, match="a command was given on this host at this moment"):
            counted_meanwhile()
        assert command.issued() == []
        with daemon.together():
            assert daemon.add(issued("02")) == 2


def test_a_serial_number_is_there_once(stores: list[KeyedStore]) -> None:
    stores[0].add(issued("01", "vm1"))
    with pytest.raises(Unreachable, match="there is a certificate with that serial number"):
        stores[1].add(issued("01", "vm2"))
    assert [each.node for each in stores[1].issued()] == ["vm1"]


def test_a_session_that_is_lost_is_begun_anew(stores: list[KeyedStore], consul: Consul) -> None:
    first, second, _ = stores
    first.peers.beat(Running("first", NOW, NOW, False, "roots", "issuer"))
    for session in consul.call("GET", "session/list"):
        if session["Name"] == "meshd-ca first":
            consul.call("PUT", f"session/destroy/{session['ID']}")
    assert second.peers.live() == []

    def beats() -> bool:
        try:
            first.peers.beat(Running("first", NOW, NOW, True, "roots", "issuer"))
        except Unreachable:
            return False
        return bool(second.peers.live())

    wait_until(beats, "the first one is seen again")


def test_a_place_is_taken_once_and_by_one_trust_domain(consul: Consul) -> None:
    settings = consul_settings(consul)
    with pytest.raises(Problem, match="the CA's records are missing"):
        KeyedStore.open(Client(settings), "first", TRUST_DOMAIN)
    KeyedStore.create(Client(settings), "first", TRUST_DOMAIN).close()
    with pytest.raises(Problem, match=r"there is a CA already, of prod\.example: .*`meshd ca init --bundle`"):
        KeyedStore.create(Client(settings), "second", TRUST_DOMAIN)
    with pytest.raises(Problem, match=r"is of the trust domain prod\.example, and this CA of b\.example"):
        KeyedStore.share(Client(settings), "second", "b.example")


def test_records_of_another_make_are_not_guessed_at(consul: Consul) -> None:
    settings = consul_settings(consul)
    with closing(KeyedStore.create(Client(settings), "first", TRUST_DOMAIN)) as store:
        consul.call("PUT", f"kv/{settings.prefix}/nodes/vm1/node", {"name": "vm1"})
        with pytest.raises(Unreachable, match="nodes/vm1/node holds no Node"):
            store.nodes()
        consul.call("DELETE", f"kv/{settings.prefix}/trust/denied")
        with pytest.raises(Unreachable, match="has not the CA's records"):
            store.denied()
        with pytest.raises(Unreachable, match="has not the CA's records"):
            store.add(issued("01"))


# --- Consul that is away, or refuses


def test_a_consul_that_is_away_is_said_and_may_come_back() -> None:
    with agent() as consul, closing(consul_store(consul)) as store:
        store.add(issued("01"))
        consul.stop()
        for ask in (store.nodes, store.sequence, lambda: store.add(issued("02"))):
            with pytest.raises(Unreachable, match=f"Consul at {consul.url} cannot be used: Connection refused"):
                ask()
        assert store.errors == 3
        assert "Connection refused" in store.trouble
        consul.start()
        consul.wait_until_led()
        with pytest.raises(Unreachable, match="has not the CA's records"):  # one of `-dev` keeps nothing
            store.sequence()


def test_no_leader_is_no_answer_and_nothing_is_lost() -> None:
    serials = (f"{number:02}" for number in count(1))  # what was said to have failed may be there all the same
    with cluster() as servers, closing(consul_store(servers[0])) as store:
        store.add(issued(first := next(serials)))
        for server in servers[1:]:
            server.kill()

        def is_away() -> bool:
            try:
                store.add(issued(next(serials)))
            except Unreachable:
                return True
            return False

        wait_until(is_away, "nothing is written without a leader", 60.0)
        for server in servers[1:]:
            server.start()

        def is_back() -> str:
            try:
                store.add(issued(last := next(serials)))
            except Unreachable:
                return ""
            return last

        last = wait_until(is_back, "there is a leader again", 90.0)
        assert {first, last} <= {each.serial for each in store.issued()}


def test_a_token_has_to_be_good_for_the_prefix_and_is_in_no_message(caplog: pytest.LogCaptureFixture) -> None:
    with with_acl() as consul:
        prefix = "meshd/ca"
        good = token_for(
            consul, f'key_prefix "{prefix}/" {{ policy = "write" }} session_prefix "" {{ policy = "write" }}'
        )
        other = token_for(consul, 'key_prefix "other/" { policy = "write" }')
        settings = consul_settings(consul, prefix, good)
        with closing(KeyedStore.create(Client(settings), "first", TRUST_DOMAIN)) as store:
            store.add(issued("01"))
            assert store.peers.alone("pruning")
        refused = []
        for token in (other, "", "not-a-token"):
            with pytest.raises(Problem) as problem:
                KeyedStore.open(Client(consul_settings(consul, prefix, token)), "second", TRUST_DOMAIN)
            refused.append(str(problem.value))
        assert all("refuses" in each and "key_prefix 'meshd/ca/'" in each for each in refused), refused
        with closing(KeyedStore(Client(consul_settings(consul, prefix, other)), "second")) as store:
            asks: list[Callable[[], object]] = [store.denied, store.sequence, lambda: store.add(issued("02"))]
            for ask in asks:
                with pytest.raises(Unreachable) as unreachable:
                    ask()
                refused.append(str(unreachable.value))
        said = "\n".join((*refused, repr(settings), caplog.text))
        assert not any(secret in said for secret in (good, other, "not-a-token"))


def test_over_tls_consul_and_the_ca_prove_who_they_are(tmp_path: Path) -> None:
    root, stranger = Root(), Root()
    write(root.held(hosts=("ca.example",)), tmp_path, "ca")
    (tmp_path / "root.pem").write_text(root.bundle_pem)
    (tmp_path / "stranger.pem").write_text(stranger.bundle_pem)
    with agent(tls=root) as consul:
        good = ConsulSettings(
            address=consul.url,
            ca=str(tmp_path / "root.pem"),
            certificate=str(tmp_path / "ca.pem"),
            key=str(tmp_path / "ca.key"),
        )
        with closing(KeyedStore.create(Client(good), "first", TRUST_DOMAIN)) as store:
            store.add(issued("01"))
        for bad in (replace(good, ca=str(tmp_path / "stranger.pem")), replace(good, certificate="", key="")):
            with pytest.raises(Problem, match="cannot be used"):
                KeyedStore.open(Client(bad), "second", TRUST_DOMAIN)


def test_the_token_is_read_from_its_file_each_time(tmp_path: Path, consul: Consul) -> None:
    file = tmp_path / "token"
    settings = replace(consul_settings(consul), token_file=str(file))
    with pytest.raises(Problem, match="token: Consul's token cannot be read: No such file"):
        KeyedStore.create(Client(settings), "first", TRUST_DOMAIN)
    file.write_text("x\n")
    file.chmod(0o644)
    with pytest.raises(Problem, match="everyone on this host can read it"):
        KeyedStore.create(Client(settings), "first", TRUST_DOMAIN)
