"""What `k8s.injector.yaml_edit` does to the text of a manifest, done to what the text says: so that the result can be
read again and compared. Nothing here knows of text."""

from typing import Any

from k8s.injector.yaml_edit import Additions, Items, Named, NotEditable, Removals, plain


def merge(value: dict[str, Any], additions: Additions) -> None:
    """Put additions into a value."""
    for name, addition in additions.items():
        there = value.get(name)
        if isinstance(addition, Items):
            value[name] = [*addition.first, *(there or ()), *addition.last]
        elif isinstance(addition, dict) and isinstance(there, dict):
            merge(there, addition)
        else:
            value[name] = plain(addition)


def strip(value: dict[str, Any], removals: Removals) -> None:
    """Take removals out of a value; what they leave empty stays."""
    for name, wanted in removals.items():
        there = value.get(name)
        if wanted is True:
            value.pop(name, None)
        elif isinstance(wanted, Named) and isinstance(there, list):
            there[:] = [each for each in there if not (isinstance(each, dict) and each.get("name") in wanted.names)]
        elif isinstance(there, dict) and isinstance(wanted, dict):
            strip(there, wanted)


def unshared(value: Any, length: int) -> Any:
    """A copy in which nothing is there twice, as aliases make it. NotEditable where that makes more values than a text
    of that length can have: a few aliases in a row stand for any number."""
    budget = length + 1

    def copied(value: Any) -> Any:
        nonlocal budget
        budget -= 1
        if budget < 0:
            raise NotEditable("aliases make more values of it than there are letters")
        if isinstance(value, dict):
            return {name: copied(each) for name, each in value.items()}
        return [copied(each) for each in value] if isinstance(value, list) else value

    try:
        return copied(value)
    except RecursionError as error:
        raise NotEditable("it is too deep") from error


def bare(value: Any) -> Any:
    """A value without its empty parts, which to the API are as nothing."""
    if isinstance(value, dict):
        return {name: kept for name, each in value.items() if (kept := bare(each)) not in (None, {}, [])}
    return [bare(each) for each in value] if isinstance(value, list) else value
