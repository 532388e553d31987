"""Manifests as YAML: one document an object, keys in the order that they have, the same for the same."""

from collections.abc import Iterable
from typing import Any

import yaml

from k8s.manifests.kinds import Object, manifest


def as_yaml(objects: Iterable[Object | dict[str, Any]]) -> str:
    """The objects as documents, each after a line `---`."""
    return "".join(f"---\n{_document(each)}" for each in objects)


def _document(each: Object | dict[str, Any]) -> str:
    plain = manifest(each) if isinstance(each, Object) else each
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Text of several lines is written as such, and nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
