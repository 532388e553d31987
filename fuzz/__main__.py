"""The command line: `python -m fuzz TARGET --seconds 60`.

What is found that reaches new code is kept in .fuzz/TARGET and begun with the next time. An input that shows something
wrong ends the run with status 77 and lies in .fuzz/TARGET.found; `--input FILE` runs it again.
"""

import argparse
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["proxy", "meshd.ca", "meshd.api", "discovery"]):
    from fuzz.targets import TARGETS

KEPT = Path(__file__).resolve().parents[1] / ".fuzz"
MAX_INPUT_BYTES = 4096


def main() -> None:
    """Does not return: libFuzzer ends the process, with status 0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="fuzz", description="Look for inputs that show something wrong.")
    parser.add_argument("target", choices=TARGETS, metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="how long (%(default)s)")
    parser.add_argument("--input", type=Path, metavar="FILE", help="run this input alone")
    arguments = parser.parse_args()
    target = TARGETS[arguments.target]
    if arguments.input is not None:
        target.run(arguments.input.read_bytes())
        return
    corpus, found = KEPT / arguments.target, KEPT / f"{arguments.target}.found"
    for directory in (corpus, found):
        directory.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    flags = [
        f"-max_total_time={arguments.seconds}", f"-max_len={MAX_INPUT_BYTES}", f"-artifact_prefix={found}/",
        "-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *flags, str(corpus)], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
