"""python -m tests.support.kubernetes DIRECTORY [HOST:PORT]: a double that runs until it is ended; its kubeconfig is
there."""

import asyncio
import sys
from pathlib import Path

from tests.support.kubernetes.cluster import Cluster


async def main(directory: Path, at: str = "") -> None:
    cluster = Cluster(directory)
    if at:
        cluster.host, cluster.port = at.partition(":")[0], int(at.partition(":")[2])
    async with cluster.serves():
        sys.stdout.write(f"{cluster.kubeconfig()}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
