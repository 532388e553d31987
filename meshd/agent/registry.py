"""Which workloads run on this host, and how their proxies are.

Two things that live as long as a connection each, and are joined by the instance, a secret:

    registration   a `meshd run` declares its process
    attachment     that process's proxy reports how it is

Either may come and go without the other: an agent that was restarted sees proxies attach before their workloads have
registered again, a proxy that died is followed by another. A workload is announced only while both are there, neither
waits for anything, and it has not withdrawn. One of the host's own is moreover held back while it is not well
(`meshd.agent.health`).

The instance "" is the host's own proxy: its workloads are declared by documents. Pure; connections are opaque tokens.
"""

import hmac
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from meshd.api.control import Capture, CertificateState, ProxyWorkload, RegisterWorkload, ReportState, Workers
from meshd.api.names import Address, WorkloadName

HOST = ""
"""The instance of the host's proxy."""

MAX_REGISTRATIONS = 1024
"""Workloads that `meshd run` may have on one host at a time."""

NOT_ATTACHED = "its proxy"
"""What a workload waits for whose proxy is not there."""

NOT_REPORTED = "first report of the proxy"
"""What a workload waits for whose proxy attached but has not yet said how it is."""


class Unacceptable(Exception):
    """What was asked for cannot be; the message says why. `retry`: whether it may be later."""

    def __init__(self, reason: str, *, retry: bool = False) -> None:
        super().__init__(reason)
        self.retry = retry


@dataclass(slots=True, eq=False)
class Instance:
    """One proxy's worth of workloads, as declared. `owner` is the connection that declared it."""

    key: str = field(repr=False)
    uid: int
    pid: int
    workloads: tuple[ProxyWorkload, ...]
    outbound: str
    inbound: str
    admin: str
    admin6: str = ""
    waiting_for: tuple[str, ...] = ()
    workers: Workers | None = None
    capture: Capture | None = None
    owner: object = None
    withdrawn: bool = False

    def serves(self, workload: WorkloadName) -> bool:
        return any((each.namespace, each.name) == workload for each in self.workloads)


@dataclass(slots=True, eq=False)
class Attachment:
    """A proxy, or a worker of one, that is attached over `connection`, and what it last said."""

    connection: object
    version: str = ""
    report: ReportState | None = None


class Registry:
    """All of it. Every change is followed by a call of each subscriber."""

    def __init__(self) -> None:
        self._instances: dict[str, Instance] = {}
        self._attachments: dict[str, list[Attachment]] = {}
        self._unwell: Mapping[WorkloadName, tuple[str, ...]] = {}
        self._subscribers: list[Callable[[], None]] = []

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` after every change, for as long as the registry lives."""
        self._subscribers.append(changed)

    def _changed(self) -> None:
        for changed in self._subscribers:
            changed()

    # --- declarations -------------------------------------------------------------------------------------------

    def declare_host(self, host: Instance | None) -> None:
        """The host's own proxy is to serve these workloads; None when this agent has no host proxy."""
        if host is None:
            self._instances.pop(HOST, None)
        else:
            self._instances[HOST] = host
        self._changed()

    def register(self, asked: RegisterWorkload, uid: int, owner: object) -> None:
        """Declare the workload of a `meshd run` of user uid. The same instance again replaces what it declared."""
        known = self._known(asked.instance)
        if known is not None and known.uid != uid:
            raise Unacceptable("this instance belongs to another user")
        if known is None and self.registered >= MAX_REGISTRATIONS:
            raise Unacceptable(f"this host has {MAX_REGISTRATIONS} registered workloads already", retry=True)
        workload = ProxyWorkload(asked.namespace, asked.name, asked.ports, asked.upstreams)
        self._instances[asked.instance] = Instance(
            key=asked.instance,
            uid=uid,
            pid=asked.pid,
            workloads=(workload,),
            outbound=asked.outbound,
            inbound=asked.inbound,
            admin=asked.admin,
            waiting_for=asked.waiting_for,
            owner=owner,
        )
        self._changed()

    def withdraw(self, owner: object) -> bool:
        """No more callers for what owner registered. False: it had registered nothing."""
        withdrawn = [instance for instance in self._instances.values() if instance.owner is owner]
        for instance in withdrawn:
            instance.withdrawn = True
        if withdrawn:
            self._changed()
        return bool(withdrawn)

    @property
    def registered(self) -> int:
        """How many `meshd run` have a workload here."""
        return len(self._instances) - (HOST in self._instances)

    def hold_back(self, unwell: Mapping[WorkloadName, tuple[str, ...]]) -> None:
        """What is wrong with the workloads of the host's proxy, or not known yet, by the checks that their documents
        name; all of it, replacing what was said before."""
        if unwell != self._unwell:
            self._unwell = dict(unwell)
            self._changed()

    # --- proxies ------------------------------------------------------------------------------------------------

    def attach(self, key: str, uid: int, connection: object, version: str = "") -> Instance:
        """A proxy of user uid and of that version is there for the instance. Of several, the last that is ready counts:
        one that cannot serve, since another has its listeners, takes nobody's place; and of a proxy's workers it is
        enough that one is ready: another that starts or follows one that died has connections wait for a moment, and
        refuses none."""
        known = self._known(key)
        if known is None:
            raise Unacceptable("no workload is registered with this instance (yet)", retry=True)
        if key != HOST and known.uid != uid:
            raise Unacceptable("this instance belongs to another user")
        self._attachments.setdefault(known.key, []).append(Attachment(connection, version))
        self._changed()
        return known

    def report(self, key: str, connection: object, report: ReportState) -> None:
        """How the proxy that attached over connection is."""
        for attachment in self._attachments.get(key, ()):
            if attachment.connection is connection and attachment.report != report:
                attachment.report = report
                self._changed()

    def gone(self, connection: object) -> None:
        """The connection ended, and with it what it declared and the proxy that was attached over it."""
        instances = [key for key, instance in self._instances.items() if instance.owner is connection]
        for key in instances:
            del self._instances[key]
        detached = False
        for key, attachments in tuple(self._attachments.items()):
            left = [each for each in attachments if each.connection is not connection]
            detached = detached or len(left) < len(attachments)
            if left:
                self._attachments[key] = left
            else:
                del self._attachments[key]
        if instances or detached:
            self._changed()

    # --- what is known ------------------------------------------------------------------------------------------

    def instance(self, key: str) -> Instance | None:
        """What is declared under a key that was already found good."""
        return self._instances.get(key)

    def instances(self) -> Iterator[Instance]:
        return iter(self._instances.values())

    def waiting_for(self, instance: Instance, workload: ProxyWorkload) -> tuple[str, ...]:
        """What keeps a workload of the instance from being announced; empty when nothing does."""
        return self.proxy_waits_for(instance) + self.unwell(instance, workload)

    def unwell(self, instance: Instance, workload: ProxyWorkload) -> tuple[str, ...]:
        """What of that is the workload's own health."""
        if instance.key != HOST:
            return ()
        return self._unwell.get(WorkloadName(workload.namespace, workload.name), ())

    def is_announced(self, instance: Instance, workload: ProxyWorkload) -> bool:
        return not instance.withdrawn and not self.waiting_for(instance, workload)

    def proxy_waits_for(self, instance: Instance) -> tuple[str, ...]:
        """What of that is the same for all workloads of the instance."""
        attachment = self._attachment(instance)
        if attachment is None:
            return (*instance.waiting_for, NOT_ATTACHED)
        if attachment.report is None:
            return (*instance.waiting_for, NOT_REPORTED)
        return instance.waiting_for + attachment.report.waiting_for

    def announced(self) -> frozenset[WorkloadName]:
        """Every workload of which at least one instance is announced."""
        return frozenset(
            WorkloadName(workload.namespace, workload.name)
            for instance in self._instances.values()
            for workload in instance.workloads
            if self.is_announced(instance, workload)
        )

    def report_of(self, instance: Instance) -> ReportState | None:
        attachment = self._attachment(instance)
        return None if attachment is None else attachment.report

    def attached(self, instance: Instance) -> int:
        """How many proxies, or workers of one, are there for the instance."""
        return len(self._attachments.get(instance.key, ()))

    def versions(self, instance: Instance) -> tuple[str, ...]:
        """Those of the proxies that are there for the instance, each once."""
        return tuple(sorted({each.version for each in self._attachments.get(instance.key, ())}))

    def _attachment(self, instance: Instance) -> Attachment | None:
        """The one that counts: the last that is ready, else the last."""
        attached = self._attachments.get(instance.key)
        if not attached:
            return None
        ready = [each for each in attached if each.report is not None and not each.report.waiting_for]
        return (ready or attached)[-1]

    def certificate(self, instance: Instance, workload: ProxyWorkload) -> CertificateState:
        """What the instance's proxy said of the workload's certificate."""
        name = str(WorkloadName(workload.namespace, workload.name))
        report = self.report_of(instance)
        for state in report.certificates if report is not None else ():
            if state.workload == name:
                return state
        return CertificateState(name, 0.0)

    def oldest_certificate(self) -> float:
        """Since when the oldest certificate has been good that any proxy here presents, in seconds since the epoch; inf
        when there is none, 0 when a proxy has not said."""
        oldest = math.inf
        for attachment in (each for attached in self._attachments.values() for each in attached):
            if attachment.report is None:
                return 0.0
            for state in attachment.report.certificates:
                if state.not_after:
                    oldest = min(oldest, state.not_before)
        return oldest

    def _known(self, key: str) -> Instance | None:
        """The instance of that key, found in a time that says nothing about any other's."""
        found = None
        for known, instance in self._instances.items():
            if hmac.compare_digest(known.encode(), key.encode()):
                found = instance
        return found


def reachable_at(listen: str) -> Address:
    """Where on this host a listener that is bound to `listen` is reached."""
    address = Address.parse(listen)
    return address._replace(host="127.0.0.1") if address.host in ("0.0.0.0", "::", "") else address  # noqa: S104
