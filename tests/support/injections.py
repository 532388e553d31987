"""Manifests, and what `meshd inject` makes of them: the golden files, in tests/recordings/inject.

python -m tests.support.injections

writes them anew, for somebody to read what became different. VERSION stands there for the version.
"""

from pathlib import Path

from msgspec.structs import replace

from k8s.injector.manifests import injected
from k8s.settings import Installation
from meshd import __version__

FOLDER = Path(__file__).resolve().parents[1] / "recordings" / "inject"
ANCHORS = (FOLDER / "anchors.pem").read_text(encoding="utf-8")

SETTINGS = Installation(image="registry.example/meshd:1.2.3", trust_domain="prod.example", trust_anchors=ANCHORS)

WAYS: dict[str, tuple[Installation | None, bool]] = {
    "annotated": (None, True),
    "native": (SETTINGS, True),
    "beside": (replace(SETTINGS, namespace="mesh", cluster_domain="k8s.example"), False),
}
"""How a manifest is injected → (settings, whether sidecars are native)."""

CASES = [
    ("votes.yaml", "annotated"), ("votes.yaml", "native"), ("store.yaml", "annotated"), ("store.yaml", "beside"),
    ("list.json", "annotated"), ("list.json", "native"),
]  # fmt: skip


def manifest(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def golden(name: str, way: str) -> Path:
    file = FOLDER / name
    return file.with_name(f"{file.stem}.{way}{file.suffix}")


def made(name: str, way: str) -> str:
    """As a golden file has it."""
    settings, native = WAYS[way]
    text, _ = injected(manifest(name), name, settings, native=native)
    return text.replace(f"meshd/cli {__version__}", "meshd/cli VERSION")


if __name__ == "__main__":
    for case in CASES:
        golden(*case).write_text(made(*case), encoding="utf-8")
