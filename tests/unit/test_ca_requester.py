"""What each kind of requester may have: rows of identities, theirs and others'."""

import pytest

from meshd.api.names import Identity, WorkloadName
from meshd.ca.records import JoinToken
from meshd.ca.requester import AnyWorkload, Grant, Joining, OfNode, OneWorkload
from tests.support.stores import NOW, entry, join_token, node

WEB, DB = "ns/default/sa/web", "ns/payments/sa/db-main"
VM1, VM2 = "node/vm1", "node/vm2"

SHARED = AnyWorkload("the agents' token")
ENTRIES = [entry(1, "vm1", "default/web"), entry(2, "vm*", "payments/db-*"), entry(3, "vm2", "default/api")]
NODE = OfNode("vm1", lambda _: ENTRIES)
BARE = OfNode("vm1", lambda _: [])
ONE_NODE, PATTERN = Joining(join_token(pattern="vm1")), Joining(join_token(pattern="vm*"))
POD = OneWorkload("the service account default/web", WorkloadName("default", "web"))


def identity(path: str) -> Identity:
    return Identity.parse(f"spiffe://prod.example/{path}")


@pytest.mark.parametrize(
    ("grant", "path"),
    [
        (SHARED, WEB),
        (SHARED, DB),
        (NODE, VM1),
        (NODE, WEB),
        (NODE, DB),
        (BARE, VM1),
        (ONE_NODE, VM1),
        (PATTERN, VM2),
        (POD, WEB),
    ],
)
def test_what_is_granted(grant: Grant, path: str) -> None:
    assert grant(identity(path)) == ""


@pytest.mark.parametrize(
    ("grant", "path", "reason"),
    [
        (SHARED, VM1, "a host's identity, and the agents' token stands for workloads only"),
        (NODE, VM2, "is another node's, and this is vm1"),
        (NODE, "ns/default/sa/api", "no entry lets the node vm1 have default/api: `meshd ca entry add --node vm1"),
        (NODE, "ns/default/sa/web2", "no entry"),
        (NODE, "ns/web/sa/default", "no entry"),
        (NODE, "ns/payments/sa/dbx", "no entry"),
        (BARE, WEB, "no entry"),
        (ONE_NODE, VM2, "the join token t1 is for the node vm1, not for vm2"),
        (PATTERN, "node/db1", "is for the node vm\\*, not for db1"),
        (PATTERN, WEB, "a join token is for joining as a node"),
        (POD, DB, "is not the service account default/web's"),
        (POD, "ns/other/sa/web", "is not the service account default/web's"),
        (POD, VM1, "is not the service account default/web's"),
    ],
)
def test_what_is_not(grant: Grant, path: str, reason: str) -> None:
    assert reason.replace("\\", "") in grant(identity(path))


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, "valid"),
        ({"used": 2}, "used up"),
        ({"expires_at": NOW}, "expired"),
        ({"expires_at": NOW + 0.1}, "valid"),
        ({"revoked_at": NOW - 1}, "revoked"),
        ({"revoked_at": NOW - 1, "used": 2, "expires_at": NOW - 1}, "revoked"),
    ],
)
def test_the_state_of_a_token(change: dict[str, float], state: str) -> None:
    token: JoinToken = join_token(uses=2)._replace(**change)  # type: ignore[arg-type]
    assert token.state(NOW) == state


def test_a_pattern_does_not_take_over_a_node_that_is_there() -> None:
    """Who holds a token for any node must not become one that may do more than new ones."""
    there = node("vm1", origin="token before")
    assert "has joined before, with another key" in join_token(pattern="vm*").refuses("vm1", "new", there, NOW)
    assert join_token(pattern="vm1").refuses("vm1", "new", there, NOW) == ""
    assert join_token(pattern="vm*").refuses("vm1", there.key_hash, there, NOW) == ""
    assert join_token(pattern="vm*").refuses("vm2", "new", None, NOW) == ""
