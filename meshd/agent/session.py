"""One connection's calls, and what they may do: the control API's meaning (`meshd.api.control`).

Everybody on this host may read the status, where documents are, and where services are. All else is for the users that
`Access` names, and certificates are signed only for the workloads of the proxy that attached over the very connection.
Nothing that a session holds outlives its connection.
"""

import logging
from functools import partial

from meshd.agent.calling import MAX_IDENTIFYING, source_of
from meshd.agent.certificates import NotSigned
from meshd.agent.complaints import complaints
from meshd.agent.connection import Outbox
from meshd.agent.core import Core
from meshd.agent.peer import Peer
from meshd.agent.registration import check_registration, check_report
from meshd.agent.registry import HOST, Instance, Unacceptable
from meshd.agent.saying import Saying
from meshd.agent.status import build_status
from meshd.agent.telling import Asked, Telling
from meshd.agent.under_way import UnderWay
from meshd.agent.watches import OpenWatches
from meshd.api.control import (
    Attach,
    Call,
    Cancel,
    Done,
    FindSource,
    GetConfiguration,
    GetEndpoints,
    GetServices,
    GetStatus,
    IdentifyCaller,
    Refused,
    Registered,
    RegisterWorkload,
    ReportState,
    ReportStats,
    Request,
    SignCertificate,
    WatchDestination,
    WithdrawWorkload,
)
from meshd.api.endpoints import EndpointSet
from meshd.api.logs import about
from meshd.api.names import InvalidName, WorkloadName
from meshd.api.tasks import Tasks

log = logging.getLogger(__name__)

MAX_WATCHES = 8192
"""Watches that one connection may have open: the destinations that one proxy knows at a time."""

MAX_VERSION = 64
"""Characters of a proxy's version that are kept."""

MAX_SIGNING = 16
"""Certificates that one connection may have on their way."""


class ControlSession:
    """What one connection has registered, attached and watches."""

    def __init__(self, core: Core, peer: Peer, outbox: Outbox, tasks: Tasks) -> None:
        self._core, self._peer, self._outbox = core, peer, outbox
        self._watches = OpenWatches(outbox, MAX_WATCHES)
        self._attached: str | None = None
        self._registered: WorkloadName | None = None
        self._counted = ""
        self._signing = UnderWay(tasks, MAX_SIGNING, "too many certificates are on their way already")
        self._identifying = UnderWay(tasks, MAX_IDENTIFYING, "too many callers are being identified already")
        self._telling = Telling(core.discovery, core.documents, partial(build_status, core), outbox, tasks)
        self._certified: set[WorkloadName] = set()

    def handle(self, call: Call) -> None:
        try:
            self._check_access(call.body)
            self._handle(call.id, call.body)
        except Unacceptable as error:
            asked = type(call.body).__name__
            complaints.warning("refused %s to %s: %s", asked, self._peer, error, extra=self._about())
            self._outbox.answer(call.id, Refused(str(error), error.retry))

    def closed(self) -> None:
        self._watches.close()
        account = None if self._attached is None else self._core.accounts.get(self._attached)
        if account is not None:
            account.leave(self._counted)
        self._core.registry.gone(self)
        if self._registered is not None:
            log.info("workload %s is gone (%s)", self._registered, self._peer, extra=self._about())

    def _check_access(self, body: Request) -> None:
        access, peer = self._core.access, self._peer
        if isinstance(body, GetStatus | GetConfiguration | GetEndpoints | GetServices | Cancel):
            return
        if not (access.may_declare(peer) or access.may_be_host_proxy(peer)):
            raise Unacceptable(f"uid {peer.uid} may only read the status: add the user to control.users in meshd.yaml")

    def _handle(self, call_id: int, body: Request) -> None:
        match body:
            case RegisterWorkload():
                self._register(call_id, body)
            case WithdrawWorkload():
                self._withdraw(call_id)
            case Attach():
                self._attach(call_id, body)
            case WatchDestination():
                self._watch(call_id, body)
            case Cancel():
                self._watches.cancel(call_id)
            case SignCertificate():
                self._sign(call_id, body)
            case IdentifyCaller() | FindSource():
                self._identify(call_id, body)
            case ReportState():
                check_report(body)
                self._core.registry.report(self._attachment(), self, body)
            case ReportStats():
                self._account(body)
            case GetConfiguration() | GetEndpoints() | GetServices() | GetStatus():
                self._tell(call_id, body)

    def _tell(self, call_id: int, body: Asked) -> None:
        """What anybody may read."""
        if isinstance(body, GetConfiguration) and body.whole and not self._core.access.may_declare(self._peer):
            raise Unacceptable(
                f"uid {self._peer.uid} may read where documents are, and not what they say: add the user to "
                "control.users in meshd.yaml"
            )
        self._telling.tell(call_id, body)

    def _about(self) -> dict[str, str]:
        return about(workload=self._registered, peer=self._peer)

    # --- workloads ----------------------------------------------------------------------------------------------

    def _register(self, call_id: int, asked: RegisterWorkload) -> None:
        if not self._core.access.may_declare(self._peer):
            raise Unacceptable(f"uid {self._peer.uid} may not declare workloads: add the user to control.users")
        name = check_registration(asked)
        self._core.registry.register(asked, self._peer.uid, self)
        before, self._registered = self._registered, name
        if before != name:
            log.info(
                "workload %s registered by %s, inbound at %s", name, self._peer, asked.inbound, extra=self._about()
            )
        self._outbox.answer(call_id, Registered(str(self._core.identity(name))))

    def _withdraw(self, call_id: int) -> None:
        if not self._core.registry.withdraw(self):
            raise Unacceptable("nothing is registered over this connection")
        known = self._about()
        log.info("workload %s withdrew: no more callers are sent to it", self._registered, extra=known)
        self._outbox.answer(call_id, Done())

    # --- proxies ------------------------------------------------------------------------------------------------

    def _attach(self, call_id: int, asked: Attach) -> None:
        self._watches.check(call_id)
        if self._attached is not None:
            raise Unacceptable("this connection has attached already")
        if asked.instance == HOST:
            self._check_host_proxy()
        instance = self._core.registry.attach(asked.instance, self._peer.uid, self, asked.version[:MAX_VERSION])
        self._attached = instance.key
        told = None

        def tell() -> None:
            nonlocal told
            configuration = self._core.configuration(instance.key)
            if configuration is not None and configuration != told:
                told = configuration
                self._outbox.update(call_id, lambda: configuration)

        self._watches.add(call_id, self._core.follow(tell))
        tell()

    def _check_host_proxy(self) -> None:
        if not self._core.may_attach_host():
            raise Unacceptable("this agent has no host proxy: it is the one that `meshd run` started for its user")
        if not self._core.access.may_be_host_proxy(self._peer):
            raise Unacceptable(
                f"uid {self._peer.uid} may not be the host's proxy: root, the agent's user, or meshd-proxy"
            )

    def _attachment(self) -> str:
        if self._attached is None:
            raise Unacceptable("attach first")
        return self._attached

    def _served(self) -> Instance:
        instance = self._core.registry.instance(self._attachment())
        if instance is None:
            raise Unacceptable("the workload of this proxy is not registered at present", retry=True)
        return instance

    def _account(self, report: ReportStats) -> None:
        instance = self._served()
        own = {f"{workload.namespace}/{workload.name}" for workload in instance.workloads}
        rows = tuple(row for row in report.rows if row.workload in own)
        try:
            self._core.account(instance.key).take(ReportStats(report.proxy, rows), self._core.monotonic())
        except ValueError as error:
            raise Unacceptable(str(error)) from error
        self._counted = report.proxy

    def _sign(self, call_id: int, asked: SignCertificate) -> None:
        instance = self._served()
        try:
            workload = WorkloadName.parse(asked.workload)
        except InvalidName as error:
            raise Unacceptable(str(error)) from error
        if not instance.serves(workload):
            raise Unacceptable(f"{workload} is not a workload of this proxy")
        self._signing.start(lambda: self._signed(call_id, asked.csr_pem, workload), f"sign {workload}")

    async def _signed(self, call_id: int, csr_pem: str, workload: WorkloadName) -> None:
        try:
            certificate = await self._core.signer.sign(csr_pem, self._core.identity(workload))
        except NotSigned as error:
            self._outbox.answer(call_id, Refused(str(error), error.retry))
        else:
            self._core.signer.signed.renewed += workload in self._certified
            self._certified.add(workload)
            self._outbox.answer(call_id, certificate)

    # --- callers ------------------------------------------------------------------------------------------------

    def _identify(self, call_id: int, asked: IdentifyCaller | FindSource) -> None:
        if self._attachment() != HOST:
            raise Unacceptable("only the host's proxy is told who calls")
        if isinstance(asked, FindSource):
            self._outbox.answer(call_id, source_of(asked))
            return
        self._identifying.start(lambda: self._identified(call_id, asked), f"identify cgroup {asked.cgroup}")

    async def _identified(self, call_id: int, asked: IdentifyCaller) -> None:
        self._outbox.answer(call_id, await self._core.calling.identify(asked.cgroup, asked.uid, self._core.selectors))

    # --- destinations -------------------------------------------------------------------------------------------

    def _watch(self, call_id: int, asked: WatchDestination) -> None:
        saying = Saying(differences=asked.differences)

        def found(endpoints: EndpointSet | None) -> None:
            self._outbox.update(call_id, partial(saying.next, endpoints))

        self._watches.destination(call_id, asked, lambda authority: self._core.discovery.watch(authority, found))
