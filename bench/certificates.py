"""Certificates for both proxies of a pair: P-256, straight below one root, good for an hour."""

from pathlib import Path

from tests.support.certificates import Root, identity, write


def lay(directory: Path) -> None:
    """Write what `bench.scenario.Wiring` says is there."""
    root = Root()
    (directory / "bundle.pem").write_text(root.bundle_pem, encoding="utf-8")
    for name in ("web", "api"):
        write(root.held(identity(name)), directory, name)
