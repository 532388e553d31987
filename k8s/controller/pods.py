"""What a pod's object says of its sidecar: whose it is, in which zone it is, which of its ports are opaque.

Read when a sidecar attaches, and again for the next that does once it is older than FRESH_S. While the API server is
away, what was read of a pod before still serves it; of one that was never read nothing can be said.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from discovery.kubernetes.access import Access, Gone
from discovery.kubernetes.lists import PODS, decoded
from discovery.kubernetes.objects import Marked, Pod
from discovery.kubernetes.pods import INBOUND_PORT, Ranges, facts, opaque_ports
from discovery.registry import Away
from meshd.agent.registry import Unacceptable
from meshd.api.names import InvalidName, WorkloadName, is_label, is_trust_domain
from meshd.ca.rates import Rate

FRESH_S: Final = 30.0
ABSENT_PER_SECOND, ABSENT_AT_ONCE = 10.0, 1_000
"""Pods that a workload's sidecars name and that are not there, or not its own: beyond it the API server is not asked. A
pod of a large Deployment may attach before the server that is asked knows it."""

MAX_KNOWN: Final = 20_000
MAX_NODES: Final = 10_000
ZONE: Final = "topology.kubernetes.io/zone"


class _Any(msgspec.Struct, frozen=True):
    metadata: Marked


_ANY: Final = msgspec.json.Decoder(_Any)


class PodFacts(NamedTuple):
    """`opaque_ports`: None where neither the pod nor its namespace says anything of them. `inbound_port` is 0 where
    nothing is said of it."""

    pod: str
    workload: WorkloadName
    zone: str = ""
    opaque_ports: tuple[int, ...] | None = None
    inbound_port: int = 0


class Pods:
    """By `access`."""

    def __init__(self, access: Access, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._access, self._monotonic = access, monotonic
        self._known: OrderedDict[str, tuple[float, PodFacts]] = OrderedDict()
        self._zones: OrderedDict[str, str] = OrderedDict()
        self._absent = Rate(ABSENT_PER_SECOND, ABSENT_AT_ONCE, monotonic)

    async def facts(self, pod: str, workload: WorkloadName) -> PodFacts:
        """Of the pod NAMESPACE/NAME, which must be of that service account. Unacceptable."""
        namespace, _, name = pod.partition("/")
        if not is_label(namespace) or not is_trust_domain(name):
            raise Unacceptable(f"{pod[:300]!r} is not the name of a pod, NAMESPACE/NAME")
        if namespace != workload.namespace:  # nobody is told what there is in other namespaces
            raise Unacceptable(f"the pod {pod} is of another namespace than {workload}")
        known = self._known.get(pod)
        is_fresh = known is not None and known[1].workload == workload and known[0] > self._monotonic()
        if known is None or not is_fresh:
            if wait_s := self._absent.wait_s(str(workload)):
                raise Unacceptable(
                    f"{workload} asked for too many pods that are not its own: again in {wait_s:.0f} s", retry=True
                )
            try:
                known = (self._monotonic() + FRESH_S, await self._read(namespace, name))
            except Unacceptable:
                self._absent.take(str(workload))
                raise
            except (Away, Gone) as error:
                if known is None:
                    raise Unacceptable(f"the pod {pod} cannot be read now: {error}", retry=True) from error
            else:
                self._keep(pod, known)
        found = known[1]
        if found.workload != workload:
            self._absent.take(str(workload))
            raise Unacceptable(f"the pod {pod} is of the service account {found.workload}, and not of {workload}")
        return found

    def _keep(self, pod: str, known: tuple[float, PodFacts]) -> None:
        self._known[pod] = known
        self._known.move_to_end(pod)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    async def _read(self, namespace: str, name: str) -> PodFacts:
        path = PODS.path(namespace, name)
        body = await self._access.get(path, {}, absent_is_none=True)
        if body is None:
            raise Unacceptable(f"there is no pod {namespace}/{name} (yet)", retry=True)
        pod: Pod = decoded(PODS.one, body, path)
        space, zone = await asyncio.gather(self._namespace(namespace), self._zone(pod.spec.node_name))
        account = pod.spec.service_account_name or "default"
        try:
            workload = WorkloadName.parse(f"{namespace}/{account}")
        except InvalidName as error:
            raise Unacceptable(f"the service account of {namespace}/{name} can be no workload: {error}") from error
        said = facts(pod)
        ranges = said.opaque if said.opaque is not None else opaque_ports(space.annotations, {})
        own = said.inbound_port if any(each in pod.metadata.annotations for each in INBOUND_PORT) else 0
        return PodFacts(
            f"{namespace}/{name}",
            workload,
            zone,
            None if ranges is None else _numbers(ranges),
            own,
        )

    async def _namespace(self, name: str) -> Marked:
        path = f"/api/v1/namespaces/{name}"
        body = await self._access.get(path, {}, absent_is_none=True)
        return Marked(name) if body is None else decoded_any(body, path)

    async def _zone(self, node: str) -> str:
        """Where a node is; nodes do not move."""
        if not node or node in self._zones:
            return self._zones.get(node, "")
        path = f"/api/v1/nodes/{node}"
        body = await self._access.get(path, {}, absent_is_none=True)
        if body is None:
            return ""
        zone = self._zones[node] = decoded_any(body, path).labels.get(ZONE, "")
        if len(self._zones) > MAX_NODES:
            self._zones.popitem(last=False)
        return zone


def decoded_any(body: bytes, path: str) -> Marked:
    """The metadata of an object of any kind. Away."""
    try:
        return _ANY.decode(body).metadata
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Away(f"the answer to {path} cannot be read: {error}") from error


def _numbers(ranges: Ranges) -> tuple[int, ...]:
    """Each port once, and gone through once: an annotation may have hundreds of ranges that lie over each other."""
    ports: list[int] = []
    following = 1
    for low, high in sorted(ranges):
        last = min(high, 65535)
        ports += range(max(low, following), last + 1)
        following = max(following, last + 1)
    return tuple(ports)
