"""Edits of a manifest's text, YAML or JSON: what is added, is added between what is there, and every other byte stays.

A parser says where the nodes of a document begin and end; an edit is text for a span. `added` makes the edits that put
keys into mappings and items into sequences; `removed` those that take them out. Of what the one has put in, the other
restores what was there byte for byte, and that needs no record beside the text, since each way that an empty place can
be written is filled in a way of its own:

    nothing     a block; in a flow mapping {"a": { "k": "v"}}, a space or a line after the brace
    {}          {"k": "v"}, neither
    null        { "k": "v" }, another space before the last brace; two where `null` was written out, three for `~`

Not every text can be edited so: who edits reads the result again and compares (`k8s.injector.manifests`).
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

_NULLS = {"": " ", "null": "  ", "~": "   ", "Null": "    ", "NULL": "     "}
"""How null was written → what stands before the last brace in its place."""

_ALIAS = re.compile(r"[\"']?\s*:\s+\*[^\s,\[\]{}]+")
"""From the end of a key to that of the alias that is its value."""


class Edit(NamedTuple):
    """What is to stand in place of text[start:end]."""

    start: int
    end: int
    text: str


class Items(NamedTuple):
    """Items for a sequence: before all others, or after them."""

    first: tuple[Any, ...] = ()
    last: tuple[Any, ...] = ()


Additions = dict[str, Any]
"""Key → value; a mapping goes into the mapping that is there, `Items` into the sequence."""


class Named(NamedTuple):
    """Of a sequence of mappings those whose `name` is among these."""

    names: frozenset[str]

    def has(self, node: Node) -> bool:
        pairs = node.value if isinstance(node, MappingNode) else ()
        return any(key.value == "name" and value.value in self.names for key, value in pairs)


Removals = dict[str, Any]
"""Key → True for all of it, a mapping for parts of it, `Named` for items of a sequence."""


class NotEditable(ValueError):
    """The text is of a form that is not edited."""


def edited(text: str, edits: Sequence[Edit]) -> str:
    """Several at one place stay in their order. Lines at the end of a text that ends without a line end are taken out
    with the line end before them."""
    parts, at = [], 0
    made = sorted(edits, key=lambda each: (each.start, each.end))
    for edit in made:
        if edit.start < at:
            raise NotEditable("two edits meet")
        parts += [text[at : edit.start], edit.text]
        at = edit.end
    if made and at == len(text) and not made[-1].text and not text.endswith("\n"):
        rest = "".join(parts)
        return rest.removesuffix("\n").removesuffix("\r") if rest.endswith("\n") else rest
    return "".join([*parts, text[at:]])


class Editor:
    """Edits of one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        first = text.find("\n")
        self._newline = "\r\n" if first > 0 and text[first - 1] == "\r" else "\n"
        self._grown: dict[int, MappingNode] = {}
        """The mappings that were given keys, by their identity."""

    def shared(self, document: Node) -> str:
        """Which part of it was given keys and stands there more than once, by an alias; empty where none did."""
        places: dict[int, list[str]] = {id(node): [] for node in self._grown.values()}
        waiting, seen = [document], set[int]()
        while waiting:
            node = waiting.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, MappingNode):
                for key, value in node.value:
                    if id(value) in places:
                        places[id(value)].append(f"`{key.value}` (line {key.start_mark.line + 1})")
                waiting += [value for _, value in reversed(node.value)]
            elif isinstance(node, SequenceNode):
                waiting += reversed(node.value)
        return next((" and ".join(sorted(each)) for each in places.values() if len(each) > 1), "")

    # --- putting in

    def added(self, node: Node, additions: Additions) -> Iterator[Edit]:
        """What puts additions into a mapping; the deepest first, so that what ends at one place stays nested."""
        if not isinstance(node, MappingNode):
            raise NotEditable("expected a mapping")
        known = {key.value: (key, value) for key, value in node.value if isinstance(key, ScalarNode)}
        new = {}
        for name, addition in additions.items():
            if name not in known:
                new[name] = addition
                continue
            key, value = known[name]
            if _is_null(value):
                yield self._filled(value, addition)
            elif isinstance(addition, Items):
                yield from self._items(key, value, addition)
            elif isinstance(addition, dict):
                yield from self.added(value, addition)
            elif not isinstance(value, ScalarNode) or value.value != addition:
                yield Edit(value.start_mark.index, value.end_mark.index, json.dumps(addition))
        if new:
            yield self._keys(node, new)

    def _filled(self, value: Node, addition: Any) -> Edit:
        """Null, and something in its place."""
        start, end = value.start_mark.index, value.end_mark.index
        written = self._text[start:end]
        if written not in _NULLS:
            raise NotEditable(f"a null that is written {written!r}")
        opening, closing = "[]" if isinstance(addition, Items) else "{}"
        filled = f"{opening} {_inside(addition)}{_NULLS[written]}{closing}"
        return Edit(start, end, filled if written else " " + filled)

    def _keys(self, node: MappingNode, new: Additions) -> Edit:
        """New keys, after all others. NotEditable for a mapping that has some already, as it is in two objects."""
        if id(node) in self._grown:
            raise NotEditable("an alias makes two objects share a part that is to be changed")
        self._grown[id(node)] = node
        if not node.flow_style:
            lines = [line for name, value in new.items() for line in _block({name: plain(value)}).splitlines()]
            return self._lines(self._end(node), lines, self._column(node))
        if not node.value:
            at = node.start_mark.index + 1
            return Edit(at, at, _inside(new))
        between, at = self._between(node)
        shown = [f",{between}{json.dumps(name)}: {_new(value, between)}" for name, value in new.items()]
        return Edit(at, at, "".join(shown))

    def _items(self, key: Node, node: Node, items: Items) -> Iterator[Edit]:
        if not isinstance(node, SequenceNode):
            raise NotEditable(f"{key.value}: expected a list")
        if node.flow_style:
            yield from self._flow_items(node, items)
            return
        column = self._column(node)
        if items.first:
            yield self._lines(key.end_mark.index, _block(list(items.first)).splitlines(), column)
        if items.last:
            yield self._lines(self._end(node), _block(list(items.last)).splitlines(), column)

    def _flow_items(self, node: SequenceNode, items: Items) -> Iterator[Edit]:
        if not node.value:
            at = node.start_mark.index + 1
            yield Edit(at, at, _inside(items))
            return
        between, end = self._between(node)
        if items.first:
            start = node.value[0].start_mark.index
            yield Edit(start, start, "".join(f"{_json(item, between)},{between}" for item in items.first))
        if items.last:
            yield Edit(end, end, "".join(f",{between}{_json(item, between)}" for item in items.last))

    def _lines(self, at: int, lines: list[str], column: int) -> Edit:
        """Lines of their own, after the one that holds the place `at`, or before it where a line begins there."""
        written = [(" " * column + line).rstrip() for line in lines]
        if at and self._text[at - 1] == "\n":
            return Edit(at, at, "".join(line + self._newline for line in written))
        end = self._line_end(at)
        return Edit(end, end, "".join(self._newline + line for line in written))

    def _between(self, node: Any) -> tuple[str, int]:
        """What stands before an entry of a flow collection, after the comma; and where its last entry ends."""
        first, last = node.value[0], node.value[-1]
        start = (first[0] if isinstance(first, tuple) else first).start_mark.index
        end = self._value_end(*last) if isinstance(last, tuple) else int(last.end_mark.index)
        before = self._text[node.start_mark.index + 1 : start]
        return (before if "\n" in before and not before.strip() else " "), end

    # --- taking out

    def removed(self, node: Node, removals: Removals) -> Iterator[Edit]:
        """What takes removals out of a mapping of which something stays."""
        gone, edits = self._entries(node, removals)
        assert isinstance(node, MappingNode)
        if gone and len(gone) == len(node.value):
            raise NotEditable("nothing would be left of it")
        yield from edits
        yield from self._without(node, gone)

    def _entries(self, node: Node, removals: Removals) -> tuple[set[int], list[Edit]]:
        """(which entries of a mapping go, the edits inside of those that stay)"""
        if not isinstance(node, MappingNode):
            return set(), []
        gone, edits = set(), []
        for place, (key, value) in enumerate(node.value):
            wanted = removals.get(key.value) if isinstance(key, ScalarNode) else None
            if wanted is None:
                continue
            if wanted is True:
                gone.add(place)
                continue
            all_gone, inside = self._inside(value, wanted)
            edits += inside
            if all_gone:
                gone.add(place)
        return gone, edits

    def _inside(self, value: Node, wanted: Any) -> tuple[bool, list[Edit]]:
        """(whether the whole entry goes, the edits where it does not)"""
        if isinstance(value, MappingNode) and isinstance(wanted, dict):
            gone, edits = self._entries(value, wanted)
        elif isinstance(value, SequenceNode) and isinstance(wanted, Named):
            gone, edits = {place for place, item in enumerate(value.value) if wanted.has(item)}, []
        else:
            return False, []
        if not gone or len(gone) < len(value.value):
            return False, [*edits, *self._without(value, gone)]
        if not value.flow_style:
            return True, []
        return self._emptied(value)

    def _emptied(self, node: Any) -> tuple[bool, list[Edit]]:
        """What a flow collection was before it was filled; see the module."""
        start, end = self._span(node, 0)[0], self._span(node, len(node.value) - 1)[1]
        opening, closing = node.start_mark.index, node.end_mark.index
        before, after = self._text[opening + 1 : start], self._text[end : closing - 1]
        if before == "":
            return False, [Edit(start, end, "")]
        spelling = next((null for null, spaces in _NULLS.items() if spaces == after), None)
        if before == " " and spelling is not None:
            return False, [Edit(opening - (0 if spelling else 1), closing, spelling)]
        return True, []

    def _without(self, node: Any, gone: set[int]) -> Iterator[Edit]:
        """The edits that take some of the entries of a collection, and not all."""
        for first, last in _runs(sorted(gone)):
            start, end = self._span(node, first)[0], self._span(node, last)[1]
            if not node.flow_style:
                yield self._whole_lines(node, start, end, last)
            elif first:
                yield Edit(self._span(node, first - 1)[1], end, "")
            else:
                yield Edit(start, self._span(node, last + 1)[0], "")

    def _span(self, node: Any, place: int) -> tuple[int, int]:
        """Where an entry begins, and where its last word ends."""
        entry = node.value[place]
        if isinstance(entry, tuple):
            return entry[0].start_mark.index, self._value_end(*entry)
        start = entry.start_mark.index
        return (start if node.flow_style else self._text.rfind("-", 0, start)), self._end(entry)

    def _whole_lines(self, node: Any, start: int, end: int, last: int) -> Edit:
        line = self._text.rfind("\n", 0, start) + 1
        if self._text[line:start].strip(" "):  # the first key of an item, as in `- name: web`
            if last + 1 == len(node.value):
                raise NotEditable("nothing would be left of the item")
            return Edit(start, self._span(node, last + 1)[0], "")
        if end and self._text[end - 1] == "\n":
            return Edit(line, end, "")
        stop = self._line_end(end)
        if stop < len(self._text):
            return Edit(line, self._text.index("\n", stop) + 1, "")
        return Edit(line, stop, "")

    # --- places

    def _end(self, node: Any) -> int:
        """Where the last word of a node ends; where the next line begins, after a block scalar."""
        while not getattr(node, "flow_style", True) and node.value:
            node = node.value[-1]
            if isinstance(node, tuple):
                if _is_alias(*node):
                    break
                node = node[1]
        return self._value_end(*node) if isinstance(node, tuple) else int(node.end_mark.index)

    def _value_end(self, key: Any, value: Any) -> int:
        """Where the last word of a mapping's entry ends. An alias has no place of its own: its node is that of the
        anchor, and its text is what follows the key."""
        found = _ALIAS.match(self._text, key.end_mark.index) if _is_alias(key, value) else None
        return self._end(value) if found is None else found.end()

    def _column(self, node: Any) -> int:
        """In which column the entries of a block stand; an anchor before them counts for none."""
        start = self._span(node, 0)[0]
        return int(start - self._text.rfind("\n", 0, start) - 1)

    def _line_end(self, at: int) -> int:
        found = self._text.find("\n", at)
        if found < 0:
            return len(self._text)
        return found - 1 if found > at and self._text[found - 1] == "\r" else found


def _is_alias(key: Node, value: Node) -> bool:
    """Whether a value stands before its key, as only that of an alias does."""
    return bool(value.start_mark.index < key.start_mark.index)


def _runs(places: list[int]) -> Iterator[tuple[int, int]]:
    """(first, last) of places that follow each other."""
    first = None
    for place in places:
        if first is None:
            first = last = place
        elif place == last + 1:
            last = place
        else:
            yield first, last
            first = last = place
    if first is not None:
        yield first, last


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def plain(value: Any) -> Any:
    """Additions as the values that they are where nothing is."""
    if isinstance(value, Items):
        return [*value.first, *value.last]
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return value


def _inside(value: Any) -> str:
    """What goes between the braces of a flow collection that is empty."""
    if isinstance(value, Items):
        return ", ".join(map(json.dumps, plain(value)))
    return ", ".join(f"{json.dumps(name)}: {_new(each)}" for name, each in value.items())


def _new(value: Any, between: str = " ") -> str:
    """A value where there was none, in a flow mapping: with a space or a line after the brace, which says so."""
    if "\n" in between:
        return _json(plain(value), between)
    if isinstance(value, Items):
        return f"[ {_inside(value)}]"
    return f"{{ {_inside(value)}}}" if isinstance(value, dict) else json.dumps(value)


def _json(value: Any, between: str) -> str:
    """As JSON: on lines of its own, where the entries beside it are."""
    if "\n" not in between:
        return json.dumps(value)
    return json.dumps(value, indent=4 if "    " in between else 2).replace("\n", between)


class _Dumper(yaml.SafeDumper):
    """Block style with text of several lines as such, and lists in line with their key, as people write manifests."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _block(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=1 << 20, allow_unicode=True)
