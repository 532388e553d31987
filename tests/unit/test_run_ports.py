"""Which ports are listened on, and the sockets that `meshd run` binds."""

import socket

import pytest

from meshd.api.documents import Upstream, WorkloadPort
from meshd.api.names import Address
from meshd.api.problems import Problem
from meshd.run.listeners import Listeners, address_of
from meshd.run.ports import listening, not_listening

ANY = Address("127.0.0.1", 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::", "::1", "127.0.0.2"])
def test_a_port_is_listened_on_where_connections_to_it_would_be_accepted(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::") as server:
        port = WorkloadPort(server.getsockname()[1])
        assert Address(host, port.port) in set(listening())
        reached = host in ("127.0.0.1", "0.0.0.0", "::")
        assert not_listening([port]) == (() if reached else (f"port {port.port}",))
    assert not_listening([port]) == (f"port {port.port}",)


def test_a_bound_socket_that_does_not_listen_accepts_nothing() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert address_of(bound) not in set(listening())


def test_listeners_tell_the_ports_that_they_got() -> None:
    listeners = Listeners(ANY, ANY, ANY, [Upstream("api", "127.0.0.1:0", "tcp")])
    try:
        (upstream,) = listeners.upstreams
        assert upstream.service == "api"
        assert upstream.protocol == "tcp"
        addresses = [address_of(each) for each in listeners.sockets]
        assert str(addresses[3]) == upstream.listen
        assert set(addresses) <= set(listening())
    finally:
        listeners.close()
    assert not set(addresses) & set(listening())


def test_an_address_in_use_is_named_with_its_flag_and_nothing_stays_bound() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        outbound = address_of(free)
        free.close()
        with pytest.raises(Problem, match=rf"--admin: cannot listen on {address_of(taken)}: Address already in use"):
            Listeners(outbound, ANY, address_of(taken), [])
        assert outbound not in set(listening())


def test_an_address_that_is_none_of_ours_is_a_problem() -> None:
    with pytest.raises(Problem, match=r"--upstream: cannot listen on 192.0.2.1:9001"):
        Listeners(ANY, ANY, ANY, [Upstream("api", "192.0.2.1:9001")])
