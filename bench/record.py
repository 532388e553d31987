"""Where results are kept: `bench/results/NAME.json`, and the section of docs/performance.md that shows it.

The page is text around sections that begin with `<!-- bench NAME -->` and end with `<!-- end -->`; only what is between
them is written here, so that the page cannot say other than the last recorded run did.
"""

from pathlib import Path

import msgspec

from bench.measure import USUAL
from bench.report import Result, markdown

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "performance.md"


def write(kept: Result, elsewhere: Path | None = None) -> Path:
    """Keep a result in the repository, or as JSON alone in the directory `elsewhere`; the JSON file that it is in."""
    directory = elsewhere or RESULTS
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name(kept)}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=2) + b"\n")
    if elsewhere is None:
        PAGE.write_text(with_section(PAGE.read_text(encoding="utf-8"), kept), encoding="utf-8")
    return path


def read(path: Path) -> Result:
    """A result that was kept."""
    return msgspec.json.decode(path.read_bytes(), type=Result)


def name(kept: Result) -> str:
    """What a result is kept under: its scenario, and the size of the answers when it is not the usual one."""
    usual = kept.body_bytes == USUAL.body_bytes
    return kept.scenario if usual else f"{kept.scenario}-{kept.body_bytes}"


def with_section(page: str, kept: Result) -> str:
    """`page` with the section of this result replaced; as it is when it has none."""
    begin, end = f"<!-- bench {name(kept)} -->\n", "<!-- end -->"
    before, found, rest = page.partition(begin)
    if not found:
        return page
    return before + begin + markdown(kept) + "\n" + end + rest.partition(end)[2]
