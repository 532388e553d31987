"""Reading YAML into typed values, with errors for the person who wrote the file.

Every finding names the file, the document in it, the path in the document, what was expected and what was found:

    conf.d/web.yaml: document 2 (Workload web): spec.ports[0].port: expected `int`, got `str`

The counterpart is whoever holds the types (`meshd.api.documents`, the settings, the proxy's configuration file);
nothing here knows what the values mean.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from meshd.api.faults import faults

T = TypeVar("T")

MAX_FILE_BYTES = 4 << 20
"""A configuration file beyond this is a mistake, and would hold the daemon up while it is parsed."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong: where (file, document, path) and what."""

    file: str
    message: str
    path: str = ""
    document: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.document, self.path, self.message) if part)


class ConfigurationError(Exception):
    """What is wrong with configuration, all of it at once, one line a finding."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("\n".join(str(finding) for finding in findings))
        self.findings = findings


def read_text(file: Path) -> str:
    """The text of a configuration file; ConfigurationError when it cannot be read, is no UTF-8, or is too large."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ConfigurationError([Finding(str(file), f"larger than {MAX_FILE_BYTES >> 20} MiB")])
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError([Finding(str(file), f"not UTF-8 text: byte {error.start}")]) from error
    except OSError as error:
        raise ConfigurationError([Finding(str(file), f"cannot be read: {error.strerror}")]) from error


class Located(NamedTuple):
    """One YAML document: how findings call it, what it says, and its first line."""

    label: str
    value: Any
    line: int


def parse(text: str, file: str) -> Iterator[tuple[str, Any]]:
    """(label, value) of every YAML document in text that is not empty. ConfigurationError on bad YAML."""
    return ((each.label, each.value) for each in located(text, file))


def located(text: str, file: str) -> Iterator[Located]:
    """Every YAML document in text that is not empty. ConfigurationError on bad YAML."""
    from meshd.api import strict_yaml  # noqa: PLC0415 - a megabyte that a proxy with an agent does without

    try:
        for number, (line, value) in enumerate(strict_yaml.documents(text), 1):
            if value is not None:
                yield Located(_label(value, number), value, line)
    except strict_yaml.NotYaml as error:
        raise ConfigurationError([Finding(file, str(error), error.where)]) from error


def _label(value: Any, number: int) -> str:
    if isinstance(value, dict) and isinstance(value.get("kind"), str):
        metadata = value.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        return f"document {number} ({value['kind']}{f' {name}' if isinstance(name, str) else ''})"
    return f"document {number}" if number > 1 else ""


def convert(value: Any, into: type[T] | Any, file: str, document: str = "") -> T:
    """value as the type `into`; ConfigurationError with the path of each thing that does not fit."""
    try:
        return msgspec.convert(value, into)
    except msgspec.ValidationError as error:
        findings = [Finding(file, message, path, document) for path, message in faults(value, into)]
        raise ConfigurationError(findings) from error
