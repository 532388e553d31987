"""What the stages of a rotation wait for."""

from contextlib import closing
from pathlib import Path

import pytest

from meshd.ca.records import Held, Rotation
from meshd.ca.rotation import UNKNOWN, described, missing, waits_for
from tests.support.stores import NOW, STORES, issued, node

PREPARED = Rotation("root", "prepared", NOW, NOW, sequence=5)
ACTIVE = Rotation("root", "active", NOW, NOW, sequence=6, issued_before=NOW)


@pytest.mark.parametrize(
    ("rotation", "nodes", "held", "holders", "expected"),
    [
        (PREPARED, ("vm1",), {}, (), ("vm1",)),
        (PREPARED, ("vm1",), {"vm1": 4}, (), ("vm1",)),
        (PREPARED, ("vm1",), {"vm1": 5}, (), ()),
        (PREPARED, ("vm1", "vm2"), {"vm2": 7}, ("vm1", "vm2"), ("vm1",)),
        (PREPARED, ("off",), {}, (), ()),
        (PREPARED, ("denied",), {}, ("denied",), ()),
        (PREPARED, (), {}, ("",), (UNKNOWN,)),
        (ACTIVE, ("vm1",), {}, (), ()),
        (ACTIVE, (), {"vm1": 6}, ("vm1",), ("vm1",)),
        (ACTIVE, (), {"new": 5}, ("new",), ("new",)),
        (ACTIVE, (), {"new": 6}, ("new",), ()),
    ],
)
def test_a_stage_waits_for(
    rotation: Rotation,
    nodes: tuple[str, ...],
    held: dict[str, int],
    holders: tuple[str, ...],
    expected: tuple[str, ...],
) -> None:
    """A node called `off` has let its certificate expire; one called `new` has renewed all that it has."""
    known = [node(name, at=NOW - (8 * 86400.0 if name == "off" else 0.0)) for name in nodes]
    said = {name: Held(name, number, NOW if name == "new" else NOW - 1, NOW) for name, number in held.items()}
    assert missing(rotation, known, said, holders, {"denied"}, NOW + 1) == expected


def test_what_was_being_signed_as_the_stage_began_is_waited_for_too(tmp_path: Path) -> None:
    with closing(STORES["sqlite"](tmp_path)) as store:
        store.add(issued("01", "vm1", at=NOW + 0.5))
        assert waits_for(ACTIVE, store, NOW + 60) == ("vm1",)
        store.hear(Held("vm1", ACTIVE.sequence, NOW, NOW + 30))
        assert waits_for(ACTIVE, store, NOW + 60) == ()


def test_who_is_waited_for_is_said_in_one_line_however_many_they_are() -> None:
    said = described(PREPARED, [f"vm{number}" for number in range(30)])
    assert said.startswith("root: prepared since 2027-01-15T08:00:00Z, waits for vm0, vm1, ")
    assert said.endswith("vm9 and 20 more")
