"""The kernel says whose a socket is: real sockets of this process, in whatever control group it is."""

import socket

import pytest

from meshd.api.names import Address
from proxy.capture.diag import SocketDiag, Undecided


@pytest.fixture
def listener() -> object:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def whose(diag: SocketDiag, caller: socket.socket, listener: socket.socket) -> object:
    try:
        return diag.whose(Address("127.0.0.1", caller.getsockname()[1]), Address(*listener.getsockname()))
    except Undecided as error:
        pytest.skip(f"not on this kernel: {error}")


def test_this_process_is_found(listener: socket.socket) -> None:
    diag = SocketDiag()
    with socket.create_connection(listener.getsockname()) as caller:
        found = whose(diag, caller, listener)
        assert found is not None
        assert whose(diag, caller, listener) == found
    assert (diag.found, diag.unknown, diag.failed) == (2, 0, 0)
    assert diag.spent_s > 0.0
    diag.close()


def test_a_caller_with_a_socket_for_both_families_is_found(listener: socket.socket) -> None:
    diag = SocketDiag()
    with socket.socket(socket.AF_INET6) as caller:
        try:
            caller.connect(("::ffff:127.0.0.1", listener.getsockname()[1]))
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
        assert whose(diag, caller, listener) is not None
    diag.close()


def test_a_caller_that_has_said_all_is_found_and_one_that_has_closed_is_not(listener: socket.socket) -> None:
    diag = SocketDiag()
    caller = socket.create_connection(listener.getsockname())
    here = Address(*caller.getsockname())
    caller.shutdown(socket.SHUT_WR)
    assert whose(diag, caller, listener) is not None
    caller.close()
    assert diag.whose(here, Address(*listener.getsockname())) is None
    assert (diag.found, diag.unknown) == (1, 1)
    diag.close()


def test_nobody_is_found_where_nobody_called(listener: socket.socket) -> None:
    diag = SocketDiag()
    with socket.create_connection(listener.getsockname()) as caller:
        if whose(diag, caller, listener):
            here, there = Address(*caller.getsockname()), Address(*listener.getsockname())
            assert diag.whose(there, there) is None  # which listens, and calls nobody
            assert diag.whose(here, Address("127.0.0.2", there.port)) is None
    diag.close()


def test_who_listens_is_found(listener: socket.socket) -> None:
    diag = SocketDiag()
    port = listener.getsockname()[1]
    try:
        assert diag.listens(Address("127.0.0.1", port))
    except Undecided as error:
        pytest.skip(f"not on this kernel: {error}")
    with socket.create_connection(listener.getsockname()):  # an open connection is not one who listens
        assert diag.listens(Address("127.0.0.1", port))
    assert not diag.listens(Address("127.0.0.2", port))
    listener.close()
    assert not diag.listens(Address("127.0.0.1", port))
    with socket.create_server(("0.0.0.0", 0)) as anywhere:
        assert diag.listens(Address("127.0.0.2", anywhere.getsockname()[1]))
    diag.close()


def test_who_listens_for_both_families_is_found() -> None:
    diag = SocketDiag()
    try:
        both = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with both:
        port = both.getsockname()[1]
        assert diag.listens(Address("127.0.0.1", port))
        assert diag.listens(Address("::1", port))
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as one:
        assert not diag.listens(Address("127.0.0.1", one.getsockname()[1]))
    diag.close()
