"""Patterns of nodes and workloads: rows of what matches, and of what is none."""

import pytest

from meshd.api.names import InvalidName, WorkloadName
from meshd.ca.patterns import check_node, check_workload, is_exact, matches_node, matches_workload


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("vm1", ["vm1"], ["vm10", "vm", "xvm1", "VM1"]),
        ("web-*", ["web-1", "web-", "web-a-b"], ["web", "api-1"]),
        ("*", ["a", "web-1"], []),
        ("*-db-*", ["eu-db-1"], ["eu-db", "db-1"]),
    ],
)
def test_what_a_pattern_of_nodes_matches(pattern: str, matching: list[str], others: list[str]) -> None:
    assert check_node(pattern) == pattern
    assert all(matches_node(pattern, name) for name in matching)
    assert not any(matches_node(pattern, name) for name in others)
    assert is_exact(pattern) == (pattern == "vm1")


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("default/web", ["default/web"], ["default/web2", "web/default", "other/web"]),
        ("default/*", ["default/web", "default/a"], ["defaults/web", "other/web"]),
        ("*/web", ["default/web", "other/web"], ["default/web-2"]),
        ("pay*/*-db", ["payments/main-db"], ["payments/main", "default/main-db"]),
        ("*/*", ["default/web", "a/b"], []),
    ],
)
def test_what_a_pattern_of_workloads_matches(pattern: str, matching: list[str], others: list[str]) -> None:
    assert check_workload(pattern) == pattern
    assert all(matches_workload(pattern, WorkloadName.parse(name)) for name in matching)
    assert not any(matches_workload(pattern, WorkloadName.parse(name)) for name in others)


@pytest.mark.parametrize(
    "pattern", ["", "-a", "a-", "A", "a.b", "a?", "[a-z]", "a b", "a\n", "a/b", "é", "a" * 64, "**" * 32 + "*"]
)
def test_what_no_node_is_called_is_no_pattern_of_nodes(pattern: str) -> None:
    with pytest.raises(InvalidName, match="is not a node's name or a pattern of such"):
        check_node(pattern)


@pytest.mark.parametrize(
    "pattern", ["", "web", "*", "/web", "default/", "a/b/c", "a//b", "*/[a]", "Default/web", "a/*\n"]
)
def test_a_pattern_of_workloads_has_both_parts(pattern: str) -> None:
    with pytest.raises(InvalidName, match="is not NAMESPACE/NAME or a pattern of such"):
        check_workload(pattern)


def test_a_pattern_made_to_be_slow_is_not() -> None:
    assert not matches_node("a*" * 31 + "b", "a" * 63)
