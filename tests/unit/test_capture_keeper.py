"""Keeping the table in force, over a kernel that is a variable."""

import asyncio
import dataclasses
from collections.abc import Callable

from meshd.api.problems import Problem
from meshd.capture.keeper import ATTEMPTS, AWAY_S, LOOK_EVERY_S, Keeper, Planning, uses
from meshd.capture.nft import InForce
from meshd.capture.plan import Group, Plan, listener
from meshd.capture.table import declared, digest, removal, render

SOME = Plan(listener("127.0.0.1:4140"), listener("0.0.0.0:4143"), Group("meshed.slice", 1, 7), exempt=(998,))
NONE = dataclasses.replace(SOME, group=None)


class Kernel:
    """Rules that are a text; `broken`: nothing can be done. `others` act right after a table is applied, one a time."""

    def __init__(self) -> None:
        self.text: str | None = None
        self.applied = self.looked = self.transactions = 0
        self.broken = ""
        self.others: list[str] = []

    def apply(self, text: str, *, check: bool = False) -> None:
        self._may()
        self.applied += 1
        self.change(text.removeprefix(removal()) or None)
        if self.others:
            self.change(self.others.pop())

    def change(self, text: str | None) -> None:
        self.transactions += 1
        self.text = text

    def remove(self) -> bool:
        self._may()
        was, self.text = self.text is not None, None
        return was

    def in_force(self) -> InForce | None:
        self._may()
        self.looked += 1
        return None if self.text is None else InForce(self.text, "")

    def generation(self) -> int:
        return self.transactions

    def _may(self) -> None:
        if self.broken:
            raise Problem(self.broken)


class World:
    """A keeper, what it is to keep, and a clock."""

    def __init__(self, plan: Plan = SOME, *, fail_open: bool = False) -> None:
        self.kernel, self.plan, self.now, self.proxy = Kernel(), plan, 1000.0, True
        self.troubles: tuple[str, ...] = ()
        self.unsafe, self.has_processes = "", False
        self.told: list[tuple[bool, str | None]] = []
        self.keeper = Keeper(
            self._planning,
            is_proxy_there=(lambda: self.proxy) if fail_open else None,
            rules=self.kernel,
            is_used=lambda plan: self.has_processes or bool(plan.ports),
            changed=lambda: self.told.append((self.keeper.standing.is_used, self.kernel.text)),
            monotonic=lambda: self.now,
        )

    def _planning(self, is_open: bool) -> Planning:
        def planned() -> tuple[Plan, tuple[str, ...]]:
            if self.unsafe:
                raise Problem(self.unsafe)
            return dataclasses.replace(self.plan, is_open=is_open), self.troubles

        return planned

    def look(self, after_s: float = 1.0) -> None:
        self.now += after_s
        asyncio.run(self.keeper.look())


def first(world: World) -> World:
    world.look()
    return world


def test_it_is_put_in_force_and_then_left_alone() -> None:
    world = first(World())
    assert world.kernel.text == declared(SOME)
    assert world.keeper.standing.since
    for _ in range(5):
        world.look()
    assert world.kernel.applied == 1
    assert world.kernel.looked == 2  # before and after it was applied; unless told, not each second


def test_another_plan_replaces_it() -> None:
    world = first(World())
    world.plan = dataclasses.replace(SOME, ports=(80,))
    world.look()
    assert world.kernel.text == declared(world.plan)
    assert world.keeper.standing.restored == 0


def test_what_others_did_is_undone_within_a_minute_and_counted() -> None:
    world = first(World())
    for done, count in ((None, 1), ("table inet meshd { }", 2)):
        world.kernel.text = done
        world.look(LOOK_EVERY_S)
        assert world.kernel.text == declared(SOME)
        assert world.keeper.standing.restored == count


def test_what_others_did_right_after_it_was_put_in_force_is_not_taken_for_it() -> None:
    world = World()
    world.kernel.others = ["table inet meshd { }"]
    world.look()
    assert world.kernel.text == declared(SOME)
    assert world.keeper.standing.troubles == ()
    world.kernel.others = ["table inet meshd { chain captured { } }"]
    world.kernel.change(None)  # it is put back, and they are at it again
    world.look(LOOK_EVERY_S)
    assert world.kernel.text == declared(SOME)


def test_who_changes_it_all_the_time_is_complained_of_and_outlasted() -> None:
    world = World()
    world.kernel.others = ["table inet meshd { }"] * (ATTEMPTS + 1)
    world.look()
    (said,) = world.keeper.standing.troubles
    assert "all the time" in said
    world.look()
    assert world.kernel.text == declared(SOME)
    assert world.keeper.standing.troubles == ()


def test_a_look_that_comes_to_nothing_is_taken_again_and_not_in_a_minute() -> None:
    world = first(World())
    world.kernel.text, world.kernel.broken = None, "nft: no"
    world.look(LOOK_EVERY_S)
    world.kernel.broken = ""
    world.look()
    assert world.kernel.text == declared(SOME)


def test_with_nobody_to_capture_there_is_no_table_and_nothing_to_complain_of() -> None:
    world = World(NONE)
    world.kernel.broken = "there is no nft"
    world.look()
    assert world.keeper.standing.troubles == ()
    world.kernel.broken, world.kernel.text = "", render(SOME)
    world.look(LOOK_EVERY_S)
    assert world.kernel.text is None


def test_when_the_last_is_gone_the_table_goes() -> None:
    world = first(World())
    world.plan = NONE
    world.look()
    assert world.kernel.text is None
    assert not world.keeper.standing.since


def test_what_cannot_be_done_is_said_and_tried_again() -> None:
    world = World()
    world.kernel.broken = "nft: no"
    world.look()
    assert list(world.keeper.standing.troubles) == ["capture: nft: no"]
    world.kernel.broken = ""
    world.look()
    assert not list(world.keeper.standing.troubles)
    assert world.kernel.text == declared(SOME)


def test_what_must_not_be_done_leaves_what_is_in_force() -> None:
    world = first(World())
    world.unsafe = "no such user"
    world.look(LOOK_EVERY_S)
    assert world.kernel.text == declared(SOME)
    assert world.keeper.standing.troubles == ("capture: no such user",)


def test_it_opens_when_the_proxy_has_been_away_and_closes_when_it_is_back() -> None:
    world = first(World(fail_open=True))
    look: Callable[[], bool] = lambda: "redirect" in (world.kernel.text or "")  # noqa: E731
    assert look()
    world.look(100.0)
    world.proxy = False
    world.look(AWAY_S)
    assert look()  # a proxy that is restarted is back by then
    world.look(0.1)
    assert not look()
    assert digest(dataclasses.replace(SOME, is_open=True)) in (world.kernel.text or "")
    world.proxy = True
    world.look(0.1)
    assert look()


def test_it_stays_closed_unless_it_is_to_open() -> None:
    world = first(World())
    world.proxy = False
    world.look(1000.0)
    assert world.kernel.text == declared(SOME)


def test_it_is_told_when_somebody_is_captured_and_when_nobody_is_any_more() -> None:
    world = first(World())
    assert world.told == []
    world.has_processes = True
    for _ in range(2):
        world.look()
    assert world.told == [(True, declared(SOME))]
    world.has_processes, world.plan = False, dataclasses.replace(SOME, ports=(80,))
    world.look()
    world.plan = SOME
    world.look()
    assert world.told[1:] == [(False, declared(SOME))]  # the kernel leads nobody there any more


def test_a_slice_without_processes_captures_nobody() -> None:
    assert not uses(dataclasses.replace(SOME, group=Group("no-such.slice", 1, 7)))
    assert uses(dataclasses.replace(SOME, group=None, ports=(80,)))
    assert uses(dataclasses.replace(SOME, group=None, uids=(1,)))
