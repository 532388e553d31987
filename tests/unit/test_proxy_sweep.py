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
