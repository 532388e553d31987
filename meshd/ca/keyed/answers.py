"""Answers of what has the keys, by HTTP: bounded."""

from typing import Final

import requests

MAX_ANSWER_BYTES: Final = 64 << 20
"""Of Consul a sixteenth of all certificates on record is the most that is read at once; of a cluster, a page."""


def bounded(answer: requests.Response) -> bytes:
    """The body of an answer that is a stream. ValueError when it is too large."""
    parts, size = [], 0
    for part in answer.iter_content(1 << 16):
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise ValueError(f"an answer larger than {MAX_ANSWER_BYTES >> 20} MiB")
        parts.append(part)
    return b"".join(parts)
