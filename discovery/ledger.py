"""Which content of which file is in force, when several files must agree and any of them may turn bad.

A file is accepted or refused whole. A file that is refused keeps in force what was last accepted of it; a file that is
gone takes its documents with it. When two files claim the same thing, the one that has it in force keeps it; when
neither has, the one whose name sorts first. Pure: readings in, documents and findings out.
"""

from collections.abc import Iterable, Iterator, Mapping

from discovery.documents import Placed, claims
from meshd.api.loading import ConfigurationError, Finding

Reading = tuple[Placed, ...] | ConfigurationError
"""What reading a file gave."""


class Ledger:
    """The documents in force, file by file."""

    def __init__(self) -> None:
        self._latest: dict[str, Reading] = {}
        self._in_force: dict[str, tuple[Placed, ...]] = {}
        self.findings: tuple[Finding, ...] = ()

    def placed(self) -> Iterator[tuple[str, Placed]]:
        """(file, document) of all that is in force, by the names of files."""
        for file in sorted(self._in_force):
            yield from ((file, placed) for placed in self._in_force[file])

    def update(self, read: Mapping[str, Reading], gone: Iterable[str] = ()) -> None:
        """Take in what changed: files read again (or for the first time), and files that are no more."""
        for file in gone:
            self._latest.pop(file, None)
            self._in_force.pop(file, None)
        self._latest.update(read)
        self._settle()

    def _settle(self) -> None:
        """Decide anew for every file: what stands as it was comes before what changed, and so keeps its claims."""
        before, self._in_force = self._in_force, {}
        owners: dict[tuple[str, ...], str] = {}
        findings: list[Finding] = []

        def changed(file: str) -> bool:
            reading = self._latest[file]
            return not isinstance(reading, ConfigurationError) and not _alike(reading, before.get(file))

        for file in sorted(self._latest, key=lambda file: (changed(file), file)):
            reading = self._latest[file]
            if isinstance(reading, ConfigurationError):
                findings += reading.findings
            elif collisions := _collisions(file, reading, owners):
                findings += collisions
            else:
                self._accept(file, reading, owners)
                continue
            if file in before and not _collisions(file, before[file], owners):
                self._accept(file, before[file], owners)
        self.findings = tuple(findings)

    def _accept(self, file: str, reading: tuple[Placed, ...], owners: dict[tuple[str, ...], str]) -> None:
        self._in_force[file] = reading
        owners.update((key, file) for document, _ in reading for key, _ in claims(document))


def _alike(reading: tuple[Placed, ...], before: tuple[Placed, ...] | None) -> bool:
    """Whether the documents are the same, wherever in the file they are."""
    return before is not None and [each.document for each in reading] == [each.document for each in before]


def _collisions(file: str, reading: tuple[Placed, ...], owners: dict[tuple[str, ...], str]) -> list[Finding]:
    return [
        Finding(file, f"{text} is also in {owners[key]}: remove one of them")
        for document, _ in reading
        for key, text in claims(document)
        if key in owners
    ]
