"""What may fail and what may not, and whether memory is flat. Pure: records in, judgements out.

A request may fail where its connection was killed and the rules of `proxy.exchange` do not let it be asked again:

    an answer that had begun is cut                      excused, when something was killed meanwhile
    502 for a request that is not idempotent             excused, likewise
    502 for one that is                                  excused only when an application was killed: its connection
                                                         may have been new, and then nobody knows what became of it
    503 for a body too long to be kept for another try   excused, while an application is away
    opaque bytes are cut                                 excused, likewise, since its proxy takes them before it knows:
                                                         one connection now and then finds out whether it is back
    CANCELLED of gRPC, 503 of WebSocket's server         excused, when an application was ended: so these servers answer
                                                         themselves what comes while they shut down
    a status, or a cut, while this machine held us up    excused: it may have held up a proxy for longer than others
                                                         wait for it
    anything else, a wrong byte above all                a violation
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

MAX_KEPT_BYTES: Final = 64 << 10
"""Of a request's body; `proxy.rules.MAX_KEPT_BYTES`."""
SLACK_S: Final = 0.5
"""Between a process' death and its callers' hearing of it, on a busy machine."""

HELD_UP_S: Final = 0.5
"""How late we are where that is said of the machine: most times that proxies are given are seconds."""

MAX_GROWTH_BYTES: Final = 2 << 20
"""Of a proxy's resident memory, from the end of the warm-up to the end."""
LEAST_FOR_MEMORY_S: Final = 300.0
"""A run shorter than this says nothing of memory."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """An operation that failed, and when (monotonic, s). `reason`: "cut", "cancelled", a status, or a sentence that
    nothing excuses. `idempotent`: it may be asked twice; `sent_bytes` is what its body measures; `relayed`: it was
    opaque bytes."""

    kind: str
    reason: str
    began: float
    ended: float
    idempotent: bool = False
    sent_bytes: int = 0
    relayed: bool = False


@dataclass(frozen=True, slots=True)
class Damage:
    """A process that was ended: its connections were cut between `cut_at` and `gone_at`, and until `back_at` nothing
    could be had of it."""

    endpoint: str
    part: Literal["application", "proxy"]
    how: Literal["killed", "ended"]
    cut_at: float
    gone_at: float
    back_at: float


def excuse(trouble: Trouble, done: Iterable[Damage]) -> str:
    """Why it may have failed; empty where nothing excuses it."""
    for damage in done:
        cut = trouble.began <= damage.gone_at + SLACK_S and trouble.ended >= damage.cut_at
        away = trouble.began <= damage.back_at + SLACK_S and trouble.ended >= damage.cut_at
        application = damage.part == "application"
        if trouble.reason == "cut" and cut:
            return f"cut when {_a(damage)} was {damage.how}"
        if trouble.reason == "cancelled" and cut and application and damage.how == "ended":
            return "answered so by an application that was being ended"
        if trouble.reason == "502" and cut and (application or not trouble.idempotent):
            return f"under way when {_a(damage)} was {damage.how}"
        if trouble.reason == "cut" and trouble.relayed and away and application:
            return "relayed while an application was away"
        if trouble.reason == "503" and away and application and trouble.sent_bytes > MAX_KEPT_BYTES:
            return "too long to be kept for another try, while an application was away"
    return ""


def held_up(trouble: Trouble, held: Iterable[tuple[float, float]]) -> str:
    """Likewise, by when this machine `held` us up (from, to)."""
    told = trouble.reason in {"cut", "cancelled"} or trouble.reason.isdigit()
    found = told and any(trouble.began <= to and trouble.ended >= since for since, to in held)
    return "while this machine did something else" if found else ""


def _a(damage: Damage) -> str:
    return "an application" if damage.part == "application" else "a proxy"


@dataclass(frozen=True, slots=True)
class Memory:
    """A process' resident memory over a run: by regression over its samples after the warm-up."""

    first_bytes: int
    last_bytes: int
    growth_bytes: int

    @property
    def flat(self) -> bool:
        return self.growth_bytes < MAX_GROWTH_BYTES


def memory(samples: Sequence[tuple[float, int]], warm_up_s: float) -> Memory:
    """Samples are (s since the start, bytes); at least two come after the warm-up."""
    kept = [(at, size) for at, size in samples if at >= warm_up_s]
    return Memory(kept[0][1], kept[-1][1], round(slope(kept) * (kept[-1][0] - kept[0][0])))


def slope(points: Sequence[tuple[float, float]]) -> float:
    """By least squares."""
    count = len(points)
    middle_x = sum(x for x, _ in points) / count
    middle_y = sum(y for _, y in points) / count
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / spread if spread else 0.0
