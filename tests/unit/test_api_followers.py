"""Those who are called when something changes: in their order, once each, and not after they have left."""

from collections.abc import Callable

from meshd.api.followers import Followers


def test_all_are_told_in_their_order_until_they_leave() -> None:
    followers, heard = Followers[[str]](), list[str]()
    leave_a = followers.follow(lambda said: heard.append(f"a {said}"))
    leave_b = followers.follow(lambda said: heard.append(f"b {said}"))
    followers.tell("1")
    assert len(followers) == 2
    leave_a()
    followers.tell("2")
    leave_a()  # which is to do nothing to those that came with it, or after it
    leave_c = followers.follow(lambda said: heard.append(f"c {said}"))
    leave_a()
    followers.tell("3")
    assert heard == ["a 1", "b 1", "b 2", "b 3", "c 3"]
    leave_b()
    leave_c()
    assert not followers


def test_the_same_may_follow_twice_and_leaves_twice() -> None:
    followers, heard = Followers[[int]](), list[int]()
    leaves = [followers.follow(heard.append) for _ in range(2)]
    followers.tell(1)
    leaves[0]()
    followers.tell(2)
    leaves[1]()
    followers.tell(3)
    assert heard == [1, 1, 2]


def test_who_leaves_while_others_are_told_is_not_told_and_who_comes_is_told_the_next_time() -> None:
    followers, heard = Followers[[]](), list[str]()
    leaves: list[Callable[[], None]] = []

    def first() -> None:
        heard.append("first")
        for leave in leaves:
            leave()
        followers.follow(lambda: heard.append("new"))

    leave_first = followers.follow(first)
    leaves.append(followers.follow(lambda: heard.append("left")))
    leaves.append(leave_first)
    followers.follow(lambda: heard.append("last"))
    followers.tell()
    assert heard == ["first", "last"]
    followers.tell()
    assert heard == ["first", "last", "last", "new"]


def test_calls_that_are_made_later_pass_over_who_has_left() -> None:
    followers, heard = Followers[[]](), list[int]()
    leaves = [followers.follow(lambda number=number: heard.append(number)) for number in range(3)]  # type: ignore[misc]
    calls = followers.calls()
    leaves[1]()
    for call in calls:
        call()
    assert heard == [0, 2]
