"""What the CA may rely on from any store: one suite over all of them. What only SQLite can do wrong is below."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from meshd.api.problems import Problem
from meshd.ca.records import Denied, Entry, Held, Issued, JoinToken, Node, Rotation
from meshd.ca.source import Unreachable
from meshd.ca.sqlite import SqliteStore, connect
from meshd.ca.sqlite_schema import SCHEMA_VERSION
from meshd.ca.store import MAX_DENIED, MAX_JWT_KEYS, Conflict, Store
from tests.support.authorities import recorded
from tests.support.stores import DAY_S, NOW, STORES, entry, issued, join_token, jwt_key, node


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with closing(STORES[request.param](tmp_path)) as made:
        yield made


# --- certificates


def test_a_conflict_among_what_is_done_together_undoes_its_own_call_alone(store: Store) -> None:
    store.add_join_token(join_token())
    store.deny([Denied("identity", issued("00", "vm1", "").identity, "stolen", NOW)])
    with store.together():
        first = store.add(issued("01"))
        with pytest.raises(Conflict, match="is denied: stolen"):
            joins(store, node("vm1"), "02", entry(1, "vm1", "default/web", "token t1"))
        assert store.add(issued("03")) == first + 1
    assert {each.serial for each in store.issued()} == {"01", "03"}
    assert store.join_tokens() == [join_token()]
    assert (store.nodes(), store.entries()) == ([], [])
    assert store.next_audit() == first + 2


def test_others_wait_for_what_is_done_together(store: Store) -> None:
    """And what they do is theirs: it is no part of it."""
    inside, done = threading.Event(), threading.Event()

    def alone() -> None:
        inside.wait(30)
        store.add(issued("02"))
        done.set()

    thread = threading.Thread(target=alone)
    thread.start()
    with suppress(InterruptedError), store.together():
        store.add(issued("01"))
        inside.set()
        raise InterruptedError
    assert done.wait(30)
    thread.join()
    assert "02" in {each.serial for each in store.issued()}


def test_certificates_are_found_by_whose_they_are_the_newest_first(store: Store) -> None:
    web, api = issued("01", "vm1"), issued("02", "vm1", "default/api", at=NOW + 1)
    old, other = issued("03", "vm1", at=NOW - 5 * DAY_S), issued("04", "vm2", at=NOW + 2)
    for each in (web, api, old, other):
        store.add(each)
    assert store.issued() == [other, api, web, old]
    assert store.issued(node="vm1", until=NOW) == [api, web]
    assert store.issued(identity=web.identity) == [other, web, old]
    assert store.issued(serial="02") == [api]
    assert store.issued(limit=1) == [other]


def test_what_expired_long_ago_is_forgotten_and_nothing_else(store: Store) -> None:
    store.add(issued("01"))
    store.add(issued("02", at=NOW + DAY_S))
    store.add_join_token(join_token("t1"))
    store.add_join_token(join_token("t2")._replace(expires_at=NOW + 2 * DAY_S))
    store.forget_expired(NOW + DAY_S + store.keep_expired_s + 1)
    assert [each.serial for each in store.issued()] == ["02"]
    assert [each.id for each in store.join_tokens()] == ["t2"]


def test_a_shared_token_is_known_whole_or_not_at_all(store: Store) -> None:
    store.add_token("one", NOW)
    store.add_token("two", NOW)
    assert store.knows_token("one")
    assert store.knows_token("two")
    assert not any(store.knows_token(each) for each in ("", "on", "one ", "three", "\udcff"))


# --- joining


def joins(store: Store, member: Node, serial: str, *entries: Entry, now: float = NOW) -> None:
    store.join("t1", member, issued(serial, member.name, "", at=now), entries, now)


def test_a_token_is_used_as_often_as_it_says(store: Store) -> None:
    token = join_token(uses=2, workloads=("default/web", "*/db-*"))
    store.add_join_token(token)
    assert store.join_token("t1") == token
    joins(store, node("vm1"), "01", entry(1, "vm1", "default/web", "token t1"))
    joins(store, node("vm2"), "02", entry(2, "vm2", "default/web", "token t1"))
    with pytest.raises(Conflict, match="the join token t1 is used up"):
        joins(store, node("vm3"), "03", entry(3, "vm3", "default/web", "token t1"))
    assert store.join_tokens() == [token._replace(used=2)]
    assert [each.serial for each in store.issued()] == ["02", "01"]
    assert store.nodes() == [node("vm1"), node("vm2")]
    assert store.node("vm3") is None
    assert [each.node for each in store.entries()] == ["vm1", "vm2"]


def test_a_token_is_used_up_only_once_by_many_at_once(store: Store) -> None:
    store.add_join_token(join_token(uses=3))
    outcomes: list[str] = []

    def use(number: int) -> None:
        try:
            joins(store, node(f"vm{number}"), f"{number:02}")
        except Conflict as conflict:
            outcomes.append(str(conflict))
        else:
            outcomes.append("joined")

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["joined"] * 3 + ["the join token t1 is used up"] * 5
    assert len(store.issued()) == 3


def test_a_node_whose_answer_was_lost_asks_again_with_its_key(store: Store) -> None:
    store.add_join_token(join_token())
    joins(store, node("vm1"), "01")
    joins(store, node("vm1"), "02")
    with pytest.raises(Conflict, match="used up"):
        joins(store, node("vm1", "another key"), "03")
    with pytest.raises(Conflict, match="expired"):
        joins(store, node("vm1"), "04", now=NOW + 3600)
    assert store.join_tokens()[0].used == 1


def test_a_revoked_token_is_of_no_use(store: Store) -> None:
    store.add_join_token(join_token())
    store.revoke_join_token("t1", NOW)
    with pytest.raises(Conflict, match="the join token t1 is revoked"):
        joins(store, node("vm1"), "01")
    assert store.issued() == []
    with pytest.raises(Conflict, match="no join token t2"):
        store.revoke_join_token("t2", NOW)
    with pytest.raises(Conflict, match="no join token t2"):
        store.join("t2", node("vm1"), issued("01", "vm1", ""), (), NOW)


def test_joining_again_replaces_what_came_with_the_token_before_and_nothing_else(store: Store) -> None:
    store.add_join_token(join_token(uses=2))
    by_hand = entry(9, "vm1", "default/db")
    store.add_entry(by_hand)
    joins(store, node("vm1"), "01", entry(1, "vm1", "default/old", "token t1"))
    renewed = entry(2, "vm1", "default/new", "token t1")
    joins(store, node("vm1"), "02", renewed, entry(3, "vm1", "default/db", "token t1"))
    assert store.entries() == [by_hand, renewed]


def test_a_renewal_changes_the_key_of_the_node_with_its_certificate(store: Store) -> None:
    store.add_join_token(join_token())
    joins(store, node("vm1"), "01")
    later = node("vm1", "a new key", at=NOW + DAY_S)
    store.add(issued("02", "vm1", ""), later)
    assert store.node("vm1") == later._replace(joined_at=NOW)


# --- entries


def test_entries_are_found_by_the_node_that_they_match(store: Store) -> None:
    exact, pattern = entry(1, "vm1", "default/web"), entry(2, "vm*", "default/*")
    every, other = entry(3, "*", "mesh/probe"), entry(4, "vm10", "default/web")
    for each in (exact, pattern, every, other):
        store.add_entry(each)
    assert store.entries_of("vm1") == [every, pattern, exact]
    assert store.entries_of("db1") == [every]
    assert store.entries() == [every, pattern, exact, other]
    store.remove_entry("e3")
    assert store.entries_of("db1") == []


def test_an_entry_is_there_once(store: Store) -> None:
    store.add_entry(entry(1, "vm1", "default/web"))
    with pytest.raises(Conflict, match="may have default/web already: entry e1"):
        store.add_entry(entry(2, "vm1", "default/web"))
    with pytest.raises(Conflict, match="no entry e2"):
        store.remove_entry("e2")


# --- the change of issuer and root


def test_a_rotation_is_changed_by_who_knows_how_far_it_is(store: Store) -> None:
    assert store.rotation() is None
    before = store.sequence()
    asked, first = store.rotate(None, Rotation("root", "asked", NOW, NOW, 10.0, 60.0, 0.0))
    assert store.rotation() == asked
    assert before < asked.sequence == store.sequence()
    prepared, second = store.rotate(asked, asked._replace(stage="prepared", stage_at=NOW + 1))
    assert store.rotation() == prepared
    assert (prepared.sequence > asked.sequence, second) == (True, first + 1)
    for other in (None, asked):
        with pytest.raises(Conflict, match="is further than it was"):
            store.rotate(other, asked)
    assert store.rotation() == prepared


def test_the_number_of_the_bundle_outlasts_a_store_that_is_restored(store: Store) -> None:
    """Agents were told more than the copy knows of: its next change has to be news to them."""
    store.deny([Denied("node", "vm1", "lost", NOW)])
    assert store.sequence() > time.time() - 60


def test_what_a_node_says_of_itself_is_what_it_said_last(store: Store) -> None:
    store.hear(Held("vm1", 4, 0.0, NOW))
    store.hear(Held("vm2", 4, 0.0, NOW))
    store.hear(Held("vm1", 5, NOW, NOW + 1))
    assert store.held() == [Held("vm1", 5, NOW, NOW + 1), Held("vm2", 4, 0.0, NOW)]


def test_who_holds_certificates_of_before(store: Store) -> None:
    store.add(issued("01", "vm1"))
    store.add(issued("02", "vm2", at=NOW + 10))
    store.add(issued("03", "vm3", at=NOW - 2 * DAY_S))
    store.add(issued("04", "", "default/api"))
    store.add(issued("05", "vm5", "default/api"))
    store.add(issued("06", "vm6", "default/store"))
    store.add(issued("07", "vm7")._replace(requester="itself"))
    store.deny(
        [Denied("serial", "05", "", NOW), Denied("identity", "spiffe://prod.example/ns/default/sa/store", "", NOW)]
    )
    assert store.holders(NOW + 5, NOW + 20) == ["", "vm1"]
    assert store.holders(NOW + 50, NOW + 20) == ["", "vm1", "vm2"]


# --- the deny list


def test_the_deny_list_has_a_number_for_each_of_its_states(store: Store) -> None:
    assert store.denied() == (store.sequence(), ())
    first = Denied("serial", "01", "stolen", NOW, NOW + DAY_S)
    second = Denied("node", "vm1", "lost", NOW + 1)
    states = [store.sequence()]
    for each in (first, second):
        store.deny([each])
        states.append(store.sequence())
    assert store.denied() == (states[-1], (first, second))
    store.deny([first._replace(reason="again")])
    assert store.denied().records == (first, second)
    store.allow("node", "vm1")
    states.append(store.sequence())
    store.forget_expired(NOW + DAY_S + 1)
    states.append(store.sequence())
    assert store.denied() == (states[-1], ())
    assert states == sorted(set(states))
    with pytest.raises(Conflict, match="the node vm1 is not denied"):
        store.allow("node", "vm1")


def test_forgetting_nothing_is_no_news(store: Store) -> None:
    store.deny([Denied("serial", "01", "stolen", NOW, NOW + DAY_S)])
    before = store.sequence()
    store.forget_expired(NOW)
    assert store.sequence() == before


@pytest.mark.parametrize(
    ("denied", "serial"),
    [
        (Denied("node", "vm1", "lost", NOW), issued("01", "vm1")),
        (Denied("identity", "spiffe://prod.example/ns/default/sa/web", "broken into", NOW), issued("01", "vm2")),
    ],
)
def test_no_certificate_gets_on_record_of_what_is_denied(store: Store, denied: Denied, serial: Issued) -> None:
    store.deny([denied])
    with pytest.raises(Conflict, match=f"is denied: {denied.reason}"):
        store.add(serial)
    assert store.issued() == []
    store.add(issued("02", "vm2", "default/api"))


def test_a_denied_node_does_not_join_and_its_token_stays_good(store: Store) -> None:
    store.add_join_token(join_token())
    store.deny([Denied("node", "vm1", "lost", NOW)])
    with pytest.raises(Conflict, match="the node vm1 is denied"):
        joins(store, node("vm1"), "01")
    joins(store, node("vm2"), "02")


def test_the_deny_list_is_bounded_and_a_list_too_long_is_not_taken_in_part(store: Store) -> None:
    store.deny([Denied("serial", f"{number:032x}", "", NOW) for number in range(MAX_DENIED)])
    before = store.denied()
    with pytest.raises(Conflict, match=f"{MAX_DENIED + 2} records, and {MAX_DENIED} is the most"):
        store.deny([Denied("serial", "x", "", NOW), Denied("serial", "y", "", NOW)])
    assert store.denied() == before


# --- the keys of JWT-SVIDs


def test_a_key_of_tokens_is_changed_by_who_knows_how_it_was(store: Store) -> None:
    first, second = jwt_key("k1"), jwt_key("k2", at=NOW + 5)
    before, numbers = store.sequence(), [store.put_jwt_key(None, second), store.put_jwt_key(None, first)]
    assert store.jwt_keys() == [first, second]
    assert store.sequence() > before
    retired = first._replace(retired_at=NOW + 9, not_after=NOW + 60)
    numbers.append(store.put_jwt_key(first, retired))
    for other in (None, first, second):
        with pytest.raises(Conflict, match="the JWT key k1 is another now"):
            store.put_jwt_key(other, first)
    with pytest.raises(Conflict, match="the JWT key k3 is another now"):
        store.put_jwt_key(first, jwt_key("k3"))
    assert store.jwt_keys() == [retired, second]
    assert numbers == [1, 2, 3]
    assert store.next_audit() == 4


def test_a_key_of_tokens_that_expired_is_forgotten_and_that_is_news(store: Store) -> None:
    store.put_jwt_key(None, jwt_key("k1"))
    store.put_jwt_key(None, jwt_key("k2", at=NOW + 5))
    before = store.sequence()
    store.forget_expired(NOW + 31 * DAY_S)
    assert store.sequence() == before
    store.forget_expired(NOW + 31 * DAY_S + 1)
    assert [each.kid for each in store.jwt_keys()] == ["k2"]
    assert store.sequence() > before


def test_the_keys_of_tokens_are_bounded(store: Store) -> None:
    for number in range(MAX_JWT_KEYS):
        store.put_jwt_key(None, jwt_key(f"k{number}"))
    with pytest.raises(Conflict, match=f"{MAX_JWT_KEYS + 1} JWT keys, and {MAX_JWT_KEYS} is the most"):
        store.put_jwt_key(None, jwt_key("one more"))
    assert len(store.jwt_keys()) == MAX_JWT_KEYS


# --- the audit log's numbers


def test_every_change_and_every_refusal_has_the_next_number(store: Store) -> None:
    numbers = [
        store.add(issued("01")),
        store.next_audit(),
        store.add_join_token(join_token()),
        store.join("t1", node("vm1"), issued("02", "vm1", ""), (), NOW),
        store.revoke_join_token("t1", NOW),
        store.add_entry(entry(1, "vm1", "default/web")),
        store.remove_entry("e1"),
        store.deny([Denied("node", "vm1", "", NOW)]),
        store.allow("node", "vm1"),
        store.next_audit(),
    ]
    assert numbers == list(range(1, 11))


def test_what_did_not_happen_takes_no_number(store: Store) -> None:
    for _ in range(2):
        with pytest.raises(Conflict):
            store.remove_entry("e1")
    assert store.next_audit() == 1


# --- SQLite alone


def version_1(file: Path) -> None:
    """A database as the first version of meshd made it, with something in each table."""
    with closing(sqlite3.connect(file)) as database:
        database.executescript(
            f"""
            PRAGMA application_id = {0x6D657368};
            PRAGMA user_version = 1;
            PRAGMA journal_mode = WAL;
            CREATE TABLE issued (
                serial TEXT PRIMARY KEY, identity TEXT NOT NULL, requester TEXT NOT NULL,
                not_before REAL NOT NULL, not_after REAL NOT NULL, issued_at REAL NOT NULL
            ) STRICT;
            CREATE INDEX issued_not_after ON issued (not_after);
            CREATE TABLE tokens (hash TEXT PRIMARY KEY, made_at REAL NOT NULL) STRICT;
            INSERT INTO issued VALUES
                ('01', 'spiffe://prod.example/ns/default/sa/web', '192.0.2.1', 1.5, {NOW + 5}, 2.5),
                ('02', 'localhost 127.0.0.1', 'itself', 1.5, {NOW + 5}, 2.5);
            INSERT INTO tokens VALUES ('d4f0bc5a29de06b510f9aa428f1eedba926012b591fef7a518e776a7c9bd1824', 1.0);
            """
        )


def test_a_database_of_version_1_loses_nothing(tmp_path: Path) -> None:
    file = tmp_path / "ca.db"
    version_1(file)
    for _ in range(2):  # the second time it is of this version
        with closing(SqliteStore.open(file)) as store:
            assert store.issued() == [
                Issued("02", "localhost 127.0.0.1", "itself", 1.5, NOW + 5, 2.5),
                Issued(
                    "01", "spiffe://prod.example/ns/default/sa/web", "192.0.2.1", 1.5, NOW + 5, 2.5, "", "default/web"
                ),
            ]
            assert store.knows_token("agent")
    with closing(SqliteStore.open(file)) as store:
        store.add_join_token(join_token())
        store.join("t1", node("vm1"), issued("03", "vm1", ""), [entry(1, "vm1", "default/web")], NOW)
        assert store.denied() == (0, ())


def test_a_migration_that_fails_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "ca.db"
    version_1(file)
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE counters (mine)")
    with pytest.raises(Problem, match=r"cannot be brought to this version's form: table counters already exists"):
        SqliteStore.open(file)
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        assert len(database.execute("SELECT * FROM issued").fetchone()) == 6
        assert database.execute("SELECT name FROM sqlite_master WHERE name = 'nodes'").fetchone() is None


def test_a_migrated_database_has_the_tables_of_a_new_one(tmp_path: Path) -> None:
    version_1(tmp_path / "old.db")
    SqliteStore.open(tmp_path / "old.db").close()
    SqliteStore.create(tmp_path / "new.db").close()

    def columns(name: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(tmp_path / name)) as database:
            return database.execute(
                "SELECT m.name, c.name, c.type, c.pk, c.[notnull] FROM sqlite_master m, pragma_table_info(m.name) c "
                "WHERE m.type = 'table' ORDER BY m.name, c.cid"
            ).fetchall()

    assert columns("old.db") == columns("new.db")


def test_a_later_versions_database_is_left_alone(tmp_path: Path) -> None:
    SqliteStore.create(tmp_path / "ca.db").close()
    with closing(sqlite3.connect(tmp_path / "ca.db")) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(Problem, match="a later version of meshd"):
        SqliteStore.open(tmp_path / "ca.db")


def test_a_database_that_another_program_holds_may_be_had_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshd.ca.sqlite.BUSY_S", 0.01)
    with (
        closing(SqliteStore.create(tmp_path / "ca.db")) as store,
        closing(sqlite3.connect(tmp_path / "ca.db", isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unreachable, match=r"ca\.db cannot be used: database is locked"):
            store.add(issued("01"))
        assert store.issued() == []  # reading goes on
        other.execute("ROLLBACK")
        store.add(issued("01"))


def test_two_that_write_at_once_wait_for_each_other(tmp_path: Path) -> None:
    """Each looks before it writes: without the write lock from the beginning one of them would be told to go away."""
    SqliteStore.create(tmp_path / "ca.db").close()
    failed: list[Exception] = []

    def write(name: str) -> None:
        try:
            with closing(SqliteStore.open(tmp_path / "ca.db")) as store:
                for number in range(30):
                    store.add_entry(Entry(f"{name}{number}", name, f"default/w{number}", "operator", NOW))
        except (Unreachable, Conflict) as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in ("vm1", "vm2", "vm3")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with closing(SqliteStore.open(tmp_path / "ca.db")) as store:
        assert len(store.entries()) == 90


def all_added(store: Store, *certificates: Issued) -> None:
    with store.together():
        for each in certificates:
            store.add(each)


def test_a_full_disk_loses_nothing_and_may_pass(tmp_path: Path) -> None:
    file = tmp_path / "ca.db"
    SqliteStore.create(file).close()
    database = connect(file)
    with closing(SqliteStore(file, database)) as store:
        store.add(issued("01"))  # from here on a page limit stands for the disk's: the same error, SQLITE_FULL
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(Unreachable, match="database or disk is full"):
            store.add(issued("02")._replace(requester="x" * 100_000))
        with pytest.raises(Unreachable, match="database or disk is full"):
            all_added(store, issued("03"), issued("04")._replace(requester="x" * 100_000))
        assert [each.serial for each in store.issued()] == ["01"]
        database.execute("PRAGMA max_page_count = 100000")
        store.add(issued("02"))
    assert [each.serial for each in recorded(tmp_path)] == ["01", "02"]


def test_what_is_done_together_is_one_transaction(tmp_path: Path) -> None:
    """Nobody sees a part of it, nor does a copy that is made meanwhile; and what ends with an error was not done."""
    with closing(SqliteStore.create(tmp_path / "ca.db")) as store:
        with store.together():
            for number in range(5):
                store.add(issued(f"{number:02}"))
            assert recorded(tmp_path) == []
        assert len(recorded(tmp_path)) == 5
        with pytest.raises(Unreachable, match="UNIQUE constraint failed"):
            all_added(store, issued("05"), issued("04"))
        assert len(recorded(tmp_path)) == 5
        assert store.add(issued("06")) == 6


def test_secrets_are_not_in_the_database(tmp_path: Path) -> None:
    with closing(SqliteStore.create(tmp_path / "ca.db")) as store:
        store.add_token("a shared secret", NOW)
        store.add_join_token(JoinToken("t1", join_token().secret_hash, "*", ("*/*",), 1, 0, NOW, NOW + 1))
        content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"t1" in content
    assert b"a shared secret" not in content
