"""The way to a cluster's controller, for a sidecar: TLS 1.3 to any of its replicas, whom the sidecar knows by trust
anchors and SPIFFE ID.

    first contact    no certificate yet: the service account's token says who this is, and a certificate is asked for
    from then on     mutual TLS with that certificate; the token goes with a request for the next one alone

The token is read for each use, since the kubelet replaces it, and is in no message for people. A certificate that has
expired, or that the controller does not take (it was revoked, or the clocks are apart), is as none for a while: the
next connection is a first contact again. The trust bundle of the last configuration takes the place of the anchors for
later connections, so that the mesh's root can change while a pod runs.

Its counterpart is `k8s.controller`.
"""

import asyncio
import logging
import random
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from meshd.api.control import CONTROL_ALPN, Attach, ProxyConfiguration, SignCertificate
from meshd.api.names import Address, Identity, InvalidName, WorkloadName, is_trust_domain
from meshd.api.problems import Misuse
from proxy.mesh.tls import Held, IdentityMismatch, check_bundle, control_context, peer_of
from proxy.ways import READ_BYTES, Ending, NoWay

log = logging.getLogger(__name__)

CONTROLLER: Final = "MESHD_PROXY_CONTROLLER"
TRUST_DOMAIN: Final = "MESHD_PROXY_TRUST_DOMAIN"
TRUST_ANCHORS: Final = "MESHD_PROXY_TRUST_ANCHORS"
TOKEN_FILE: Final = "MESHD_PROXY_TOKEN_FILE"  # noqa: S105 - a name
POD: Final = "MESHD_PROXY_POD"
IDENTITY: Final = "MESHD_PROXY_CONTROLLER_IDENTITY"
"""The environment of a sidecar, which the injector writes."""

DEFAULT_TOKEN_FILE: Final = "/var/run/secrets/meshd.io/token/token"  # noqa: S105 - a path
DEFAULT_NAMESPACE: Final = "meshd"
ACCOUNT: Final = "meshd-controller"
"""Of the controller."""

RESOLVE_WITHIN_S: Final = 5.0
CONNECT_WITHIN_S: Final = 5.0
"""For TCP and the handshake, with one replica; the next is tried then."""
MAX_TRIED: Final = 8
"""Replicas that are tried before it is said that there are none."""
MAX_TOKEN_BYTES: Final = 16 << 10
MAX_SILENT: Final = 3
"""Connections in a row that end without a word before the certificate is taken for the reason: TLS 1.3 tells a client
after its handshake that its certificate is not believed, and often all that it hears is the end."""
REPLACE_AGAIN_S: Final = (60.0, 600.0)
"""A certificate that took the place of one which was not taken, and is not taken either, is not the reason: a
controller's clock may be behind. Until the next is asked for so long is waited, twice as long each time."""

_OF_TIME: Final = (9, 10)
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID, …_HAS_EXPIRED."""

_KEEP_ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 25_000),
)
"""A replica whose node is gone says nothing; that is noticed in half a minute."""


class Place(NamedTuple):
    """Where the controller is, who it must be, and who this pod (NAMESPACE/NAME) is."""

    address: Address
    identity: Identity
    anchors_pem: str
    token_file: Path
    pod: str


def place(address: str, environ: Mapping[str, str]) -> Place:
    """What the environment of a sidecar says. Misuse with all that is wrong with it."""
    troubles = []
    try:
        where = Address.parse(address)
    except InvalidName as error:
        troubles.append(f"the controller's address: {error}")
    trust_domain = environ.get(TRUST_DOMAIN, "")
    if not is_trust_domain(trust_domain):
        troubles.append(f"{TRUST_DOMAIN}: {trust_domain!r} is not DNS labels joined by dots, as in prod.example")
    anchors = environ.get(TRUST_ANCHORS, "")
    try:
        check_bundle(anchors)
    except ValueError as error:
        troubles.append(f"{TRUST_ANCHORS}: {error}: it holds the mesh's roots")
    pod = environ.get(POD, "")
    if pod.count("/") != 1 or not all(pod.split("/")):
        troubles.append(f"{POD}: {pod!r} is not NAMESPACE/NAME")
    uri = environ.get(IDENTITY) or str(Identity.of(trust_domain, _workload(address)))
    try:
        identity = Identity.parse(uri)
    except InvalidName as error:
        if is_trust_domain(trust_domain):
            troubles.append(f"{IDENTITY}: {error}")
    if troubles:
        raise Misuse("\n".join(troubles))
    return Place(where, identity, anchors, Path(environ.get(TOKEN_FILE) or DEFAULT_TOKEN_FILE), pod)


def _workload(address: str) -> WorkloadName:
    """The controller's, which is in the namespace of the Service that it is reached by."""
    labels = address.rpartition(":")[0].split(".")
    return WorkloadName(labels[1] if labels[2:3] == ["svc"] else DEFAULT_NAMESPACE, ACCOUNT)


class ControllerWay:
    """See the module. `held` gives what the proxy presents at the time; `refused` is called with what of it the
    controller did not take."""

    kind = "controller"
    retry_max_s = 10.0

    def __init__(
        self,
        place: Place,
        held: Callable[[], Held | None],
        refused: Callable[[Held], None],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.place = str(place.address)
        self._monotonic = monotonic
        self._place, self._held, self._refused, self._clock = place, held, refused, clock
        self._anchors_pem = place.anchors_pem
        self._denied: frozenset[str] = frozenset()
        self._shown: Held | None = None
        self._not_taken: Held | None = None
        self._lost = ""
        """The replica whose connection was the last to end: the others come before it."""
        self._at = ""
        self._silent = 0
        self._replace_at = self._replace_again_s = 0.0
        self._has_warned = False

    @property
    def proven(self) -> bool:
        return self._shown is not None

    @property
    def can_prove(self) -> bool:
        return self._presentable() is not None

    def _presentable(self) -> Held | None:
        held = self._held()
        if held is None or held.certificate.not_after <= self._clock():
            return None
        if held is self._not_taken and self._monotonic() < self._replace_at:
            return None
        return held

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._shown = self._presentable()
        if self._shown is None:
            self._token()  # without which there is nothing to be said
        try:
            tls = control_context(self._anchors_pem, self._shown)
        except ssl.SSLError as error:
            raise NoWay(f"certificate, key and trust anchors do not fit: {error.reason}") from error
        troubles = {}
        for host, port in await self._replicas():
            try:
                async with asyncio.timeout(CONNECT_WITHIN_S):
                    return await self._connect(host, port, tls)
            except TimeoutError:
                troubles[host] = f"no connection within {CONNECT_WITHIN_S:g} s"
            except (OSError, IdentityMismatch) as error:
                troubles[host] = _reason(error)
        raise NoWay(
            "; ".join(f"{host}: {trouble}" for host, trouble in sorted(troubles.items())) or "it has no address"
        )

    async def _replicas(self) -> list[tuple[str, int]]:
        """Where they are, in an order by chance: not all sidecars are to come to the same one."""
        host, port = self._place.address
        try:
            async with asyncio.timeout(RESOLVE_WITHIN_S):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except TimeoutError as error:
            raise NoWay(f"no answer to the name {host} within {RESOLVE_WITHIN_S:g} s") from error
        except OSError as error:
            raise NoWay(f"the name {host} is not resolved: {error.strerror or error}") from error
        replicas = list(dict.fromkeys((str(address[0]), int(address[1])) for *_, address in found))
        random.shuffle(replicas)
        return sorted(replicas, key=lambda each: each[0] == self._lost)[:MAX_TRIED]

    async def _connect(
        self, host: str, port: int, tls: ssl.SSLContext
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(
            host, port, ssl=tls, server_hostname=self._place.identity.server_name, limit=READ_BYTES
        )
        try:
            self._check(writer)
        except BaseException:
            writer.transport.abort()
            raise
        self._at = host
        return reader, writer

    def _check(self, writer: asyncio.StreamWriter) -> None:
        """IdentityMismatch where somebody else than the controller answers."""
        peer = peer_of(writer.get_extra_info("ssl_object"), CONTROL_ALPN)
        if peer.identity != self._place.identity:
            raise IdentityMismatch(f"it is {peer.identity}, and must be {self._place.identity}")
        if peer.serial in self._denied or str(peer.identity) in self._denied:
            raise IdentityMismatch(f"the certificate of {peer.identity} is denied")
        connected = writer.get_extra_info("socket")
        for option in _KEEP_ALIVE:
            connected.setsockopt(*option)

    def attach(self, version: str) -> Attach:
        return Attach(version, token="" if self.proven else self._token(), pod=self._place.pod)

    def sign(self, workload: str, csr_pem: str) -> SignCertificate:
        return SignCertificate(workload, csr_pem, self._token())

    def _token(self) -> str:
        file = self._place.token_file
        try:
            with file.open("rb") as opened:
                token = opened.read(MAX_TOKEN_BYTES).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise NoWay(f"{file}: the service account's token cannot be read: {reason}") from error
        if not token:
            raise NoWay(f"{file}: is empty, and holds the service account's token")
        return token

    def use(self, configuration: ProxyConfiguration) -> None:
        self._denied = frozenset(configuration.denied)
        try:
            check_bundle(configuration.trust_bundle_pem)
        except ValueError as error:
            log.error("the controller's trust bundle is not used: %s", error)
        else:
            self._anchors_pem = configuration.trust_bundle_pem

    def ended(self, how: Ending) -> None:
        self._lost = self._at
        self._silent = 0 if how.spoken else self._silent + 1
        if self._shown is None:
            return
        if how.spoken and not how.rejected:
            self._replace_at = self._replace_again_s = 0.0
        elif how.rejected or self._silent >= MAX_SILENT:
            self._not_believed(self._shown, says_why=how.rejected)

    def _not_believed(self, shown: Held, *, says_why: bool) -> None:
        """The controller does not take what was shown: ask for another, where that may help."""
        if shown is not self._held():
            return  # there is another already, as when a connection lasts until its certificate ends
        now = self._monotonic()
        if now < self._replace_at:
            if not self._has_warned and not says_why:
                self._has_warned = True
                log.error(
                    "the controller at %s does not take this proxy's new certificate either: see its log, and compare "
                    "the clocks of its node, of this one and of the CA's",
                    self.place,
                )
            return
        least_s, most_s = REPLACE_AGAIN_S
        self._replace_again_s = min(max(2 * self._replace_again_s, least_s), most_s)
        self._replace_at, self._has_warned = now + self._replace_again_s, False
        self._silent = 0
        self._not_taken = shown
        log.warning("the controller at %s does not take this proxy's certificate: asking for another", self.place)
        self._refused(shown)


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        advice = ": compare this node's clock with that of the controller's" if error.verify_code in _OF_TIME else ""
        return f"its certificate is not good: {error.verify_message}{advice}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
