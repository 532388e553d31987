"""Where tests of what uses a cluster take place: at a double, or at a real cluster, in a namespace of their own.

A real one is used where `MESHD_TEST_KUBECONFIG` says how to reach it, and not where `KUBECONFIG` does: nobody's cluster
is to be written to because the variable happened to be set. `make test-k8s` sets it.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from kubernetes import aio as library

from tests.support.kubernetes.bodies import Body
from tests.support.kubernetes.cluster import Cluster

REAL = "MESHD_TEST_KUBECONFIG"

client: Any = library.client
config: Any = library.config


class World:
    """`double` is None on a real cluster. `namespace` is the test's own."""

    def __init__(self, api: Any, kubeconfig: Path, double: Cluster | None) -> None:
        self.kubeconfig, self.double = kubeconfig, double
        self.namespace = f"meshd-test-{secrets.token_hex(4)}"
        self._core, self._discovery = client.CoreV1Api(api), client.DiscoveryV1Api(api)
        self._api = api

    async def _plain(self, made: Any) -> Body:
        body: Body = self._api.sanitize_for_serialization(await made)
        return body

    async def begin(self) -> None:
        await self._core.create_namespace({"metadata": {"name": self.namespace}})
        await self._account_is_there()

    async def _account_is_there(self) -> None:
        """Its controller makes it, soon."""
        async with asyncio.timeout(60.0):
            while True:
                try:
                    await self._core.read_namespaced_service_account("default", self.namespace)
                except client.ApiException:
                    await asyncio.sleep(0.05)
                else:
                    return

    async def end(self) -> None:
        await self._core.delete_namespace(self.namespace)

    async def account(self, name: str) -> None:
        await self._core.create_namespaced_service_account(self.namespace, {"metadata": {"name": name}})

    async def service(self, body: Body) -> Body:
        return await self._plain(self._core.create_namespaced_service(self.namespace, body))

    async def patch_service(self, name: str, patch: Body) -> Body:
        return await self._plain(self._core.patch_namespaced_service(name, self.namespace, patch))

    async def delete_service(self, name: str) -> None:
        await self._core.delete_namespaced_service(name, self.namespace)

    async def pod(self, body: Body, *addresses: str) -> Body:
        """A pod, which has these addresses and runs, where it has any."""
        made = await self._plain(self._core.create_namespaced_pod(self.namespace, body))
        if addresses:
            status = {"phase": "Running", "podIP": addresses[0], "podIPs": [{"ip": each} for each in addresses]}
            await self._core.patch_namespaced_pod_status(made["metadata"]["name"], self.namespace, {"status": status})
        return made

    async def delete_pod(self, name: str) -> None:
        await self._core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0)

    async def slice(self, body: Body) -> Body:
        return await self._plain(self._discovery.create_namespaced_endpoint_slice(self.namespace, body))

    async def set_slice(self, body: Body) -> Body:
        meta = {key: value for key, value in body["metadata"].items() if key != "resourceVersion"}
        name, body = meta["name"], body | {"metadata": meta}
        return await self._plain(self._discovery.replace_namespaced_endpoint_slice(name, self.namespace, body))

    async def delete_slice(self, name: str) -> None:
        await self._discovery.delete_namespaced_endpoint_slice(name, self.namespace)


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[World]:
    real = os.environ.get(REAL, "")
    if real:
        async with at(Path(real), None) as made:
            yield made
        return
    cluster = Cluster(directory)
    async with cluster.serves(), at(cluster.kubeconfig(), cluster) as made:
        yield made


@asynccontextmanager
async def at(kubeconfig: Path, double: Cluster | None) -> AsyncIterator[World]:
    api = await config.new_client_from_config(str(kubeconfig), persist_config=False)
    async with api:
        made = World(api, kubeconfig, double)
        await made.begin()
        try:
            yield made
        finally:
            if double is None:
                await made.end()
