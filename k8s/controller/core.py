"""What a controller knows and can do, with no socket about it: the sessions of the control API act on this."""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from discovery.chain import Chain
from k8s.controller.authority import Issuing
from k8s.controller.destinations import Destinations
from k8s.controller.pods import PodFacts, Pods
from k8s.controller.reviews import Reviews
from k8s.controller.sidecars import Sidecars
from k8s.settings import Installation
from k8s.values import port_ranges
from meshd import __version__
from meshd.agent.calling import beside
from meshd.agent.certificates import Signer
from meshd.agent.documents import Documents
from meshd.agent.services import source_statuses, stale_services
from meshd.agent.traffic import WINDOW_S
from meshd.api.control import Capture, ProxyConfiguration, ProxyWorkload, Status
from meshd.api.detection import Detection
from meshd.api.followers import Followers

Changed = Callable[[], None]

BATCH, BATCH_EVERY_S = 64, 0.02
"""Sidecars that are told of a new configuration at a time."""

ANYWHERE: Final = "0.0.0.0"  # noqa: S104 - other pods, and the kubelet, reach a sidecar at the pod's address


@dataclass(slots=True, eq=False)
class Core:
    """`node` is how this controller is called, its pod's name."""

    installation: Installation
    node: str
    signer: Signer
    issuing: Issuing
    reviews: Reviews
    pods: Pods
    discovery: Chain
    documents: Documents
    troubles: Callable[[], tuple[str, ...]]
    clock: Callable[[], float] = time.time
    destinations: Destinations = field(init=False)
    sidecars: Sidecars = field(init=False)
    started_at: float = field(init=False)
    _detection: Detection = field(init=False)
    _followers: Followers[[]] = field(default_factory=Followers)
    _told: tuple[object, ...] = ()

    def __post_init__(self) -> None:
        self.destinations = Destinations(self.discovery)
        self.sidecars = Sidecars(self.trust_domain)
        self.started_at = self.clock()
        ranges = port_ranges(self.installation.proxy.opaque_ports)
        ports = sorted({port for low, high in ranges for port in range(low, high + 1)})
        self._detection = Detection(tuple(ports))
        self._told = self._shared()

    @property
    def trust_domain(self) -> str:
        return self.installation.trust_domain

    def follow(self, changed: Changed) -> Changed:
        """Call `changed` when a sidecar's configuration may differ, until what is returned is called."""
        return self._followers.follow(changed)

    def changed(self) -> None:
        """Something that sidecars are told of may differ. Where it does, they are told one batch after the other: what
        is denied may be long, and there may be thousands of them."""
        told, self._told = self._told, self._shared()
        if told == self._told:
            return
        loop = asyncio.get_running_loop()
        for number, tell in enumerate(self._followers.calls()):
            loop.call_later(number // BATCH * BATCH_EVERY_S, tell)

    def _shared(self) -> tuple[object, ...]:
        """What all configurations are made of."""
        signer = self.signer
        return (signer.trust_bundle_pem, signer.trust.denied, signer.trust.renewal, signer.health().healthy)

    def configuration(self, pod: PodFacts) -> ProxyConfiguration:
        """What the sidecar of a pod is to be: alone with one workload, which has any port."""
        proxy, signer = self.installation.proxy, self.signer
        outbound = f"127.0.0.1:{proxy.outbound_port}"
        inbound = f"{ANYWHERE}:{pod.inbound_port or proxy.inbound_port}"
        admin = f"{ANYWHERE}:{proxy.admin_port}"
        renewal = signer.trust.renewal
        namespace, name = pod.workload
        return ProxyConfiguration(
            trust_domain=self.trust_domain,
            trust_bundle_pem=signer.trust_bundle_pem,
            outbound=outbound,
            inbound=inbound,
            admin=admin,
            admin6=beside(admin),
            workloads=(ProxyWorkload(namespace, name, opaque_ports=pod.opaque_ports, any_port=True),),
            zone=pod.zone,
            ca_healthy=signer.health().healthy,
            detection=self._detection,
            denied=signer.trust.denied_peers,
            renew_issued_before=renewal.issued_before if renewal is not None else 0.0,
            renew_within_s=renewal.within_s if renewal is not None else 0.0,
            capture=Capture(outbound6=beside(outbound), inbound6=beside(inbound), caller=str(pod.workload)),
        )

    def status(self, window_s: float) -> Status:
        """The mesh as this controller sees it: the sidecars that are connected to it, and all sources."""
        workloads, edges = self.sidecars.statuses(min(max(window_s, 1.0), WINDOW_S))
        return Status(
            node=self.node,
            trust_domain=self.trust_domain,
            version=__version__,
            mode="controller",
            pid=os.getpid(),
            started_at=self.started_at,
            ca=self.signer.health(),
            discovery=self.discovery.health(),
            configuration=self.troubles(),
            workloads=workloads,
            edges=edges,
            sources=source_statuses(self.discovery),
            stale=stale_services(self.discovery),
        )
