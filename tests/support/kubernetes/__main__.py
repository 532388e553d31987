"""python -m tests.support.kubernetes DIRECTORY: a double that runs until it is ended; its kubeconfig is there."""

import asyncio
import sys
from pathlib import Path

from tests.support.kubernetes.cluster import Cluster


async def main(directory: Path) -> None:
    async with Cluster(directory).serves() as cluster:
        sys.stdout.write(f"{cluster.kubeconfig()}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


asyncio.run(main(Path(sys.argv[1])))
