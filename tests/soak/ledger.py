"""What became of every operation."""

from collections import Counter
from time import monotonic

from tests.soak.verdict import Trouble


class Broken(Exception):
    """An operation failed. The reason is `cut`, the status, or a sentence that nothing excuses."""


class Ledger:
    """Counts by kind: those done, those that callers gave up, those that failed."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.given_up: Counter[str] = Counter()
        self.served_by: Counter[str] = Counter()
        self.bytes_up = 0
        self.bytes_down = 0
        self.troubles: list[Trouble] = []

    def well(self, kind: str, up_bytes: int = 0, down_bytes: int = 0) -> None:
        self.done[kind] += 1
        self.bytes_up += up_bytes
        self.bytes_down += down_bytes

    def trouble(
        self,
        kind: str,
        reason: str,
        began: float,
        *,
        idempotent: bool = False,
        sent_bytes: int = 0,
        relayed: bool = False,
    ) -> None:
        self.troubles.append(Trouble(kind, reason, began, monotonic(), idempotent, sent_bytes, relayed))
