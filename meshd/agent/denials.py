"""What the CA denies, as this host heard it last: kept in a file, for an agent that starts while the CA is away.

Forgetting it would make what is revoked good again, so a file that is there and cannot be read is an error, not an
empty list.
"""

from pathlib import Path
from typing import Final

import msgspec

from meshd.api.problems import Problem
from meshd.ca import files
from meshd.ca.wire import Bundle, Denial

FILE_NAME: Final = "denied.json"


class Denials(msgspec.Struct, frozen=True):
    """The deny list, and by which number the CA knows it."""

    sequence: int = 0
    records: tuple[Denial, ...] = ()

    @classmethod
    def of(cls, news: Bundle) -> "Denials":
        return cls(news.sequence, news.denied)

    @property
    def peers(self) -> tuple[str, ...]:
        """What proxies are to look for in the certificates of their peers. A node's own certificate is good for no
        traffic, and those of its workloads are here by their serial numbers."""
        return tuple(each.value for each in self.records if each.kind != "node")


class DenialsFile:
    """Keeps the list in `file`."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def recall(self) -> Denials:
        """What was kept; Problem when it is there and cannot be read."""
        if not self._file.exists():
            return Denials()
        try:
            return msgspec.json.decode(files.read(self._file), type=Denials)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Problem(
                f"{self._file}: what the CA denies cannot be read: {error}: remove the file while the CA can be reached"
            ) from error

    def keep(self, denials: Denials) -> None:
        """Problem when it cannot be written."""
        files.write(self._file, msgspec.json.encode(denials), owner_of=self._file.parent)
