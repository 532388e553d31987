"""What several CAs on one store may rely on, whatever has it: one suite over objects of a cluster here, and Consul in
`tests/integration/test_ca_store_consul.py`. What only objects can do wrong is below."""

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from copy import deepcopy

import msgspec
import pytest

from meshd.api.problems import Problem
from meshd.ca.keyed.answers import MAX_ANSWER_BYTES
from meshd.ca.keyed.layout import written
from meshd.ca.keyed.store import KeyedStore
from meshd.ca.objects.api import PAGE
from meshd.ca.objects.client import MAX_BATCH_BYTES, Clash, ObjectKeys
from meshd.ca.objects.placing import TOGETHER
from meshd.ca.objects.records import Record, Spec, Value, new
from meshd.ca.records import Denied, Running
from meshd.ca.source import Unreachable
from meshd.ca.store import Conflict, Undone
from tests.support.kubernetes.api import Api
from tests.support.stores import DAY_S, NOW, TRUST_DOMAIN, InProcess, entry, issued, join_token, node, objects_api

NAMES = ("first", "second", "third")


@pytest.fixture
def api() -> Api:
    return objects_api()


@pytest.fixture
def stores(api: Api) -> Iterator[list[KeyedStore]]:
    """One store as three CAs have it."""
    with ExitStack() as opened:
        yield [opened.enter_context(closing(shared(api, name))) for name in NAMES]


def shared(api: Api, name: str) -> KeyedStore:
    return KeyedStore.share(ObjectKeys(InProcess(api)), name, TRUST_DOMAIN)


def created(api: Api, name: str) -> KeyedStore:
    return KeyedStore.create(ObjectKeys(InProcess(api)), name, TRUST_DOMAIN)


def lose(api: Api, *names: str) -> None:
    """As of `kubectl delete`."""
    objects = InProcess(api)
    for name in names:
        if (found := objects.get(name)) is not None:
            objects.delete(found)


def test_a_token_is_used_up_once_whichever_ca_it_comes_to(stores: list[KeyedStore]) -> None:
    stores[0].add_join_token(join_token(uses=2))
    together = threading.Barrier(9)
    outcomes: list[str] = []

    def use(number: int) -> None:
        together.wait()
        try:
            stores[number % 3].join("t1", node(f"vm{number}"), issued(f"{number:02}", f"vm{number}", ""), (), NOW)
        except Conflict as conflict:
            outcomes.append(str(conflict))
        else:
            outcomes.append("joined")

    threads = [threading.Thread(target=use, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["joined"] * 2 + ["the join token t1 is used up"] * 7
    assert [len(store.nodes()) for store in stores] == [2, 2, 2]
    assert len(stores[1].issued()) == 2
    assert stores[2].join_tokens() == [join_token(uses=2)._replace(used=2)]


def test_what_one_ca_denies_none_signs(stores: list[KeyedStore]) -> None:
    first, second, _ = stores
    second.add(issued("01", "vm1"))  # it knows the deny list now
    first.deny([Denied("node", "vm1", "lost", NOW)])
    with pytest.raises(Conflict, match="the node vm1 is denied: lost"):
        second.add(issued("02", "vm1"))
    first.allow("node", "vm1")
    second.add(issued("03", "vm1"))
    assert [each.serial for each in first.issued()] == ["03", "01"]


def test_all_of_many_changes_at_once_are_done(stores: list[KeyedStore]) -> None:
    failed: list[Exception] = []

    def change(store: KeyedStore) -> None:
        try:
            for number in range(10):
                store.add_entry(
                    entry(0, "vm1", f"{store.peers.name}/w{number}")._replace(id=f"{store.peers.name}{number}")
                )
                store.deny([Denied("serial", f"{store.peers.name}{number}", "", NOW)])
        except (Conflict, Unreachable) as error:
            failed.append(error)

    threads = [threading.Thread(target=change, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert (len(stores[0].entries()), len(stores[0].denied().records)) == (30, 30)


def test_more_is_done_together_than_one_transaction_has_room_for(stores: list[KeyedStore]) -> None:
    first, second, _ = stores
    with first.together():
        numbers = [first.add(issued(f"{number:04x}", f"vm{number}")) for number in range(100)]
        assert len(second.issued()) < 100
    assert numbers == list(range(1, 101))
    assert len(second.issued()) == 100
    assert first.next_audit() == 101


def test_a_token_that_is_used_twice_among_what_is_done_together_is_good_once(stores: list[KeyedStore]) -> None:
    first, second, _ = stores
    first.add_join_token(join_token())
    with first.together():
        first.join("t1", node("vm1"), issued("01", "vm1", ""), (), NOW)
        with pytest.raises(Conflict, match="used up"):
            first.join("t1", node("vm2"), issued("02", "vm2", ""), (), NOW)
    assert [each.name for each in second.nodes()] == ["vm1"]
    assert [each.serial for each in second.issued()] == ["01"]


def test_what_is_done_together_is_decided_again_when_others_were_faster(stores: list[KeyedStore]) -> None:
    first, second, _ = stores
    with first.together():
        numbers = [first.add(issued("01", "vm1")), first.add(issued("02", "vm2"))]
        second.deny([Denied("node", "vm3", "lost", NOW)])
    assert {each.serial for each in second.issued()} == {"01", "02"}
    assert first.next_audit() == numbers[-1] + 1


def test_what_must_not_be_any_more_is_not_done_with_what_is_done_together(stores: list[KeyedStore]) -> None:
    """Nobody was told yet that it was, and all of it is asked for again."""
    first, second, _ = stores

    def denied_meanwhile() -> None:
        with first.together():
            first.add(issued("01", "vm1"))
            first.add(issued("02", "vm2"))
            second.deny([Denied("node", "vm2", "lost", NOW)])

    with pytest.raises(Undone, match="changed at this moment: the node vm2 is denied"):
        denied_meanwhile()
    assert second.issued() == []
    assert first.add(issued("03", "vm1")) == 1


def test_the_lines_of_each_audit_log_are_counted_for_themselves(stores: list[KeyedStore]) -> None:
    assert [stores[0].next_audit(), stores[1].next_audit(), stores[0].add(issued("01"))] == [1, 1, 2]


def test_more_is_forgotten_than_one_transaction_has_room_for_and_by_one_ca(stores: list[KeyedStore]) -> None:
    first, second, _ = stores
    for number in range(70):
        first.add(issued(f"{number:x}0{number:02}", at=NOW - 5 * DAY_S))
    first.add(issued("ff"))
    assert first.peers.alone("pruning")
    second.forget_expired(NOW)
    assert len(first.issued()) == 71  # it is the first one's to do
    first.forget_expired(NOW)
    assert [each.serial for each in second.issued()] == ["ff"]
    first.close()
    second.add(issued("fe", at=NOW - 5 * DAY_S))
    second.forget_expired(NOW)
    assert [each.serial for each in second.issued()] == ["ff"]


def test_who_runs_is_known_until_it_ends(stores: list[KeyedStore]) -> None:
    first, second, third = stores
    for store in (first, second):
        store.peers.beat(Running(store.peers.name, NOW, NOW, False, "roots", "issuer"))
    assert [each.ca for each in third.peers.live()] == ["first", "second"]
    assert (first.peers.alone("rotation"), second.peers.alone("rotation")) == (True, False)
    second.peers.beat(Running("second", NOW, NOW + 1, False, "roots", "issuer", "next"))
    assert [each.ready_for for each in third.peers.live()] == ["", "next"]
    first.close()
    assert [each.ca for each in third.peers.live()] == ["second"]
    assert second.peers.alone("rotation")


def test_values_are_bounded(stores: list[KeyedStore]) -> None:
    store, *_ = stores
    with pytest.raises(Conflict, match="is the most"):
        store.deny(
            [Denied("serial", random.randbytes(200).hex(), random.randbytes(200).hex(), NOW) for _ in range(2000)]
        )
    assert store.denied().records == ()


# --- objects of a cluster


class Ends(InProcess):
    """Is away once so many objects were written."""

    def __init__(self, api: Api, writes: int) -> None:
        super().__init__(api)
        self._left = writes

    def create(self, record: Record) -> Record:
        self._count()
        return super().create(record)

    def replace(self, record: Record) -> Record:
        self._count()
        return super().replace(record)

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Unreachable("it is away")


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_a_transaction_is_done_whole_or_not_wherever_its_ca_ends(api: Api, writes: int) -> None:
    """The journal comes first, and then a token, a node with its entries, and a certificate."""
    other = shared(api, "second")
    other.add_join_token(join_token())
    ending = KeyedStore(ObjectKeys(Ends(api, writes)), "first")
    if writes:
        ending.join("t1", node("vm1"), issued("01", "vm1", ""), [entry(1, "vm1", "default/web", "token t1")], NOW)
    else:
        with pytest.raises(Unreachable):
            ending.join("t1", node("vm1"), issued("01", "vm1", ""), [entry(1, "vm1", "default/web", "token t1")], NOW)

    def seen(by: KeyedStore) -> tuple[int, ...]:
        token = by.join_token("t1")
        assert token is not None
        return token.used, len(by.nodes()), len(by.entries()), len(by.entries_of("vm1")), len(by.issued())

    done = (1, 1, 1, 1, 1) if writes else (0, 0, 0, 0, 0)
    assert seen(other) == done
    other.add_entry(entry(2, "vm2", "default/api"))
    used, nodes, entries, of_node, certificates = done
    assert seen(shared(api, "third")) == (used, nodes, entries + 1, of_node, certificates)
    if writes:
        with pytest.raises(Conflict, match="used up"):
            other.join("t1", node("vm2"), issued("02", "vm2", ""), (), NOW)


def test_who_comes_late_to_write_what_was_done_changes_nothing(api: Api) -> None:
    """A CA that was held up between a transaction and its objects, while others went on."""

    class HeldUp(InProcess):
        def __init__(self, api: Api) -> None:
            super().__init__(api)
            self.meanwhile = [lambda: None]

        def replace(self, record: Record) -> Record:
            if record.name == "node-vm1":
                while self.meanwhile:
                    self.meanwhile.pop()()
            return super().replace(record)

    objects, other = HeldUp(api), shared(api, "second")
    slow = KeyedStore(ObjectKeys(objects), "first")
    other.add_entry(entry(1, "vm1", "default/web"))
    objects.meanwhile = [lambda: (other.remove_entry("e1"), other.remove_entry("e2"), None)[-1]]
    slow.add_entry(entry(2, "vm1", "default/api"))
    assert objects.meanwhile == []
    assert other.entries() == slow.entries() == []


def test_certificates_of_several_transactions_are_in_one_object_and_it_goes_with_them(api: Api) -> None:
    store = shared(api, "first")
    for number in range(40):
        store.add(issued(f"{number:04x}", at=NOW - 5 * DAY_S))
    assert 3 <= sum(1 for page in InProcess(api).pages("issued") for _ in page) <= 4
    store.forget_expired(NOW)
    assert [record for page in InProcess(api).pages("issued") for record in page] == []


def test_a_page_of_the_largest_objects_is_an_answer_that_is_taken() -> None:
    certificate = Value.of(written(issued("0" * 32, "n" * 63)), 1)
    of_each = MAX_BATCH_BYTES // len(certificate.content) + 1
    values = {f"issued/{number:032x}": certificate for number in range(TOGETHER * of_each)}
    largest = len(msgspec.json.encode(new("issued-0", "issued", Spec(1, values))))
    assert largest > TOGETHER * MAX_BATCH_BYTES
    assert PAGE * largest <= MAX_ANSWER_BYTES // 2


def test_sessions_of_cas_that_were_killed_are_cleared_away(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(InProcess, "now", lambda _: now)
    monkeypatch.setattr("meshd.ca.keyed.presence.RENEW_EVERY_S", 0.0)
    killed, other = shared(api, "first"), shared(api, "second")
    killed.peers.beat(Running("first", NOW, NOW, False, "roots", "issuer"))
    assert killed.peers.alone("rotation")
    other.peers.beat(Running("second", NOW, NOW, False, "roots", "issuer"))
    assert [each.ca for each in other.peers.live()] == ["first", "second"]
    assert not other.peers.alone("rotation")
    now = 40.0
    assert other.peers.live() == []
    assert other.peers.alone("rotation")  # in a session that it begins anew
    assert not killed.peers.alone("rotation")  # it was held up only, and is too late
    now = 2000.0
    third = shared(api, "third")
    assert third.peers.alone("rotation")
    assert [record.name[:10] for page in InProcess(api).pages("live") for record in page] == ["live-third"]


def test_a_ca_that_goes_on_at_the_moment_at_which_others_take_over_is_not_the_one_beside_them(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was held up, and the other had looked at its session before it said anything of it."""
    now = 0.0
    monkeypatch.setattr(InProcess, "now", lambda _: now)
    monkeypatch.setattr("meshd.ca.keyed.presence.RENEW_EVERY_S", 0.0)
    other = shared(api, "second")
    took: list[bool] = []

    class HeldUp(InProcess):
        def replace(self, record: Record) -> Record:
            self._meanwhile(record)
            return super().replace(record)

        def delete(self, record: Record) -> None:
            self._meanwhile(record)
            super().delete(record)

        def _meanwhile(self, record: Record) -> None:
            nonlocal now
            if record.name.startswith("live-") and now == 29.0:
                now = 30.0
                took.append(other.peers.alone("rotation"))

    stopped = KeyedStore.share(ObjectKeys(HeldUp(api)), "first", TRUST_DOMAIN)
    assert stopped.peers.alone("rotation")
    now = 29.0
    assert not stopped.peers.alone("rotation")
    assert took == [True]
    assert other.peers.alone("rotation")
    now = 44.0
    assert not stopped.peers.alone("rotation")


def test_a_session_is_renewed_within_its_time_alone(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(InProcess, "now", lambda _: now)
    keys = ObjectKeys(InProcess(api))
    session = keys.begin_session("first", 15)
    now = 14.0
    assert keys.renew_session(session)
    now = 29.0
    assert not keys.renew_session(session)
    assert [record for page in InProcess(api).pages("live") for record in page] == []


def test_a_ca_that_cannot_list_sessions_leaves_one_of_its_own_however_often_it_says_that_it_runs(api: Api) -> None:
    class Unlisted(InProcess):
        def pages(self, label: str) -> Iterator[list[Record]]:
            if label == "live":
                raise Unreachable("no answer within 5 s")
            return super().pages(label)

    store = KeyedStore.share(ObjectKeys(Unlisted(api)), "first", TRUST_DOMAIN)
    for _ in range(3):
        with suppress(Unreachable):
            store.peers.beat(Running("first", NOW, NOW, False, "roots", "issuer"))
    assert len([record for page in InProcess(api).pages("live") for record in page]) == 1


def test_what_is_changed_after_the_cluster_was_restored_from_an_older_copy_is_kept(api: Api) -> None:
    """Numbers that a CA has seen come again then."""

    class Restored(InProcess):
        def restore(self, copy: Api) -> None:
            self._api = copy

    objects = Restored(api)
    store = KeyedStore.share(ObjectKeys(objects), "first", TRUST_DOMAIN)
    store.add_join_token(join_token())
    copy = deepcopy(api)
    for number in range(5):
        store.add(issued(f"{number:02}"))
    objects.restore(copy)
    store.join("t1", node("vm1"), issued("10", "vm1", ""), (), NOW)
    store.add_entry(entry(1, "vm2", "default/api"))
    assert [each.name for each in store.nodes()] == ["vm1"]
    with pytest.raises(Conflict, match="used up"):
        store.join("t1", node("vm2"), issued("11", "vm2", ""), (), NOW)


def test_no_ca_is_made_where_the_journal_alone_is_lost(api: Api) -> None:
    """A new one would begin with numbers below those of the objects, which would then be as they were for ever."""
    running = shared(api, "first")
    for number in range(3):
        running.add(issued(f"{number:02}"))
    running.add_join_token(join_token())
    lose(api, "journal")
    lost = (
        r"^Kubernetes here, namespace meshd: the journal of the CA's records is missing, and others of them are there "
        r"\(trust-[a-z]+, issued-0, token-t1\): restore all from one copy, or see whose it is$"
    )
    for make in (shared, created):
        with pytest.raises(Problem, match=lost):
            make(api, "second")
    with pytest.raises(Unreachable, match=lost.removesuffix("$")):
        running.peers.alone("rotation")  # nor does one that runs begin another
    assert InProcess(api).get("journal") is None
    lose(api, "issued-0", "token-t1", *(f"trust-{each}" for each in ("denied", "jwt-keys", "roots")))
    assert running.peers.alone("rotation")
    assert shared(api, "second").add(issued("09")) == 1


def test_cas_that_are_made_at_once_are_on_one_store(api: Api) -> None:
    """What one finds of the other's is not left of an earlier one."""

    class Slow(InProcess):
        def pages(self, label: str) -> Iterator[list[Record]]:
            if not made:
                made.append(shared(api, "first"))
            return super().pages(label)

    made: list[KeyedStore] = []
    second = KeyedStore.share(ObjectKeys(Slow(api)), "second", TRUST_DOMAIN)
    made[0].deny([Denied("node", "vm1", "lost", NOW)])
    assert [each.value for each in second.denied().records] == ["vm1"]


def test_an_object_that_others_change_all_the_time_is_given_up() -> None:
    class Contested(InProcess):
        def replace(self, record: Record) -> Record:
            raise Clash("it is another")

    api = objects_api()
    shared(api, "first")
    store = KeyedStore(ObjectKeys(Contested(api)), "second")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("meshd.ca.objects.client.LONGEST_PAUSE_S", 0.0)
        with pytest.raises(Unreachable, match="others change"):
            store.next_audit()
