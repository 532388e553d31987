"""One sidecar's calls, and what they may do.

without a certificate   `Attach` and `SignCertificate`, each with the service account's token
with one                attaching without a token, watching, reporting; signing still takes the token, for the CA

A sidecar is served for the workload that its certificate or token proves, and for the pod that it names where that pod
is of this workload. Nothing that a session holds outlives its connection.
"""

from typing import Final

from discovery.names import Authority
from discovery.source import Close
from k8s.controller.core import Core
from k8s.controller.peer import Peer
from k8s.controller.pods import PodFacts
from k8s.controller.sidecars import Sidecar
from meshd.agent.certificates import NotSigned
from meshd.agent.complaints import complaints
from meshd.agent.connection import Outbox
from meshd.agent.registration import check_report
from meshd.agent.registry import Unacceptable
from meshd.agent.under_way import UnderWay
from meshd.agent.watches import OpenWatches
from meshd.api.control import (
    Attach,
    Call,
    Cancel,
    Refused,
    ReportState,
    ReportStats,
    Request,
    SignCertificate,
    WatchDestination,
)
from meshd.api.names import Identity, InvalidName, WorkloadName
from meshd.api.tasks import Tasks
from meshd.ca.wire import MAX_CSR_BYTES

MAX_WATCHES: Final = 4096
"""Destinations that one connection may watch: a proxy follows 1,000 for its workload."""

MAX_SIGNING: Final = 4
"""Certificates that one connection may have on their way."""

MAX_SIDECARS_OF_A_POD: Final = 130
"""Connections that may be attached for one pod: those of 64 workers, and of those that they follow."""


class Attached:
    """How many connections are attached for each pod."""

    def __init__(self) -> None:
        self._pods: dict[str, int] = {}

    def add(self, pod: str) -> None:
        if self._pods.get(pod, 0) >= MAX_SIDECARS_OF_A_POD:
            raise Unacceptable(f"{MAX_SIDECARS_OF_A_POD} connections are attached for the pod {pod}", retry=True)
        self._pods[pod] = self._pods.get(pod, 0) + 1

    def remove(self, pod: str) -> None:
        self._pods[pod] -= 1
        if not self._pods[pod]:
            del self._pods[pod]


class SidecarSession:
    """What one connection has attached and watches."""

    def __init__(self, core: Core, attached: Attached, peer: Peer, outbox: Outbox, tasks: Tasks) -> None:
        self._core, self._pods, self._peer, self._outbox, self._tasks = core, attached, peer, outbox, tasks
        self._watches = OpenWatches(outbox, MAX_WATCHES)
        self._is_attaching = self._is_closed = False
        self._sidecar: Sidecar | None = None
        self._signing = UnderWay(tasks, MAX_SIGNING, "too many certificates are on their way already")

    def handle(self, call: Call) -> None:
        try:
            self._handle(call.id, call.body)
        except Unacceptable as error:
            self._refuse(call, error)

    def closed(self) -> None:
        self._is_closed = True
        self._watches.close()
        if self._sidecar is not None:
            self._core.sidecars.leave(self._sidecar)
            self._pods.remove(self._sidecar.pod)

    def _refuse(self, call: Call, error: Unacceptable) -> None:
        complaints.warning("refused %s to %s: %s", type(call.body).__name__, self._peer, error)
        self._outbox.answer(call.id, Refused(str(error), error.retry))

    def _handle(self, call_id: int, body: Request) -> None:
        match body:
            case Attach():
                self._attach(Call(call_id, body), body)
            case SignCertificate():
                self._sign(Call(call_id, body), body)
            case Cancel():
                self._watches.cancel(call_id)
            case _ if self._peer.identity is None:
                raise Unacceptable("without a certificate there is only attaching, and signing: connect with one")
            case WatchDestination():
                self._watch(call_id, body, self._peer.identity.workload)
            case ReportState():
                check_report(body)
                self._attachment().report = body
            case ReportStats():
                self._account(body)
            case _:
                raise Unacceptable(f"a controller does not answer {type(body).__name__}")

    # --- attaching ------------------------------------------------------------------------------------------------

    def _attach(self, call: Call, asked: Attach) -> None:
        self._watches.check(call.id)
        if self._is_attaching or self._sidecar is not None:
            raise Unacceptable("this connection has attached already")
        self._is_attaching = True
        self._tasks.start(self._attached(call, asked), f"attach {asked.pod[:300]!r}")

    async def _attached(self, call: Call, asked: Attach) -> None:
        try:
            workload = await self._prove(asked.token, asked.pod)
            pod = await self._core.pods.facts(asked.pod, workload)
            if not self._is_closed:
                self._watches.check(call.id)
                self._pods.add(pod.pod)
                self._sidecar = Sidecar(pod.pod, workload)
                self._core.sidecars.attach(self._sidecar)
                self._follow(call.id, pod)
        except Unacceptable as error:
            self._refuse(call, error)
        finally:
            self._is_attaching = False

    async def _prove(self, token: str, pod: str = "") -> WorkloadName:
        """The workload that this is, by its certificate, or by a token that is for that pod. Unacceptable."""
        if self._peer.identity is not None:
            return self._peer.identity.workload
        if not token:
            raise Unacceptable("there is neither a certificate nor a token: send the service account's")
        account = await self._core.reviews.account(token, self._peer.address)
        if pod and account.pod and pod != f"{account.workload.namespace}/{account.pod}":
            raise Unacceptable(f"the token is of the pod {account.workload.namespace}/{account.pod}, and not of {pod}")
        return account.workload

    def _follow(self, call_id: int, pod: PodFacts) -> None:
        def tell() -> None:
            self._outbox.update(call_id, lambda: self._core.configuration(pod))

        self._watches.add(call_id, self._core.follow(tell))
        tell()

    def _attachment(self) -> Sidecar:
        if self._sidecar is None:
            raise Unacceptable("attach first")
        return self._sidecar

    def _account(self, report: ReportStats) -> None:
        try:
            self._core.sidecars.take(self._attachment(), report)
        except ValueError as error:
            raise Unacceptable(str(error)) from error

    # --- certificates ---------------------------------------------------------------------------------------------

    def _sign(self, call: Call, asked: SignCertificate) -> None:
        try:
            workload = WorkloadName.parse(asked.workload)
        except InvalidName as error:
            raise Unacceptable(str(error)) from error
        if not asked.token:
            raise Unacceptable("there is no token: the CA signs for who has the service account's")
        if len(asked.csr_pem) > MAX_CSR_BYTES:
            raise Unacceptable(f"a CSR has at most {MAX_CSR_BYTES >> 10} KiB")
        self._signing.start(lambda: self._signed(call, asked, workload), f"sign {workload}")

    async def _signed(self, call: Call, asked: SignCertificate, workload: WorkloadName) -> None:
        try:
            await self._check_workload(workload, asked.token)
            identity = Identity.of(self._core.trust_domain, workload)
            self._outbox.answer(call.id, await self._core.issuing.sign(asked.token, asked.csr_pem, identity))
        except NotSigned as error:
            self._outbox.answer(call.id, Refused(str(error), error.retry))
        except Unacceptable as error:
            self._refuse(call, error)

    async def _check_workload(self, workload: WorkloadName, token: str) -> None:
        """Unacceptable where it is not who this is, by the token and by the certificate that there is."""
        account = await self._core.reviews.account(token, self._peer.address)
        proven = account.workload if self._peer.identity is None else self._peer.identity.workload
        if not workload == proven == account.workload:
            raise Unacceptable(f"{workload} is not the workload of this pod, which is {proven}")

    # --- destinations ---------------------------------------------------------------------------------------------

    def _watch(self, call_id: int, asked: WatchDestination, workload: WorkloadName) -> None:
        def follow(authority: Authority) -> Close:
            return self._core.destinations.watch(
                workload, authority, self._outbox, call_id, differences=asked.differences
            )

        self._watches.destination(call_id, asked, follow)
