"""A controller: what is known, the listeners before it, and what keeps it current. Started whole, stopped whole.

It is ready once it has a certificate of its own and accepts sidecars. The API server may be away then: what it said is
kept on disk, and what it never said is told as soon as it does.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from prometheus_client.metrics_core import Metric

from discovery.chain import Chain, Named
from discovery.following import Following
from discovery.kubernetes.access import Access
from discovery.kubernetes.settings import KubernetesDiscovery, KubernetesDocuments
from k8s.controller.authority import AccountSource, Issuing, OwnCertificate
from k8s.controller.core import Core
from k8s.controller.metrics import ControllerMetrics
from k8s.controller.operators import Operators
from k8s.controller.pods import Pods
from k8s.controller.reviews import Reviews
from k8s.controller.server import ControllerServer
from k8s.settings import CA, CA_PORT, CLUSTER_BACK_END, CONTROLLER, Installation
from meshd.admin.page import Page
from meshd.admin.server import AdminServer
from meshd.agent.backends import sources_of
from meshd.agent.certificates import Signer
from meshd.agent.documents import Documents
from meshd.agent.settings import Discovery
from meshd.agent.trust import FILE_NAME, TrustFile
from meshd.api.names import Address, Identity, WorkloadName
from meshd.api.problems import Misuse
from meshd.api.tasks import Tasks
from meshd.ca.client import CaClient
from meshd.ca.failover import Failover

log = logging.getLogger(__name__)

TOKEN_FILE: Final = "/var/run/secrets/meshd.io/token/token"  # noqa: S105 - a path

ASK_EVERY_S: Final = 4.0
"""Between questions to the CA for its roots and what it denies. It lets its nodes wait for news, and not a controller,
whom it would have to have reviewed by the API server each time; a few of them cost it a handshake each."""

LOOK_AGAIN_S: Final = 0.05


class Place(NamedTuple):
    """Where a controller is: what it listens at, and where the CA and the API server are. An empty `kubeconfig` is the
    pod's own service account; no `ca` is the installation's Service."""

    name: str
    listen: Address
    admin: Address
    socket: Path
    state_dir: Path
    ca: tuple[str, ...] = ()
    token_file: Path = Path(TOKEN_FILE)
    kubeconfig: str = ""


class Beside(Protocol):
    """What is served beside the control API, as the webhooks are: what it waits for the controller waits for, and its
    metrics are on the controller's page."""

    def waiting_for(self) -> tuple[str, ...]: ...

    def collect(self) -> Iterable[Metric]: ...

    async def start(self) -> None: ...

    async def close(self) -> None: ...


class Controller:
    """One of an installation's, at `place`. Misuse where the trust anchors are none, Problem where what is remembered
    cannot be read. `beside` is started last and stopped first."""

    def __init__(self, installation: Installation, place: Place, beside: Sequence[Beside] = ()) -> None:
        if not installation.trust_anchors.strip():
            raise Misuse("trustAnchors: there are none in the settings: nobody could be believed")
        self._place, self._beside = place, tuple(beside)
        self._tasks = Tasks("controller")
        urls = place.ca or (f"https://{CA}.{installation.namespace}.svc.{installation.cluster_domain}:{CA_PORT}",)
        anchors = installation.trust_anchors
        source = AccountSource(Failover([CaClient(url, anchors) for url in urls]), place.token_file)
        _make(place.state_dir)
        memory = TrustFile(place.state_dir / FILE_NAME)
        signer = Signer(source, anchors, ", ".join(urls), memory=memory, ask_every_s=ASK_EVERY_S)
        sources = _sources(installation, place)
        self._registries = tuple(each.source for each in sources if isinstance(each.source, Following))
        self._access = Access(place.kubeconfig)
        documents = Documents(sources)
        self.core = Core(
            installation=installation,
            node=place.name,
            signer=signer,
            issuing=Issuing(source),
            reviews=Reviews(self._access),
            pods=Pods(self._access),
            discovery=Chain(sources),
            documents=documents,
            troubles=self._troubles,
        )
        identity = Identity.of(installation.trust_domain, WorkloadName(installation.namespace, CONTROLLER))
        self.own = OwnCertificate(signer, source, identity, self._certified)
        self.server = ControllerServer(self.core, place.listen)
        self.admin = AdminServer(place.admin, Page(ControllerMetrics(self, self._beside)), self.waiting_for)
        self._operators = Operators(self.core, place.socket)
        self._bundle_pem = ""
        signer.changed = self._changed
        signer.oldest = self._oldest_certificate

    def waiting_for(self) -> tuple[str, ...]:
        """What keeps it from being ready."""
        if not self.own.pem:
            return (f"its certificate ({self.own.trouble or 'the CA was asked'})",)
        if not self.server.is_open:
            return ("its listener",)
        return tuple(each for beside in self._beside for each in beside.waiting_for())

    async def start(self) -> None:
        """Returns when sidecars are served, which is when there is a certificate to show. Problem when it cannot
        listen."""
        await self.admin.start()
        self.core.documents.start(self._documents_changed)
        self._documents_changed()
        for registry in self._registries:
            registry.start()
        for trouble in self.core.signer.troubles():
            log.error("%s", trouble)
        self._tasks.start(self.core.signer.watch(), "watch CA")
        self._tasks.start(self.core.signer.follow(), "follow CA")
        self._tasks.start(self.own.run(), "certificate")
        await self._operators.start()
        while not self.own.pem:
            await asyncio.sleep(LOOK_AGAIN_S)
        self.server.deny(frozenset(self.core.signer.trust.denied_peers))  # as it was heard before a restart, too
        await self.server.start()
        for each in self._beside:
            await each.start()
        log.info("controller %s of %s answers at %s", self._place.name, self.core.trust_domain, self.server.address)

    async def stop(self) -> None:
        """Sidecars go to another controller, or go on with what they know."""
        for each in reversed(self._beside):
            await each.close()
        await self.server.close()
        await self._operators.close()
        await self._tasks.cancel()
        await self.core.documents.close()
        for registry in self._registries:
            await registry.close()
        await self._access.close()
        await self.admin.close()

    # --- what changes ---------------------------------------------------------------------------------------------

    def _certified(self) -> None:
        self._bundle_pem = self.core.signer.trust_bundle_pem
        self.server.show(self.own.pem, self._bundle_pem)

    def _changed(self) -> None:
        """The CA went away or came back, or there is something else to believe."""
        signer = self.core.signer
        self.own.heed()
        if self.own.pem and signer.trust_bundle_pem != self._bundle_pem:
            self._certified()
        self.server.deny(frozenset(signer.trust.denied_peers))
        self.core.changed()

    def _documents_changed(self) -> None:
        self.core.documents.settle()
        self.core.discovery.use(self.core.documents.rules())

    def _oldest_certificate(self) -> float:
        return min(self.own.not_before or 0.0, self.core.sidecars.oldest_certificate())

    def _troubles(self) -> tuple[str, ...]:
        own = (f"no certificate of its own: {self.own.trouble}",) if self.own.trouble else ()
        beside = (each for each in (self.admin.trouble, self._operators.trouble) if each)
        return (*own, *self.core.signer.troubles(), *beside, *map(str, self.core.documents.findings))


def _make(directory: Path) -> None:
    """Where it cannot be made, nothing is kept, which is said when something is to be."""
    with suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)


def _sources(installation: Installation, place: Place) -> list[Named]:
    """Where services are learned from: the cluster, with the mesh's documents in it before its Services, and then what
    the settings name."""
    documents = KubernetesDocuments(kinds=("Service",))
    cluster = KubernetesDiscovery(
        kubeconfig=place.kubeconfig,
        cluster_domain=installation.cluster_domain,
        external_workloads=True,
        config=documents,
    )
    found: list[Named] = []
    for each in (Discovery(name=CLUSTER_BACK_END, kubernetes=cluster), *installation.discovery):
        found += sources_of(
            each,
            trust_domain=installation.trust_domain,
            node=place.name,
            zone="",
            state_dir=place.state_dir,
        )
    return found
