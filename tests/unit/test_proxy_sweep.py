"""The timer wheel looks at everything once a second, and at nothing that has left."""

from proxy.sweep import Sweep


class Mark:
    """Counts how often it was looked at."""

    def __init__(self, sweep: Sweep, leaves: bool = False) -> None:
        self._sweep = sweep
        self._leaves = leaves
        self.seen: list[float] = []

    def sweep(self, now: float) -> None:
        self.seen.append(now)
        if self._leaves:
            self._sweep.discard(self)


def test_each_is_seen_once_a_round() -> None:
    sweep = Sweep()
    marks = [Mark(sweep) for _ in range(100)]
    for mark in marks:
        sweep.add(mark)
    for tick in range(3 * Sweep.BUCKETS):
        sweep.tick(float(tick))
    assert all(len(mark.seen) == 3 for mark in marks)
    assert all(later - earlier == Sweep.BUCKETS for mark in marks for earlier, later in [mark.seen[:2]])


def test_one_may_leave_while_it_is_looked_at() -> None:
    sweep = Sweep()
    marks = [Mark(sweep, leaves=True) for _ in range(100)]
    for mark in marks:
        sweep.add(mark)
    for tick in range(3 * Sweep.BUCKETS):
        sweep.tick(float(tick))
    assert all(len(mark.seen) == 1 for mark in marks)
    sweep.discard(marks[0])


class Ends:
    """Has all others leave when it is looked at."""

    def __init__(self, sweep: Sweep, marks: "list[Ends]") -> None:
        self._sweep = sweep
        self._marks = marks
        self.seen = 0

    def sweep(self, now: float) -> None:
        self.seen += 1
        for mark in self._marks:
            if mark is not self:
                self._sweep.discard(mark)


def test_one_that_another_has_leave_is_not_looked_at_in_the_same_tick() -> None:
    """As a caller's connection when its endpoint's is given up: another protocol has its transport now."""
    sweep = Sweep()
    marks: list[Ends] = []
    marks += [Ends(sweep, marks) for _ in range(100)]
    for mark in marks:
        sweep.add(mark)
    for tick in range(Sweep.BUCKETS):
        sweep.tick(float(tick))
    assert sum(mark.seen for mark in marks) == 1
