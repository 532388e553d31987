"""Who the pods behind a service are: which of them are meshed, as whom, and where their proxies listen.

A pod is meshed when the injector put `meshd.io/control-plane-ns` among its labels; its identity is then that of its
service account. Pods are read once, when a slice first names them, and not watched: none of this changes while a pod
lives (its service account cannot, and injection is when it is created), and a pod that someone relabels must not become
one that is spoken to in plain text. Only pods that slices name are kept.

An endpoint whose pod is not known yet is held back, rather than taken for one that is not meshed.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from discovery.kubernetes.access import Access, Gone
from discovery.kubernetes.lists import PODS, Query, decoded, pages
from discovery.kubernetes.objects import Container, Pod, Reference, Service
from discovery.registry import Away

MESHED: Final = "meshd.io/control-plane-ns"
"""The label that the injector puts on a pod that it gave a proxy."""

INBOUND_PORT: Final = ("config.meshd.io/inbound-port", "config.linkerd.io/inbound-port")
OPAQUE_PORTS: Final = ("config.meshd.io/opaque-ports", "config.linkerd.io/opaque-ports")
"""Annotations; the first that is there counts."""

PROXY, ADMIN = "meshd-proxy", "meshd-admin"
"""The injector's container, and its port with the metrics."""

DEFAULT_INBOUND_PORT: Final = 4143

FEW: Final = 8
"""So many pods are read one by one; more of them by one list."""

Ranges = tuple[tuple[int, int], ...]


class PodFacts(NamedTuple):
    """What matters of a pod. `account` is empty where it is not meshed; `opaque`: its opaque ports, None where it says
    nothing of them. `admin_port` is where its proxy has its metrics, in plain text for anybody and not by the mesh; 0
    where there is none."""

    account: str
    inbound_port: int
    opaque: Ranges | None
    admin_port: int = 0

    def is_opaque(self, port: int) -> bool | None:
        return within(port, self.opaque)


def facts(pod: Pod) -> PodFacts:
    marks = pod.metadata.annotations
    account = (pod.spec.service_account_name or "default") if MESHED in pod.metadata.labels else ""
    text = _first(marks, INBOUND_PORT) or ""
    inbound = int(text) if re.fullmatch(r"[1-9][0-9]{0,4}", text) and int(text) <= 65535 else DEFAULT_INBOUND_PORT
    containers = (*(pod.spec.containers or ()), *(pod.spec.init_containers or ()))
    admin = next(
        (ports[ADMIN] for each in containers if each.name == PROXY and ADMIN in (ports := _by_name([each]))), 0
    )
    return PodFacts(account, inbound, opaque_ports(marks, _by_name(containers)), admin if account else 0)


def opaque_ports(annotations: Mapping[str, str], names: Mapping[str, int]) -> Ranges | None:
    """`3306,8000-8010,sql` as ranges; `names` are of ports. None where there is no such annotation; what is no port in
    it is passed over, as Linkerd does."""
    text = _first(annotations, OPAQUE_PORTS)
    if text is None:
        return None
    ranges = []
    for part in text[:4096].split(","):
        first, _, last = part.strip().partition("-")
        if first.isascii() and first.isdigit() and (not last or (last.isascii() and last.isdigit())):
            ranges.append((int(first[:6]), int(last[:6] or first[:6])))
        elif part.strip() in names:
            ranges.append((names[part.strip()],) * 2)
    return tuple(ranges)


def within(port: int, ranges: Ranges | None) -> bool | None:
    return None if ranges is None else any(first <= port <= last for first, last in ranges)


def _first(annotations: Mapping[str, str], names: Iterable[str]) -> str | None:
    return next((annotations[name] for name in names if name in annotations), None)


def _by_name(containers: Iterable[Container]) -> dict[str, int]:
    return {port.name: port.container_port for each in containers for port in each.ports or () if port.name}


class Pods:
    """The pods of one service, by uid; None for one that is no more."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self.known: dict[str, PodFacts | None] = {}

    async def learn(self, references: Iterable[Reference], service: Service) -> None:
        """Know these and no others. Away."""
        wanted = {each.uid: each for each in references}
        self.known = {uid: found for uid, found in self.known.items() if uid in wanted}
        missing = wanted.keys() - self.known.keys()
        if len(missing) > FEW and service.spec.selector:
            labels = ",".join(f"{name}={value}" for name, value in service.spec.selector.items())
            await self._list(Query(service.metadata.namespace, labels), missing)
            missing = wanted.keys() - self.known.keys()
        rest = sorted(missing)
        for start in range(0, len(rest), FEW):
            batch = [self._get(wanted[uid]) for uid in rest[start : start + FEW]]
            for error in await asyncio.gather(*batch, return_exceptions=True):
                if error is not None:
                    raise error

    async def _list(self, query: Query, missing: Iterable[str]) -> None:
        try:
            async for page in pages(self._access, PODS, query):
                for pod in page.items or ():
                    if pod.metadata.uid in missing:
                        self.known[pod.metadata.uid] = facts(pod)
        except Gone as error:
            raise Away(f"the pods of {query.namespace} take longer to list than the server remembers (410)") from error

    async def _get(self, reference: Reference) -> None:
        path = PODS.path(reference.namespace, reference.name)
        body = await self._access.get(path, {}, absent_is_none=True)
        pod = None if body is None else decoded(PODS.one, body, path)
        same = pod is not None and pod.metadata.uid == reference.uid
        self.known[reference.uid] = facts(pod) if pod is not None and same else None
