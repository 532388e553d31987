"""A registry that reads the double of an API server, which has a service, and what it asked it."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from discovery.backends import Place
from discovery.kubernetes.access import Access
from discovery.kubernetes.names import ServiceKey
from discovery.kubernetes.registry import KubernetesRegistry
from discovery.kubernetes.settings import KubernetesDiscovery
from tests.support import aio
from tests.support.kubernetes import Cluster
from tests.support.kubernetes.bodies import endpoint, service, slice_of
from tests.support.kubernetes.worlds import World, at

SLICES = "/endpointslices"


@asynccontextmanager
async def stage(directory: Path, **how: Any) -> AsyncIterator[tuple[Cluster, World, KubernetesRegistry]]:
    """A double with the service `web` at 192.0.2.1, and a registry that reads it. `how` is for Access."""
    cluster = Cluster(directory)
    async with cluster.serves(), at(cluster.kubeconfig(), cluster) as here:
        await here.service(service("web", ("", 80, 8080)))
        await here.slice(slice_of("web", "web-1", endpoint("192.0.2.1"), ports={"": 8080}))
        cluster.requests.clear()
        registry = reader(how.pop("kubeconfig", cluster.kubeconfig()), **how)
        try:
            yield cluster, here, registry
        finally:
            await registry.close()


def reader(kubeconfig: Path | None, **how: Any) -> KubernetesRegistry:
    settings = KubernetesDiscovery("" if kubeconfig is None else str(kubeconfig))
    place = Place("kubernetes", "prod.example", "vm1", "")
    return KubernetesRegistry(settings, place, Access(settings.kubeconfig, settings.context, **how))


Scene = Callable[[Cluster, World, KubernetesRegistry], Coroutine[Any, Any, None]]


def play(directory: Path, scene: Scene, **how: Any) -> None:
    async def main() -> None:
        async with stage(directory, **how) as (cluster, here, registry):
            await scene(cluster, here, registry)

    aio.run(main(), 110.0)


def key(here: World) -> ServiceKey:
    return ServiceKey(here.namespace, "web")


def watches(cluster: Cluster) -> list[dict[str, str]]:
    return [query for _, path, query in cluster.requests if query.get("watch") and path.endswith(SLICES)]


def lists(cluster: Cluster) -> int:
    asked = [each for each in cluster.requests if each[0] == "GET" and each[1].endswith(SLICES)]
    return len([query for _, _, query in asked if "watch" not in query])
