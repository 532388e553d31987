"""`meshd inject` and `meshd uninject` for manifests: from files or standard input to standard output, byte for byte but
for what is put in or taken out, with a report on standard error in Linkerd's words.

What cannot be injected ends the command, and nothing is printed: half a file that is applied would leave workloads in
plain text that somebody wanted meshed. `meshd.cli.inject` hands over to this what is no unit of systemd.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click

from k8s.cli.options import settings_of
from k8s.injector.manifests import Outcome, injected, uninjected
from k8s.settings import CONFIG_KEY, CONFIG_MAP, Installation
from meshd.api.loading import ConfigurationError, Finding
from meshd.api.problems import Misuse, Problem

STANDARD_INPUT: Final = "-"
SUFFIXES: Final = (".yaml", ".yml", ".json")
MAX_BYTES: Final = 64 << 20
"""What a file or standard input may hold."""

WARNING: Final = "‼"


def inject_manifests(
    source: str, *, manual: bool, config: Path | None, given: tuple[str, ...], native: bool | None, kubeconfig: str,
    context: str, namespace: str,
) -> None:  # fmt: skip
    """Print what source has, injected. Settings are asked for where the sidecar itself is to be put in."""
    settings, server = None, None
    if manual:
        settings, server = _settings(config, given, kubeconfig, context, namespace)
    is_native = native if native is not None else settings is None or settings.native(server)
    outcomes = _through(source, lambda text, file: injected(text, file, settings, native=is_native), "injected")
    refused = [each for each in outcomes if each.refused]
    if refused:
        lines = [f"failed to inject {each.resource}: {', '.join(each.reasons)}" for each in refused]
        raise Problem("\n".join([*lines, "nothing is printed: what is to stay out has meshd.io/inject: disabled"]))


def uninject_manifests(source: str) -> None:
    """Print what source has, without what `inject` put there."""
    _through(source, uninjected, "uninjected")


def _through(source: str, change: Callable[[str, str], tuple[str, list[Outcome]]], done: str) -> list[Outcome]:
    texts, outcomes = [], []
    for name, text in _read(source):
        changed, more = change(text, name)
        texts.append(changed)
        outcomes += more
    click.echo(report(outcomes, done), err=True, nl=False)
    if not any(each.refused for each in outcomes):
        sys.stdout.buffer.write(joined(texts).encode())
        sys.stdout.buffer.flush()
    return outcomes


def joined(texts: list[str]) -> str:
    """Several files as one stream of documents; one file is as it is."""
    stream = ""
    for text in texts:
        if stream and not stream.endswith("\n"):
            stream += "\n"
        stream += text if not stream or text.startswith("---") else f"---\n{text}"
    return stream


def report(outcomes: list[Outcome], done: str) -> str:
    """What became of each object, after what people are to know of some; as `linkerd inject` has it."""
    warnings: dict[str, list[str]] = {}
    for each in outcomes:
        said = each.reasons if each.refused or each.kind in _WORTH_A_WORD else ()
        for reason in (*said, *each.notes):
            warnings.setdefault(reason, []).append(each.resource)
    lines = [f"{WARNING} {reason}: {', '.join(resources)}" for reason, resources in warnings.items()]
    if not any(each.done or each.refused for each in outcomes):
        lines.append(f"{WARNING} no supported objects found")
    return "\n".join(["", *lines, *([""] if lines else []), *(_line(each, done) for each in outcomes), "", ""])


_WORTH_A_WORD: Final = frozenset(
    ("pod", "deployment", "statefulset", "daemonset", "replicaset", "replicationcontroller", "job", "cronjob")
)


def _line(outcome: Outcome, done: str) -> str:
    if not outcome.kind:
        return 'document missing "kind" field, skipped'
    return f'{outcome.kind} "{outcome.name}" {done if outcome.done else "skipped"}'


# --- what is read


def _read(source: str) -> Iterator[tuple[str, str]]:
    """(name, text) of what a source holds; line ends as they are."""
    if source == STANDARD_INPUT:
        yield "standard input", _decoded(sys.stdin.buffer.read(MAX_BYTES + 1), "standard input")
        return
    path = Path(source)
    for file in _files(path) if path.is_dir() else [path]:
        try:
            with file.open("rb") as opened:
                content = opened.read(MAX_BYTES + 1)
        except OSError as error:
            raise ConfigurationError([Finding(str(file), f"cannot be read: {error.strerror}")]) from error
        yield str(file), _decoded(content, str(file))


def _files(directory: Path) -> list[Path]:
    found = sorted(each for each in directory.rglob("*") if each.suffix in SUFFIXES and each.is_file())
    if not found:
        raise Misuse(f"{directory}: holds no {', '.join(SUFFIXES)} file")
    return found


def _decoded(content: bytes, name: str) -> str:
    if len(content) > MAX_BYTES:
        raise ConfigurationError([Finding(name, f"larger than {MAX_BYTES >> 20} MiB")])
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigurationError([Finding(name, f"not UTF-8 text: byte {error.start}")]) from error


# --- settings


def _settings(
    config: Path | None, given: tuple[str, ...], kubeconfig: str, context: str, namespace: str
) -> tuple[Installation, tuple[int, int] | None]:
    """The installation's settings, and the version of its cluster: from a file, for a cluster that nobody asks, else
    from the cluster's own ConfigMap."""
    if config is not None:
        return settings_of(config, given, ha=False), None
    from k8s.cluster import Cluster  # noqa: PLC0415 - a third of a second, for those who ask a cluster

    name = f"ConfigMap {namespace}/{CONFIG_MAP}"
    with Cluster(kubeconfig, context) as cluster:
        found = cluster.get(f"/api/v1/namespaces/{namespace}/configmaps/{CONFIG_MAP}")
        if found is None:
            raise Problem(
                f"{name}: is not there: `meshd install` makes it; --config FILE has the settings from elsewhere"
            )
        text = (found.get("data") or {}).get(CONFIG_KEY)
        if not isinstance(text, str):
            raise Problem(f"{name}: has no {CONFIG_KEY}")
        return settings_of(None, given, ha=False, before=text), cluster.version()
