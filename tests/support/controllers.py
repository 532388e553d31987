"""A cluster's control plane inside the test: a double of its API server, a real CA, controllers, and who calls them."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from discovery.kubernetes.pods import MESHED
from k8s import crds
from k8s.controller.controller import Controller, Place
from k8s.settings import CONTROLLER, Installation
from meshd.api.control import CONTROL_ALPN
from meshd.api.documents import API_VERSION, GROUP, VERSION
from meshd.api.names import Address, Identity
from meshd.ca.authority import Authority
from meshd.ca.kubernetes import AUDIENCE
from meshd.ca.requester import Requester
from meshd.ca.server import CaServer
from meshd.ca.settings import CaDaemonSettings
from proxy.controller import CONTROLLER as CONTROLLER_VARIABLE
from proxy.controller import POD, TOKEN_FILE, TRUST_ANCHORS, TRUST_DOMAIN
from proxy.mesh.keys import make
from proxy.mesh.tls import Held, control_context
from tests.support.authorities import recorded
from tests.support.control import ControlClient
from tests.support.kubernetes import ADMIN, Cluster
from tests.support.kubernetes.api import Place as ApiPlace
from tests.support.kubernetes.bodies import Body
from tests.support.kubernetes.core import ACCOUNTS, NAMESPACES, PODS, SERVICES, SLICES
from tests.support.kubernetes.definitions import DEFINITIONS
from tests.support.kubernetes.tokens import ISSUER

DOMAIN = "prod.example"
ANYWHERE = Address("127.0.0.1", 0)


class _Anything:
    """What may be had: all."""

    def __call__(self, identity: Identity) -> str:
        return ""


ANYBODY = Requester("anybody", _Anything(), "192.0.2.1")


class ControlPlane:
    """It all; made by `control_plane`."""

    def __init__(self, directory: Path, cluster: Cluster, authority: Authority) -> None:
        self.directory, self.cluster, self.authority = directory, cluster, authority
        self.ca: CaServer
        self.bundle_pem = authority.bundle_pem
        self.installation = Installation(trust_domain=DOMAIN, trust_anchors=self.bundle_pem)
        """Of the controllers that are made from now on."""
        self.own_token = directory / "controller.token"
        self.own_token.write_text(self.token("meshd", CONTROLLER))
        self.kubeconfig = cluster.kubeconfig(ADMIN)

    def lay(self) -> None:
        """The definitions of the mesh's documents, and the namespaces `meshd` and `shop`."""
        for text in crds.manifests().values():
            self.cluster.api.create(ApiPlace(DEFINITIONS), yaml.safe_load(text), "test")
        for name in ("meshd", "shop"):
            self.namespace(name)

    def token(self, namespace: str, account: str) -> str:
        """A token for the mesh of a service account."""
        return self.cluster.add(f"system:serviceaccount:{namespace}:{account}", AUDIENCE)

    def signed(self, namespace: str, account: str, pod: str = "", **claims: Any) -> str:
        """A token of the cluster's own issuer, with these claims besides the usual."""
        if self.cluster.api.store.get(ACCOUNTS.key, (namespace, account)) is None:
            self.cluster.api.create(ApiPlace(ACCOUNTS, namespace), {"metadata": {"name": account}}, "test")
        found = self.cluster.api.store.get(ACCOUNTS.key, (namespace, account))
        assert found is not None
        bound = {"pod": {"name": pod, "uid": "1"}} if pod else {}
        now = int(time.time())
        return self.cluster.signer.sign(
            {
                "aud": [AUDIENCE], "exp": now + 3600, "iat": now, "nbf": now, "iss": ISSUER, "jti": "x",
                "sub": f"system:serviceaccount:{namespace}:{account}",
                "kubernetes.io": {
                    "namespace": namespace,
                    "serviceaccount": {"name": account, "uid": found["metadata"]["uid"]},
                    **bound,
                },
                **claims,
            }
        )  # fmt: skip

    def service(self, namespace: str, body: Body) -> None:
        self.cluster.api.create(ApiPlace(SERVICES, namespace), body, "test")

    def slice(self, namespace: str, body: Body) -> None:
        self.cluster.api.create(ApiPlace(SLICES, namespace), body, "test")

    def custom(self, namespace: str, plural: str, body: Body) -> None:
        """One of the mesh's documents, as an object."""
        kind = self.cluster.api.kinds[GROUP, VERSION, plural]
        self.cluster.api.create(ApiPlace(kind, namespace), {"apiVersion": API_VERSION, **body}, "test")

    def replace_slice(self, namespace: str, body: Body) -> None:
        self.cluster.api.update(ApiPlace(SLICES, namespace, body["metadata"]["name"]), body, "test")

    def serials(self, identity: str) -> list[str]:
        """Of the certificates that were issued for it, in that order."""
        return [each.serial for each in recorded(self.directory / "ca") if each.identity == identity]

    def issue(self, identity: str) -> Held:
        """A certificate of this CA for anybody, past all that it asks for."""
        key, begin, request = make(identity).partition(b"-----BEGIN CERTIFICATE REQUEST-----")
        issued = self.authority.issue((begin + request).decode(), Identity.parse(identity), time.time(), ANYBODY)
        return Held(issued, key)

    def namespace(self, name: str, **annotations: str) -> None:
        self.cluster.api.create(ApiPlace(NAMESPACES), {"metadata": {"name": name, "annotations": annotations}}, "test")

    def pod(
        self, namespace: str, name: str, account: str, annotations: dict[str, str] | None = None, **spec: Any
    ) -> Body:
        """A meshed pod, as the API server has it."""
        if self.cluster.api.store.get(ACCOUNTS.key, (namespace, account)) is None:
            self.cluster.api.create(ApiPlace(ACCOUNTS, namespace), {"metadata": {"name": account}}, "test")
        made = self.cluster.api.create(
            ApiPlace(PODS, namespace),
            {
                "metadata": {"name": name, "labels": {MESHED: "meshd"}, "annotations": annotations or {}},
                "spec": {
                    "serviceAccountName": account,
                    "schedulerName": "nobody.meshd.io",
                    "containers": [{"name": "app", "image": "example.invalid/app:1"}],
                    **spec,
                },
            },
            "test",
        )
        body: Body = made.body
        return body

    def made(self, name: str = "controller-1", **changes: Any) -> Controller:
        """A controller that has not begun."""
        state = self.directory / name
        state.mkdir(exist_ok=True)
        place = Place(
            name=name,
            listen=ANYWHERE,
            admin=ANYWHERE,
            socket=state / "meshd.sock",
            state_dir=state,
            ca=(f"https://{self.ca.address}",),
            token_file=self.own_token,
            kubeconfig=str(self.kubeconfig),
        )._replace(**changes)
        return Controller(self.installation, place)

    @asynccontextmanager
    async def controller(self, name: str = "controller-1", **changes: Any) -> AsyncIterator[Controller]:
        """A controller that serves, until the end."""
        controller = self.made(name, **changes)
        async with asyncio.timeout(60):
            await controller.start()
        try:
            yield controller
        finally:
            await controller.stop()

    def environment(self, pod: str, account: str, address: Address) -> dict[str, str]:
        """What the injector gives a sidecar; its token is in a file."""
        file = self.directory / f"{pod.replace('/', '-')}.token"
        file.write_text(self.token(pod.partition("/")[0], account))
        return {
            **os.environ,
            CONTROLLER_VARIABLE: str(address),
            TRUST_DOMAIN: DOMAIN,
            TRUST_ANCHORS: self.bundle_pem,
            TOKEN_FILE: str(file),
            POD: pod,
        }

    async def connect(self, controller: Controller, held: Held | None = None) -> ControlClient:
        """A connection as a sidecar makes it, with whatever is said on it."""
        tls = control_context(self.bundle_pem, held)
        assert tls.get_ciphers()
        reader, writer = await asyncio.open_connection(
            *controller.server.address, ssl=tls, server_hostname=f"{CONTROLLER}.meshd.sa.{DOMAIN}", limit=32 << 20
        )
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == CONTROL_ALPN
        return ControlClient(reader, writer)


@asynccontextmanager
async def control_plane(directory: Path) -> AsyncIterator[ControlPlane]:
    """A cluster with the namespaces `meshd` and `shop`, and a CA that reviews tokens there."""
    cluster = Cluster(directory)
    authority = Authority.create(directory / "ca", DOMAIN, time.time(), "a token of a test", audited=False)
    async with AsyncExitStack() as stack:
        stack.callback(authority.close)
        await stack.enter_async_context(cluster.serves())
        plane = ControlPlane(directory, cluster, authority)
        plane.lay()
        plane.ca = CaServer(authority, ANYWHERE, settings=CaDaemonSettings(kubernetes=cluster.settings()))
        await plane.ca.start()
        stack.push_async_callback(plane.ca.stop)
        yield plane
