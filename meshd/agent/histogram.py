"""Quantiles of latencies that were counted in buckets, as Prometheus computes them (`histogram_quantile`).

Inside a bucket the values are taken to be spread evenly. The last bucket has no upper bound, so what falls in it is
given as the highest bound: "at least that".
"""

from collections.abc import Sequence
from itertools import pairwise


def quantile(q: float, counts: Sequence[int], bounds: Sequence[float]) -> float | None:
    """The q-quantile (0 to 1) in the unit of the bounds; None where nothing was counted.

    counts[i] are the values above bounds[i - 1] (the first: above 0) and up to bounds[i];
    there is one more of them than of bounds.
    """
    total = sum(counts)
    if total <= 0:
        return None
    rank, below = q * total, 0
    for (low, high), count in zip(pairwise((0.0, *bounds)), counts, strict=False):
        if count and below + count >= rank:
            return low + (high - low) * max(rank - below, 0.0) / count
        below += count
    return bounds[-1]
