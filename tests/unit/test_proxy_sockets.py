"""Listening sockets: bound, shared, refused with a line for the operator."""

import os
import socket

import pytest

from meshd.api.inherited import inherited
from meshd.api.problems import Problem
from proxy.kept import address_of, name_of
from proxy.sockets import Sockets, bound


def test_a_taken_port_is_a_problem_that_names_it() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(Problem, match=f"cannot listen at {address}: Address already in use"):
            Sockets([]).listen(address)


def test_what_is_inherited_is_lent_and_outlives_the_borrower() -> None:
    with socket.create_server(("127.0.0.1", 0)) as parent:
        address = f"127.0.0.1:{parent.getsockname()[1]}"
        sockets = Sockets([parent])
        sockets.listen(address).close()
        with sockets.listen(address) as again:
            assert again.getsockname() == parent.getsockname()
        socket.create_connection(parent.getsockname()).close()


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine's Python has no IPv6")
def test_ipv6_is_its_own() -> None:
    with bound("[::1]:0") as listener:
        assert listener.family == socket.AF_INET6
        assert listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"LISTEN_FDS": "2"},
        {"LISTEN_PID": "1", "LISTEN_FDS": "2"},
        {"LISTEN_PID": "mine", "LISTEN_FDS": "two"},
    ],
)
def test_sockets_meant_for_another_are_not_taken(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(os.getpid()) if value == "mine" else value)
    assert inherited() == []
    assert "LISTEN_FDS" not in os.environ


@pytest.mark.parametrize("text", ["127.0.0.1:0", "[::1]:0"])
def test_what_a_manager_keeps_is_known_by_its_name(text: str) -> None:
    with bound(text) as one, bound(text) as other, one.dup() as same:
        assert address_of(name_of(text, one)) == text
        assert name_of(text, one) != name_of(text, other)
        assert ":" not in name_of(text, one), "names stand between colons"
        assert name_of(text, same) == name_of(text, one)


@pytest.mark.parametrize("name", ["", "meshd-proxy.socket", "unknown", "stored"])
def test_sockets_of_units_are_none_that_were_kept(name: str) -> None:
    assert address_of(name) is None
