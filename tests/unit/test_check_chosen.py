"""What `meshd check` looks at: what is asked for, else what is here."""

from pathlib import Path
from typing import Any

import pytest

from meshd.agent.check.kinds import Check
from meshd.cli import check


@pytest.mark.parametrize(
    ("what", "is_host", "is_cluster", "pre", "looked_at"),
    [
        (None, False, False, False, ["host"]),
        (None, True, False, False, ["host"]),
        (None, False, True, False, ["cluster"]),
        (None, True, True, False, ["host", "cluster if installed"]),
        (None, False, True, True, ["cluster"]),
        (None, True, True, True, ["host"]),
        ("host", False, True, False, ["host"]),
        ("host", True, True, False, ["host"]),
        ("kubernetes", True, True, False, ["cluster"]),
        ("kubernetes", True, False, True, ["cluster"]),
    ],
)
def test_what_is_looked_at(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str | None,
    is_host: bool,
    is_cluster: bool,
    pre: bool,
    looked_at: list[str],
) -> None:
    kubeconfig, settings = tmp_path / "kubeconfig", tmp_path / "meshd.yaml"
    monkeypatch.setenv("MESHD_SOCKET", str(tmp_path / "none.sock"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig) if is_cluster else "")

    def cluster(**how: Any) -> list[Check]:
        return [Check("", "cluster if installed" if how.get("only_if_installed") else "cluster", "")]

    chosen = check.chosen(what, settings if is_host else None, "", lambda: [Check("", "host", "")], cluster, pre=pre)
    assert [each.id for each in chosen()] == looked_at
