"""What comes a second time is worth remembering; what comes once, a trace id say, would only push that out."""


class Repeats:
    """Tells the two apart, by hashes: a mistake costs a place in a table, no more. It knows `capacity` of them."""

    __slots__ = ("_capacity", "_seen")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._seen: set[int] = set()

    def again(self, data: bytes) -> bool:
        """Whether data has come before, lately."""
        mark = hash(data)
        seen = self._seen
        if mark in seen:
            return True
        if len(seen) >= self._capacity:
            seen.clear()
        seen.add(mark)
        return False

    def __len__(self) -> int:
        return len(self._seen)
