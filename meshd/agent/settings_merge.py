"""Writing into a settings file that a person may have written: what they wrote stays as it is, comments too.

A key that is missing is put in front of the others, as a line of its own; one that says the same already is left; one
that says something else is a contradiction, and the caller decides whether it is overridden. The documents beside the
settings (`meshd.agent.settings_file`) are not touched. It is text in, text out: who reads and writes the file is
`meshd.agent.join`.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml


class Contradiction(NamedTuple):
    """What the file says at a path in it, and what it was to say."""

    path: str
    found: Any
    wanted: Any

    def __str__(self) -> str:
        return f"{self.path}: it is {_flow(self.found)}, and would be {_flow(self.wanted)}"


class Merged(NamedTuple):
    """The text as it is to be, with all that contradicted it overridden."""

    text: str
    contradictions: tuple[Contradiction, ...]


def merged(text: str, wanted: Mapping[str, Any]) -> Merged:
    """`text`, which is good YAML, with its settings saying what is wanted. A wanted mapping says nothing of the keys
    that it does not have. ValueError when the settings are written in a form that cannot be added to."""
    node, held = _settings(text)
    missing = "".join(f"{key}: {_flow(value)}\n" for key, value in wanted.items() if key not in held)
    if node is None:
        return Merged(f"{missing}---\n{text}" if text.strip() else missing, ())
    if node.flow_style:
        raise ValueError("the settings are written in braces: write each on a line of its own, as in `node: vm1`")
    contradictions: list[Contradiction] = []
    edits = [(node.start_mark.index, node.start_mark.index, missing)]
    for key_node, value_node in node.value:
        key = key_node.value
        if key in wanted and (value := _joined(held[key], wanted[key], key, contradictions)) != held[key]:
            begin = key_node.start_mark.index
            end = begin + len(_without_comments(text[begin : value_node.end_mark.index]))
            edits.append((begin, end, f"{key}: {_flow(value)}"))
    for begin, end, replacement in sorted(edits, reverse=True):
        text = text[:begin] + replacement + text[end:]
    return Merged(text, tuple(contradictions))


def _settings(text: str) -> tuple[yaml.MappingNode | None, dict[str, Any]]:
    """The document that holds the settings: where it is, and what it says; None when there is none."""
    loader = yaml.SafeLoader
    for node, value in zip(yaml.compose_all(text, loader), yaml.load_all(text, loader), strict=True):
        if isinstance(node, yaml.MappingNode) and "kind" not in value:
            return node, value
    return None, {}


def _joined(held: Any, wanted: Any, path: str, contradictions: list[Contradiction]) -> Any:
    """held, overridden by what is wanted; where they contradict each other is added to `contradictions`."""
    if isinstance(held, dict) and isinstance(wanted, Mapping):
        return held | {
            key: _joined(held[key], value, f"{path}.{key}", contradictions) if key in held else value
            for key, value in wanted.items()
        }
    if held != wanted and held is not None:
        contradictions.append(Contradiction(path, held, wanted))
    return wanted


def _without_comments(entry: str) -> str:
    """A key and its value as they are in the file, without the blank lines and comments that follow them."""
    lines = entry.split("\n")
    while len(lines) > 1 and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
        del lines[-1]
    return "\n".join(lines)


def _flow(value: Any) -> str:
    """A value on one line: JSON is YAML, but for names it is easier to read without quotes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, str) and value and not set(value) - set("abcdefghijklmnopqrstuvwxyz0123456789-._/"):
        return value if yaml.safe_load(value) == value else json.dumps(value)
    return json.dumps(value)
