"""The name server's sockets: from one agent to the next by the service manager."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshd.agent.names.sockets import KINDS, Opened, let_go, opened
from meshd.api.names import Address
from tests.support.managers import Manager

ANY = Address("127.0.0.1", 0)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    made = Manager(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", made.path)
    yield made
    made.close()


def kept(sockets: Opened) -> list[tuple[str, socket.socket]]:
    """What the manager starts the next process with: its own copies, among others'."""
    return [("meshd.socket", socket.socket()), *zip(KINDS, (each.dup() for each in sockets), strict=True)]


def test_what_is_asked_between_two_agents_waits_for_the_second(manager: Manager) -> None:
    first = opened(ANY, ())
    assert [manager.hears("FDSTORE=1")[-1] for _ in KINDS] == [f"FDNAME={name}" for name in KINDS]
    address = Address(*first.stream.getsockname())
    copies = kept(first)
    for each in first:
        each.close()
    with socket.create_connection(address, 10), socket.socket(type=socket.SOCK_DGRAM) as asking:
        asking.sendto(b"question", address)
        second = opened(address, copies)
        assert second.datagrams.recv(100) == b"question"
        second.stream.accept()[0].close()
    for each in second:
        each.close()
    let_go(())
    assert len(manager.told) == len(KINDS), "what came from the manager it has already"


def test_at_another_address_or_none_they_are_let_go(manager: Manager) -> None:
    first = opened(ANY, ())
    second = opened(ANY, kept(first))
    assert second.stream.getsockname() != first.stream.getsockname()
    let_go(kept(second))
    said = [manager.hears("FD")[0] for _ in range(8)]
    assert said.count("FDSTOREREMOVE=1") == 4
    for each in (*first, *second):
        each.close()


def test_where_one_cannot_be_had_neither_is() -> None:
    with socket.create_server(ANY) as stream, socket.socket(type=socket.SOCK_DGRAM) as other:
        taken = Address(*stream.getsockname())
        other.bind(taken)
        stream.close()
        with pytest.raises(OSError, match="in use"):
            opened(taken, ())
        socket.create_server(taken).close()
