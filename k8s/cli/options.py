"""What the verbs that are about a cluster have in common: where it is, and the installation's settings."""

import difflib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from k8s.settings import CONFIG_KEY, CONFIG_MAP, Installation
from k8s.settings_text import loaded
from meshd.api.loading import read_text
from meshd.api.problems import Misuse

F = TypeVar("F", bound=Callable[..., object])

HIGH_AVAILABILITY = {"highAvailability": "true", "replicas": "3", "failurePolicy": "Fail"}
"""What `--ha` stands for, where nothing else is said."""

STORAGE, SEVERAL = "ca.storage", {"ca.replicas": "3"}
"""And of the CA: an installation that is there keeps where its CA remembers, and has several where that can be."""

SHARED = "kubernetes"


def cluster_options(function: F) -> F:
    """--kubeconfig FILE and --context NAME, as `kubeconfig` and `context`."""
    file = click.option("--kubeconfig", default="", help="Where the cluster is. Default: $KUBECONFIG, ~/.kube/config.")
    name = click.option("--context", default="", help="Which context of the kubeconfig. Default: its current one.")
    return file(name(function))


def namespace_option(function: F) -> F:
    """--control-plane-namespace NAME, as `namespace`."""
    return click.option(
        "--control-plane-namespace", "namespace", default="meshd", show_default=True, help="Where the installation is."
    )(function)


def identity_options(*, anchors: str, chain: str) -> Callable[[F], F]:
    """--identity-trust-anchors-file, --identity-issuer-certificate-file and --identity-issuer-key-file, as `anchors`,
    `chain` and `key`, with what to say of the first two."""

    def with_them(function: F) -> F:
        for name, field, text in (
            ("--identity-issuer-key-file", "key", "That issuer's private key (PEM)."),
            ("--identity-issuer-certificate-file", "chain", chain),
            ("--identity-trust-anchors-file", "anchors", anchors),
        ):
            function = click.option(name, field, type=click.Path(path_type=Path), help=text)(function)
        return function

    return with_them


def settings_options(function: F) -> F:
    """--values FILE, --set NAME=VALUE and --ha, as `values`, `given` and `ha`."""
    file = click.option(
        "--values", type=click.Path(path_type=Path), help="A file of settings (YAML), as docs/kubernetes-settings.md."
    )
    each = click.option(
        "--set",
        "given",
        multiple=True,
        metavar="NAME=VALUE",
        help="A setting, as in proxy.cpuRequest=100m; repeatable.",
    )
    ha = click.option(
        "--ha",
        is_flag=True,
        help="Three controllers and CAs on nodes of their own, and failurePolicy Fail: no pod is made that nobody "
        "looked at. An installation that is there keeps its one CA, unless ca.storage is kubernetes.",
    )
    return file(each(ha(function)))


def settings_of(values: Path | None, given: tuple[str, ...], ha: bool, before: str = "") -> Installation:
    """The settings that options say, over those of `before`, the text of an installation that is there. Misuse or
    ConfigurationError when they say what is none."""
    pairs = dict(map(_pair, given))
    if ha:
        pairs = {**_left_open(values, before, pairs.get(STORAGE, "")), **pairs}
    if values is None:
        return loaded(before, f"ConfigMap {CONFIG_MAP}: {CONFIG_KEY}" if before else "--set", pairs)
    if before:
        raise Misuse("--values goes with `install`: an installation has its own, and --set changes some of them")
    return loaded(read_text(values), str(values), pairs)


def _left_open(values: Path | None, before: str, storage: str) -> dict[str, str]:
    """What `--ha` stands for, but for what a file, or the storage that --set names, says otherwise."""
    from meshd.api.loading import parse  # noqa: PLC0415 - rarely

    text, name = (read_text(values), str(values)) if values is not None else (before, CONFIG_KEY)
    said: Any = next((content for _, content in parse(text, name)), {})
    said = said if isinstance(said, dict) else {}
    kept = set(said) - {"highAvailability"}
    wanted = {key: value for key, value in HIGH_AVAILABILITY.items() if key not in kept}
    ca = said["ca"] if isinstance(said.get("ca"), dict) else {}
    storage = storage or ca.get("storage", "")
    if not storage and not before:
        wanted[STORAGE] = storage = SHARED
    if storage == SHARED and "replicas" not in ca:
        wanted |= SEVERAL
    return wanted


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise Misuse(f"--set {text}: expected NAME=VALUE, as in proxy.cpuRequest=100m")
    known = [*names(Installation)]
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise Misuse(f"--set {name}: there is no such setting{hint}; there are {', '.join(sorted(known))}")
    return name, value


def names(kind: Any, prefix: str = "") -> Iterator[str]:
    """The settings that there are, by their paths."""
    for field in msgspec.structs.fields(kind):
        path = f"{prefix}{field.encode_name}"
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from names(field.type, f"{path}.")
        elif (inner := _struct_in(field.type)) is not None:
            yield from names(inner, f"{path}.")
        else:
            yield path


def _struct_in(kind: Any) -> Any:
    """The struct that an annotated type is; None when it is none."""
    origin = getattr(kind, "__origin__", None)
    return origin if isinstance(origin, type) and issubclass(origin, msgspec.Struct) else None
