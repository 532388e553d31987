"""What the shells complete meshd's verbs and flags with: `completions.py SHARE` writes it where each shell looks for
what packages bring."""

import sys
from pathlib import Path

from click.shell_completion import get_completion_class

from meshd.cli import cli

PLACES = {
    "bash": "bash-completion/completions/meshd",
    "zsh": "zsh/vendor-completions/_meshd",
    "fish": "fish/vendor_completions.d/meshd.fish",
}

for shell, place in PLACES.items():
    found = get_completion_class(shell)
    assert found is not None
    file = Path(sys.argv[1], place)
    file.parent.mkdir(parents=True, exist_ok=True)
    complete = found(cli, {}, "meshd", "_MESHD_COMPLETE")
    file.write_text(complete.source_template % complete.source_vars(), encoding="utf-8")
