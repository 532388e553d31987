"""The files that mesh a unit, as text; and the record of them, by which they are removed again. Pure.

    /etc/systemd/system/UNIT.d/50-meshd.conf   puts the unit into the slice, after the mesh, and only when captured
    CONF.D/UNIT.yaml                           the `Workload`: its name, ports, and that this unit is it
    /etc/meshd/injected/UNIT.json              what was written, and which directories were made for it

Equal wishes are equal files. Who writes them is `meshd.agent.injecting`.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Final

import msgspec

from meshd.api.names import WorkloadName, is_label
from meshd.capture import slices

DROP_IN: Final = "50-meshd.conf"


@dataclass(frozen=True, slots=True)
class Wish:
    """A unit, and how it is to be meshed. `has_document`: somebody wrote its `Workload` already. `waiting`: the command
    with which it waits for the mesh before it starts; the workload's name is added."""

    unit: str
    workload: WorkloadName
    ports: tuple[int, ...] = ()
    skip_ports: tuple[int, ...] = ()
    skip_networks: tuple[str, ...] = ()
    slice: str = "meshed.slice"
    has_document: bool = False
    waiting: tuple[str, ...] = ("/usr/bin/meshd", "capture", "wait")

    @property
    def own_slice(self) -> str:
        """Where it is to run: in a slice of its own, where it has skip lists of its own."""
        skips = self.skip_ports or self.skip_networks
        return slices.own_slice(self.slice, self.workload) if skips else self.slice


class Written(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file, and the SHA-256 of what was written into it; `before`: of what was written there before that, which is
    there still when somebody was killed in between."""

    path: str
    sha256: str
    before: str = ""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was done for a unit; directories in the order in which they were made."""

    unit: str
    files: tuple[Written, ...]
    directories: tuple[str, ...] = ()
    version: int = 1


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def default_name(unit: str) -> str:
    """What the workload is called after its unit: web@1.service is web. Empty where that is no name."""
    name = re.sub(r"[^a-z0-9-]+", "-", unit.removesuffix(".service").split("@")[0].lower()).strip("-")
    return name if is_label(name) else ""


def drop_in(wish: Wish) -> str:
    """What is added to the unit."""
    lines = [
        f"# Written by `meshd inject {wish.unit}`; `meshd uninject {wish.unit}` removes it.",
        "[Unit]",
        "# It starts when the mesh is ready, and goes on when that is restarted.",
        "Wants=meshd.service meshd-proxy.service",
        "After=meshd.service meshd-proxy.service",
        "",
        "[Service]",
        "# What runs in this slice is captured.",
        f"Slice={wish.own_slice}",
        "# Not captured it would speak in plain text: it waits, and its journal says for what (capture.startTimeout).",
        f"ExecStartPre=+{' '.join(_word(each) for each in (*wish.waiting, str(wish.workload)))}",
    ]
    return "\n".join([*lines, ""])


def _word(text: str) -> str:
    """A word of a command line in a unit file (systemd.service(5))."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if re.search(r"[^\w./:@%$-]", text) else text


def document(wish: Wish) -> str:
    """The `Workload`."""
    capture = []
    if wish.skip_ports:
        capture.append(f"skipOutboundPorts: [{', '.join(map(str, wish.skip_ports))}]")
    if wish.skip_networks:
        capture.append(f"skipOutboundCidrs: [{', '.join(map(_text, wish.skip_networks))}]")
    ports = ", ".join(f"{{port: {port}}}" for port in wish.ports)
    return "\n".join(
        [
            f"# Written by `meshd inject {wish.unit}`; `meshd uninject {wish.unit}` removes it.",
            "apiVersion: meshd.io/v1",
            "kind: Workload",
            f"metadata: {{name: {_text(wish.workload.name)}, namespace: {_text(wish.workload.namespace)}}}",
            "spec:",
            f"  ports: [{ports}]",
            f"  selectors: [{{unit: {_text(wish.unit)}}}]",
            f"  capture: {{{', '.join(capture)}}}",
            "",
        ]
    )


def _text(text: str) -> str:
    """As YAML: JSON's strings are YAML's, and say nothing but themselves."""
    return msgspec.json.encode(text).decode()
