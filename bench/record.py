"""Where results are kept: `bench/results/NAME.json`, and the sections of docs/performance.md that show them.

The page is text around sections that begin with `<!-- bench NAME -->` and end with `<!-- end -->`; only what is between
them is written here, so that the page cannot say other than the last recorded run did. The section `goals` is what all
of them say of what was promised.
"""

from pathlib import Path

import msgspec

from bench import SCENARIOS, show
from bench.report import Result

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "performance.md"
NOT_YET = "Not recorded yet."


def write(kept: Result, elsewhere: Path | None = None) -> Path:
    """Keep a result in the repository, or as JSON alone in the directory `elsewhere`; the JSON file that it is in."""
    directory = elsewhere or RESULTS
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{kept.scenario}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=2) + b"\n")
    if elsewhere is None:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), recorded()), encoding="utf-8")
    return path


def read(path: Path) -> Result:
    """A result that was kept."""
    return msgspec.json.decode(path.read_bytes(), type=Result)


def recorded() -> dict[str, Result]:
    """The results that are kept in the repository, in the order of the scenarios."""
    paths = {name: RESULTS / f"{name}.json" for name in SCENARIOS}
    return {name: read(path) for name, path in paths.items() if path.exists()}


def page(text: str, results: dict[str, Result]) -> str:
    """`text` with every section as the results have it."""
    for name in SCENARIOS:
        text = with_section(text, name, show.markdown(results[name]) if name in results else NOT_YET)
    return with_section(text, "goals", show.goals(results.values()) if results else NOT_YET)


def with_section(text: str, name: str, content: str) -> str:
    """`text` with that section replaced; as it is when it has none."""
    begin, end = f"<!-- bench {name} -->\n", "<!-- end -->"
    before, found, rest = text.partition(begin)
    if not found:
        return text
    return before + begin + content + "\n" + end + rest.partition(end)[2]
