"""The installation's settings as text: what the ConfigMap has, a file for `--config`, and `--set NAME=VALUE`."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import msgspec.inspect
import yaml

from k8s.settings import AuthoritySettings, Installation, ProxySettings
from meshd.api.loading import ConfigurationError, Finding, convert, parse


def dumped(settings: Installation) -> str:
    """The settings as YAML, all of them, in one order."""
    plain = msgspec.to_builtins(settings)
    plain["trustAnchors"] = _Block(plain["trustAnchors"])
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def given(settings: Installation) -> str:
    """What of the settings is not as it is by default, as YAML: so that another version's defaults become those of an
    installation that is upgraded. What identities are made of is always there: it must never change by itself."""
    plain, usual = msgspec.to_builtins(settings), msgspec.to_builtins(Installation())
    kept = {key: plain[key] for key in ("namespace", "trustDomain", "clusterDomain")} | _differences(plain, usual)
    ordered = {key: kept[key] for key in plain if key in kept}
    if text := ordered.get("trustAnchors"):
        ordered["trustAnchors"] = _Block(text)
    return yaml.dump(ordered, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def _differences(tree: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            value = _differences(value, usual[key])  # noqa: PLW2901 - the same setting, as far as it differs
            if value:
                found[key] = value
        elif value != usual[key]:
            found[key] = value
    return found


class _Block(str):
    """Text of several lines, which people are to be able to read."""

    __slots__ = ()


def _block(dumper: yaml.SafeDumper, text: _Block) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|" if "\n" in text else None)


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(_Block, _block)


def loaded(text: str, file: str, values: Mapping[str, str] | None = None) -> Installation:
    """The settings that text has, with `values` (path → YAML of a value, as in `proxy.cpuRequest` → `100m`) over them.
    An empty text is the defaults. ConfigurationError with every finding."""
    found = list(parse(text, file))
    if len(found) > 1:
        raise ConfigurationError([Finding(file, "settings are one document", "", label) for label, _ in found[1:]])
    tree = found[0][1] if found else {}
    if not isinstance(tree, dict):
        raise ConfigurationError([Finding(file, "expected a mapping of settings")])
    for path, value in (values or {}).items():
        _set(tree, path, value)
    made: Installation = convert(tree, Installation, file)
    return made


def _set(tree: dict[str, Any], path: str, text: str) -> None:
    *above, last = path.split(".")
    for name in above:
        below = tree.setdefault(name, {})
        if not isinstance(below, dict):
            raise ConfigurationError([Finding("--set", f"{name} is not a mapping", path)])
        tree = below
    tree[last] = _value(path, text)


_TEXTS: Final = frozenset(
    f"{prefix}{field.encode_name}"
    for prefix, kind in (("", Installation), ("ca.", AuthoritySettings), ("proxy.", ProxySettings))
    for field in msgspec.inspect.type_info(kind).fields  # type: ignore[attr-defined]
    if isinstance(getattr(field.type, "type", field.type), msgspec.inspect.StrType)
)
"""Settings that are text, whatever they look like: `4567` is a list of ports, `1` a number of cores."""


def _value(path: str, text: str) -> Any:
    if path in _TEXTS:
        return text
    found = list(parse(text, "--set"))
    if not found or isinstance(found[0][1], dict | list):
        raise ConfigurationError([Finding("--set", f"found {text[:64]!r}; expected one value", path)])
    return found[0][1]
