"""Who it is that asks, from what a connection brings: each kind of proof, and every way in which it is none."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from meshd.ca import certificates
from meshd.ca.attest import Attestors, ByJoinToken, ByNodeCertificate, BySharedToken, Evidence
from meshd.ca.certificates import Life
from meshd.ca.records import JoinToken, hashed
from meshd.ca.requester import OfNode, Requester
from meshd.ca.source import NotAuthenticated
from meshd.ca.sqlite import SqliteStore
from meshd.ca.tokens import PrintedToken
from tests.support import aio
from tests.support.stores import NOW, entry

LIFE = Life.starting(NOW, 3600.0)
ROOT = certificates.make_root("prod.example", LIFE)
ROOT_HASH = certificates.key_hash(ROOT.certificate.public_key())
TOKEN = PrintedToken.new(ROOT_HASH)
ELSEWHERE = PrintedToken.new(bytes(32))
FORGED = PrintedToken(TOKEN.id, bytes(32), ROOT_HASH)
UNKNOWN = PrintedToken.new(ROOT_HASH)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore.create(tmp_path / "ca.db")) as made:
        made.add_token("shared", NOW)
        made.add_join_token(JoinToken(TOKEN.id, hashed(TOKEN.secret), "vm*", ("*/*",), 1, 0, NOW, NOW + 60))
        made.add_entry(entry(1, "vm*", "default/web"))
        yield made


def shown(path: str) -> bytes:
    key = certificates.new_key()
    leaf = certificates.make_leaf(f"spiffe://prod.example/{path}", key.public_key(), ROOT, LIFE)
    return leaf.public_bytes(Encoding.DER)


def server() -> bytes:
    return certificates.make_server(["ca.example"], ROOT, LIFE).certificate.public_bytes(Encoding.DER)


def attest(store: SqliteStore, credential: str = "", certificate: bytes = b"") -> Requester:
    attestors = Attestors((ByNodeCertificate(store), ByJoinToken(store, lambda: {ROOT_HASH}), BySharedToken(store)))
    return aio.run(attestors.attest(Evidence(credential, certificate, "192.0.2.7")))


def test_a_node_is_known_by_its_certificate_with_all_that_it_may_have(store: SqliteStore) -> None:
    node = attest(store, certificate=shown("node/vm1"))
    assert str(node) == "node vm1 at 192.0.2.7"
    assert isinstance(node.grant, OfNode)
    assert (node.node, node.grant.node) == ("vm1", "vm1")
    assert node.grant.entries_of("vm1") == [entry(1, "vm*", "default/web")]
    assert len(node.serial) == 32
    assert node.until == LIFE.not_after  # no token outlives it


def test_a_join_token_is_known_as_the_one_on_record(store: SqliteStore) -> None:
    joining = attest(store, TOKEN.text())
    assert (joining.name, joining.token) == (f"token {TOKEN.id}", store.join_token(TOKEN.id))


def test_the_shared_token_is_some_agents(store: SqliteStore) -> None:
    assert (attest(store, "shared").name, attest(store, "shared").node) == ("shared token", "")


def test_a_token_is_looked_at_and_not_the_certificate_beside_it(store: SqliteStore) -> None:
    assert attest(store, "shared", shown("node/vm1")).node == ""
    with pytest.raises(NotAuthenticated, match="not known to this CA"):
        attest(store, "wrong", shown("node/vm1"))


@pytest.mark.parametrize(
    ("credential", "certificate", "reason"),
    [
        ("", b"", "there is no token, and no node's certificate"),
        ("wrong", b"", "the token is not known to this CA"),
        (TOKEN.text()[:-1], b"", "the join token is malformed: a part of it is missing"),
        (TOKEN.text().upper(), b"", "the join token is malformed"),
        (TOKEN.text().replace("v1", "v9"), b"", "the join token is malformed: it is of another version"),
        (ELSEWHERE.text(), b"", f"the join token {ELSEWHERE.id} is of another CA"),
        (FORGED.text(), b"", f"the join token {TOKEN.id} is not known"),
        (UNKNOWN.text(), b"", f"the join token {UNKNOWN.id} is not known"),
        ("", shown("ns/default/sa/web"), "not a node's, but that of spiffe://prod.example/ns/default/sa/web"),
        ("", shown("other/x"), "not a node's, but that of no one"),
        ("", server(), "not a node's, but that of no one"),
    ],
)
def test_what_proves_nothing_is_refused(store: SqliteStore, credential: str, certificate: bytes, reason: str) -> None:
    with pytest.raises(NotAuthenticated, match=reason) as refused:
        attest(store, credential, certificate)
    secret = TOKEN.text().split(".")[2]
    assert secret not in f"{refused.value} {refused.value.detail}"
    assert secret not in repr(Evidence(TOKEN.text(), b"", ""))
