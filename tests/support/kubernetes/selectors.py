"""Label selectors and field selectors, as the API server reads them, errors included."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.support.kubernetes.refusals import bad_request

Matches = Callable[[dict[str, Any]], bool]

_LEXER = re.compile(r"\s*(?:(?P<name>[A-Za-z0-9][A-Za-z0-9_./-]*)|(?P<sign>==|!=|=|!|\(|\)|,|>|<)|(?P<end>$))")


def everything(_: dict[str, Any]) -> bool:
    return True


def by_labels(text: str) -> Matches:
    """`app=web,tier in (a, b),!old` as a predicate; refused as BadRequest when it is none."""
    if not text.strip():
        return everything
    reader = _Reader(text)
    tests: list[Callable[[Mapping[str, str]], bool]] = [reader.requirement()]
    while reader.take(","):
        tests.append(reader.requirement())
    if reader.peek:
        raise _bad(f"found '{reader.peek}', expected: ',' or 'end of string'")
    return lambda each: all(test(each["metadata"].get("labels") or {}) for test in tests)


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        place = 0
        while place < len(text):
            found = _LEXER.match(text, place)
            if found is None:
                raise _bad(f"found '{text[place:].strip()}', expected: identifier")
            place = found.end()
            if not found["end"] and (token := found["name"] or found["sign"]):
                self._tokens.append(token)

    @property
    def peek(self) -> str:
        return self._tokens[0] if self._tokens else ""

    def take(self, sign: str) -> bool:
        if self.peek == sign:
            del self._tokens[0]
            return True
        return False

    def name(self) -> str:
        if not self._tokens or not self.peek[0].isalnum():
            raise _bad(f"found '{self.peek}', expected: identifier")
        return self._tokens.pop(0)

    def requirement(self) -> Callable[[Mapping[str, str]], bool]:
        if self.take("!"):
            key = self.name()
            return lambda labels: key not in labels
        key = self.name()
        sign = self.peek
        if sign in ("=", "==", "!="):
            del self._tokens[0]
            value = "" if self.peek in ("", ",") else self.name()
            return (
                (lambda labels: labels.get(key) != value) if sign == "!=" else (lambda labels: labels.get(key) == value)
            )
        if sign in ("in", "notin"):
            del self._tokens[0]
            values = self._values()
            if sign == "in":
                return lambda labels: labels.get(key) in values
            return lambda labels: labels.get(key) not in values
        if sign in ("", ","):
            return lambda labels: key in labels
        raise _bad(f"found '{sign}', expected: in, notin, =, ==, !=, gt, lt")

    def _values(self) -> set[str]:
        if not self.take("("):
            raise _bad(f"found '{self.peek}' expected: '('")
        values = {self.name()}
        while self.take(","):
            values.add(self.name())
        if not self.take(")"):
            raise _bad(f"found '{self.peek}', expected: ',' or ')'")
        return values


def _bad(why: str) -> Exception:
    return bad_request(f"unable to parse requirement: {why}")


def by_fields(text: str, supported: Mapping[str, Callable[[dict[str, Any]], Any]], what: str, labels: str) -> Matches:
    """`metadata.name=web,spec.type!=ExternalName` over the fields that a resource can be selected by. `what` and
    `labels` are for the error: `/v1, Resource=pods`, and the label selector that came with it."""
    tests: list[tuple[Callable[[dict[str, Any]], Any], str, bool]] = []
    for term in filter(None, text.split(",")):
        found = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", term)
        if found is None:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
        path, sign, value = found.groups()
        if path not in supported:
            raise bad_request(
                f'Unable to find "{what}" that match label selector "{labels}", field selector "{text}": '
                f"field label not supported: {path}"
            )
        tests.append((supported[path], value, sign != "!="))
    return lambda each: all((str(read(each)) == value) == wanted for read, value, wanted in tests)
