"""What is believed of a workload after a number of looks at it. Pure: findings in, a verdict out."""


class Judge:
    """A check's verdict, which another follows after `healthy_after` or `unhealthy_after` looks in a row that
    contradict it. `healthy` may be None at first, for nothing is known: one failure is then enough, since nobody loses
    by it. `failure` is what was wrong when something was last; `looks` and `failures` count."""

    __slots__ = ("_healthy_after", "_row", "_unhealthy_after", "failure", "failures", "healthy", "looks")

    def __init__(self, healthy_after: int, unhealthy_after: int, healthy: bool | None = None) -> None:
        self._healthy_after, self._unhealthy_after = healthy_after, unhealthy_after
        self.healthy = healthy
        self.failure = ""
        self.looks = self.failures = 0
        self._row = 0  # looks in a row that contradict the verdict

    def heard(self, failure: str) -> bool:
        """Take in what was wrong at a look, empty for nothing. Whether anything is to be told: another verdict, or
        another reason for a bad one."""
        before = self.healthy, self.failure
        self.looks += 1
        if failure:
            self.failures += 1
            self.failure = failure
        if self.healthy is None and failure:
            self.healthy, self._row = False, 0
        elif self.healthy is not (not failure):
            self._row += 1
            if self._row >= (self._unhealthy_after if failure else self._healthy_after):
                self.healthy, self._row = not failure, 0
        else:
            self._row = 0
        return self.healthy != before[0] or (self.healthy is False and self.failure != before[1])
