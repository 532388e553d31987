"""Lessons kept as tests: what the proxy may hold in memory, and that what the pages tell people to type exists."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from meshd.cli.verbs import VERBS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]

NOT_IN_THE_PROXY = {"aiohttp", "click", "consul", "cryptography", "kubernetes", "pyroute2", "rich"}
"""Each costs the proxy megabytes that its users pay per host. Key work, which needs cryptography, is a child's."""


def test_the_proxy_holds_only_what_the_data_path_needs() -> None:
    script = "import sys, proxy.main, proxy.program; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stdout.split())
    assert "uvloop" in loaded
    assert not loaded & NOT_IN_THE_PROXY


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"(?m)^([a-z0-9-]+):", makefile))


def typed(page: Path) -> str:
    """What the page shows as code: blocks and spans, without comments."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"(?ms)^```.*?^```", text) + re.findall(r"`[^`\n]+`", text)
    return re.sub(r"(?m)\s# .*$", "", "\n".join(blocks))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_the_pages_exist(page: Path) -> None:
    code = typed(page)
    made = set(re.findall(r"(?m)(?:^|[`$ ])make ([a-z0-9-]+)", code))
    assert made <= targets()
    verbs = set(re.findall(r"(?m)(?:^\s*|`|\$ )meshd ([a-z]+)\b(?!/)", code))
    assert verbs <= set(VERBS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_on_the_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_code_finds_commands_on_the_pages() -> None:
    assert "make demo" in typed(ROOT / "README.md")
    assert {"demo", "test", "lint", "bench", "clean"} <= targets()


def test_no_two_test_files_have_one_name() -> None:
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
