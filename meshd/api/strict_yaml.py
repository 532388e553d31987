"""YAML, less what people are surprised by: a key that is written twice is an error, and so is an alias.

Apart from `meshd.api.loading`, so that only who reads YAML holds a parser of it.
"""

from collections.abc import Iterator
from typing import Any

import yaml


class NotYaml(Exception):
    """The text is not YAML, or has what is not taken; `where` in it, if that is known."""

    def __init__(self, problem: str, where: str = "") -> None:
        super().__init__(problem)
        self.where = where


def documents(text: str) -> Iterator[tuple[int, Any]]:
    """(line, value) of all documents in text; lines count from 1. NotYaml."""
    try:
        yield from _documents(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise NotYaml(error.problem or "not YAML", where) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise NotYaml(f"not YAML: {str(error).splitlines()[0]}") from error


def _documents(text: str) -> Iterator[tuple[int, Any]]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None  # there is one
            yield node.start_mark.line + 1, loader.construct_document(node)
    finally:
        loader.dispose()


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
