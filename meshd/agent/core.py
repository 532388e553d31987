"""What the agent knows and can do, with no socket about it: the sessions of the control API act on this.

    registry      workloads and proxies of this host
    discovery     where services are
    documents     what is declared, and where
    signer        certificates
    accounts      what each proxy counted
    calling       which processes of this host call

Times: `clock` is the wall's, for what people read; `monotonic` is for windows and ages.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from discovery.chain import Chain
from meshd.agent.calling import Calling
from meshd.agent.certificates import Signer
from meshd.agent.documents import Documents
from meshd.agent.peer import Access
from meshd.agent.registry import HOST, Registry
from meshd.agent.traffic import Account
from meshd.api.control import ProxyConfiguration
from meshd.api.detection import Detection
from meshd.api.documents import Selector
from meshd.api.followers import Followers
from meshd.api.names import Identity, WorkloadName

Changed = Callable[[], None]


@dataclass(slots=True, eq=False)
class Core:
    """`troubles` gives what is wrong with the configuration, a line each; `selectors`, by which
    processes are told, is another object with each change. Each of `holds` says since when the oldest certificate has
    been good that is held otherwise than by proxies, in seconds since the epoch; inf for none."""

    node: str
    trust_domain: str
    mode: Literal["host", "embedded"]
    registry: Registry
    discovery: Chain
    signer: Signer
    access: Access
    troubles: Callable[[], tuple[str, ...]]
    documents: Documents = field(default_factory=lambda: Documents(()))
    zone: str = ""
    detection: Detection = field(default_factory=Detection)
    max_connections: int = 0
    selectors: Mapping[WorkloadName, tuple[Selector, ...]] = field(default_factory=dict)
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    pid: int = field(default_factory=os.getpid)
    started_at: float = 0.0
    accounts: dict[str, Account] = field(default_factory=dict)
    holds: list[Callable[[], float]] = field(default_factory=list)
    calling: Calling = field(default_factory=Calling)
    _followers: Followers[[]] = field(default_factory=Followers)

    def __post_init__(self) -> None:
        self.started_at = self.clock()
        self.registry.subscribe(self.changed)

    def identity(self, workload: WorkloadName) -> Identity:
        return Identity.of(self.trust_domain, workload)

    def follow(self, changed: Changed) -> Changed:
        """Call `changed` when a proxy's configuration may differ, until what is returned is called."""
        return self._followers.follow(changed)

    def changed(self) -> None:
        """Something that proxies are told of may differ."""
        present = {instance.key for instance in self.registry.instances()}
        self.accounts = {key: account for key, account in self.accounts.items() if key in present}
        self._followers.tell()

    def account(self, key: str) -> Account:
        """What the proxies of an instance that is present counted."""
        return self.accounts.setdefault(key, Account())

    def configuration(self, key: str) -> ProxyConfiguration | None:
        """What the proxy of an instance is to be; None while the instance is not declared."""
        instance = self.registry.instance(key)
        if instance is None:
            return None
        renewal = self.signer.trust.renewal
        return ProxyConfiguration(
            trust_domain=self.trust_domain,
            trust_bundle_pem=self.signer.trust_bundle_pem,
            outbound=instance.outbound,
            inbound=instance.inbound,
            admin=instance.admin,
            admin6=instance.admin6,
            workloads=instance.workloads,
            zone=self.zone,
            ca_healthy=self.signer.health().healthy,
            workers=instance.workers,
            capture=instance.capture,
            detection=self.detection,
            max_connections=self.max_connections,
            denied=self.signer.trust.denied_peers,
            renew_issued_before=renewal.issued_before if renewal is not None else 0.0,
            renew_within_s=renewal.within_s if renewal is not None else 0.0,
        )

    def may_attach_host(self) -> bool:
        return self.registry.instance(HOST) is not None
