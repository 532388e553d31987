"""python -m tests.support.kubernetes DIRECTORY [HOST:PORT]: a double that runs until it is ended; its kubeconfig is
there. Where that is an address of IPv6, so is what Services have."""

import asyncio
import sys
from pathlib import Path

from meshd.api.names import Address
from tests.support.kubernetes import core
from tests.support.kubernetes.cluster import Cluster


async def main(directory: Path, at: str = "") -> None:
    cluster = Cluster(directory)
    if at:
        cluster.host, cluster.port = Address.parse(at)
        if ":" in cluster.host:
            core.FAMILIES[:] = ["IPv6"]
    async with cluster.serves():
        sys.stdout.write(f"{cluster.kubeconfig()}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
