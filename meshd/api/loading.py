"""Reading YAML into typed values, with errors for the person who wrote the file.

Every finding names the file, the document in it, the path in the document, what was expected and what was found:

    conf.d/web.yaml: document 2 (Workload web): spec.ports[0].port: expected `int`, got `str`

The counterpart is whoever holds the types (`meshd.api.documents`, the settings, the proxy's configuration file);
nothing here knows what the values mean.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

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


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key that is written twice is an error rather than a silent loss."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is written twice", key_node.start_mark
                )
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not used in meshd's files", mark)
        return super().compose_node(parent, index)


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


def parse(text: str, file: str) -> Iterator[tuple[str, Any]]:
    """(label, value) of every YAML document in text that is not empty. ConfigurationError on bad YAML."""
    try:
        for number, value in enumerate(yaml.load_all(text, _Loader), 1):
            if value is not None:
                yield _label(value, number), value
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigurationError([Finding(file, error.problem or "not YAML", where)]) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError([Finding(file, f"not YAML: {str(error).splitlines()[0]}")]) from error


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
