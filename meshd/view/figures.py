"""Figures as Linkerd's tables write them: `99.50%`, `12.3rps`, `4ms`, and `-` for what was not seen.

One difference: a hop on one host takes less than Linkerd's lowest bucket, so latencies below 10 ms keep a decimal.
"""

import math

NOTHING = "-"


def success_rate(rate: float | None) -> str:
    """A share of 1 in per cent, cut and not rounded, so that 100.00% means all of them."""
    return NOTHING if rate is None else f"{math.floor(rate * 10_000 + 1e-6) / 100:.2f}%"


def rps(per_second: float) -> str:
    return f"{per_second:.1f}rps"


def latency(ms: float | None) -> str:
    if ms is None:
        return NOTHING
    return f"{ms:.1f}ms" if ms < 9.95 else f"{ms:.0f}ms"


def byte_rate(per_second: float) -> str:
    """Bytes a second, in powers of 1000."""
    for unit in ("B/s", "kB/s", "MB/s"):
        if per_second < 999.95:
            return f"{per_second:.1f}{unit}"
        per_second /= 1000
    return f"{per_second:.1f}GB/s"


def span(seconds: float) -> str:
    """How long, in the two largest units: `23h59m`, `3d4h`, `12s`."""
    left = max(0, int(seconds))
    days, left = divmod(left, 86400)
    hours, left = divmod(left, 3600)
    minutes, left = divmod(left, 60)
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{left}s" if minutes else f"{left}s"
