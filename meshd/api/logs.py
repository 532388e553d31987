"""The one form of meshd's logs: lines for the journal, or for a file to keep.

    2026-03-01T10:00:00+0000 warning agent.session: refused Attach to pid 4711 of uid 1000: …

The form alone; where the lines go is the program's choice.
"""

import logging


class Lines(logging.Formatter):
    """Time with its zone, level, the logger's name without `meshd.`, message. `speaker`, of several that write to one
    place, stands before the message."""

    def __init__(self, speaker: str = "") -> None:
        said = f"{speaker}: %(message)s" if speaker else "%(message)s"
        super().__init__(f"%(asctime)s %(levelname)s %(name)s: {said}", "%Y-%m-%dT%H:%M:%S%z")

    def format(self, record: logging.LogRecord) -> str:
        record.levelname = record.levelname.lower()
        record.name = record.name.removeprefix("meshd.")
        return super().format(record)
