"""The injector of a controller, with a cluster whose API server is the double of the tests, in one process.

python -m bench.origins.injector FILE    # {"port": …, "directory": …} in the file

Once it is ready, what it is to be believed by is in `injector.pem` in the directory. The double is asked for nothing
while reviews are answered.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Final

import uvloop

from bench.scenario import Wiring
from tests.support.injectors import installed

BUNDLE: Final = "injector.pem"


async def serve(port: int, directory: Path) -> None:
    async with installed(directory) as mesh, mesh.injector(port=port):
        (bundle,) = mesh.bundles()
        (directory / "injector.part").write_text(bundle, encoding="ascii")
        (directory / "injector.part").rename(directory / BUNDLE)
        await asyncio.Event().wait()


def configuration(wiring: Wiring) -> str:
    return json.dumps({"port": wiring.listen, "directory": str(wiring.directory)})


if __name__ == "__main__":
    _configured = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    uvloop.run(serve(_configured["port"], Path(_configured["directory"])))
