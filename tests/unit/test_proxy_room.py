"""How many connections there may be, and that TCP finds out who is gone."""

import os
import resource
import socket

from proxy.room import MOST, Room, used_descriptors
from proxy.sockets import KEEP_ALIVE, keep_alive


def test_descriptors_are_counted() -> None:
    before = used_descriptors()
    pipe = os.pipe()
    assert used_descriptors() == before + 2
    for end in pipe:
        os.close(end)


def test_there_is_room_for_fewer_than_there_are_descriptors() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = Room()
    assert 0 < room.limit <= min(soft - 10, MOST)
    room.set_limit(soft * 2)
    assert room.limit < soft
    room.set_limit(20)
    assert room.limit == 20
    room.set_limit(0)
    assert room.limit == Room.most()


def test_what_was_accepted_is_believed_to_be_open_until_it_is_counted() -> None:
    room = Room()
    used = room.look()
    room.set_limit(used + 3)
    assert [room.take() for _ in range(10)] == [True] * 10, "none of them was kept"
    pipes = [os.pipe() for _ in range(2)]
    room.look()
    assert not room.take()
    assert not room.again
    for pipe in pipes:
        for end in pipe:
            os.close(end)
    room.look()
    room.set_limit(used + 10)
    assert room.again


def test_what_is_accepted_has_the_kernel_look_whether_the_peer_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        keep_alive(listener)
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted:
                for level, option, value in KEEP_ALIVE:
                    assert accepted.getsockopt(level, option) == value
