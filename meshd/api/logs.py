"""How the daemons log: as entries of the journal where standard error is the journal, and else as lines there.

    2026-03-01T10:00:00+0000 warning agent.session: refused Attach to pid 4711 of uid 1000: …

A record says by `about` what it is about. In the journal these are fields; a line has it in its words.
"""

import logging
import sys

from meshd.api.journal import ABOUT, Journal, is_journal


def about(*, workload: object = "", service: object = "", endpoint: object = "", peer: object = "") -> dict[str, str]:
    """For `extra` of a call that logs; what is empty is left out.

    `workload`   NAMESPACE/NAME: whose certificate, whose calls, or whose callers
    `service`    NAME.NAMESPACE:PORT
    `endpoint`   ADDRESS:PORT, of one that is behind a service
    `peer`       who was at the other end: an identity, a node, a process or an address
    """
    said = {"workload": workload, "service": service, "endpoint": endpoint, "peer": peer}
    return {ABOUT + name: str(value) for name, value in said.items() if value}


class Lines(logging.Formatter):
    """Time with its zone, level, the logger's name without `meshd.`, message. `speaker`, of several that write to one
    place, stands before the message."""

    def __init__(self, speaker: str = "") -> None:
        super().__init__(f"%(asctime)s %(levelname)s %(name)s: {_said(speaker)}", "%Y-%m-%dT%H:%M:%S%z")

    def format(self, record: logging.LogRecord) -> str:
        record.levelname = record.levelname.lower()
        record.name = record.name.removeprefix("meshd.")
        return super().format(record)


def _said(speaker: str) -> str:
    return f"{speaker}: %(message)s" if speaker else "%(message)s"


def log_to_stderr(level: str, identifier: str, speaker: str = "") -> None:
    """From now on send what is logged from `level` (debug, info, …) upward to standard error. `identifier` is the
    daemon's name in the journal."""
    handler: logging.Handler
    if is_journal(2):
        handler = Journal(identifier)
        handler.setFormatter(logging.Formatter(_said(speaker)))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(Lines(speaker))
    logging.basicConfig(level=level.upper(), handlers=[handler])
