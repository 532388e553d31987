"""The checks of the host's proxy, and of each workload by a request of this program's own.

The request goes to the proxy's inbound listener, as one from another host would: TLS 1.3 with the workload's server
name, the workload's certificate held against the trust bundle, this node's own certificate shown; then the transport
header, and the beginning of HTTP/2, which the proxy answers itself. So no application hears of it. A host that did not
join has no certificate to show: then what the proxy presents is looked at, and nothing is asked. Plain text is never
spoken.

The counterpart is `proxy.inbound`; the transport header is that of `proxy.mesh.header`.
"""

import asyncio
import json
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from meshd import __version__
from meshd.agent.check import kinds, ports
from meshd.agent.check.host import guarded
from meshd.agent.check.kinds import SET_THE_CLOCK, Check
from meshd.agent.registry import NOT_ATTACHED, reachable_at
from meshd.api.control import ProxyWorkload, Status, WorkloadStatus
from meshd.api.names import Address, Identity, InvalidName

ALPN: Final = "meshd/1"
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""The client's (RFC 9113, section 3.4), with an empty SETTINGS frame (section 6.5)."""
FRAME_HEAD_BYTES: Final = 9
SETTINGS: Final = 4
WITHIN_S: Final = 10.0
AT_A_TIME: Final = 8

LOOPBACK: Final = frozenset(("127.0.0.1", "::1", "localhost"))


class NotMeshed(Exception):
    """The request was not answered as a proxy of the mesh does; the message says how far it came, `hint` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint or "`journalctl -u meshd-proxy` has its side of it; who has the port is above (meshd-ports)"


class Asked(NamedTuple):
    """A port of a workload, and where the proxy takes connections for it."""

    workload: WorkloadStatus
    port: int

    def __str__(self) -> str:
        return f"{self.workload.namespace}/{self.workload.name} at port {self.port}"


# --- the proxy --------------------------------------------------------------------------------------------------------


def proxy(status: Status) -> Iterator[Check]:
    """Whether the host's proxy is there, ready, and of the same version."""
    found = status.proxy
    if status.version != __version__:
        message = f"the agent is {status.version}, and this program {__version__}"
        yield kinds.AGENT_VERSION.warning(message, "`systemctl restart meshd`: proxies go on meanwhile")
    else:
        yield kinds.AGENT_VERSION.well()
    if found is None or not (found.workloads or found.attached):
        return
    if not found.attached:
        hint = "`systemctl start meshd-proxy.socket meshd-proxy`; `systemctl status` of either says why it does not run"
        yield kinds.PROXY_ATTACHED.error(f"{found.workloads} workloads have nobody to serve them", hint)
        return
    yield kinds.PROXY_ATTACHED.well()
    if found.waiting_for:
        yield kinds.PROXY_READY.error("\n".join(found.waiting_for), _why(found.waiting_for))
    else:
        yield kinds.PROXY_READY.well()
    others = [each for each in found.versions if each != status.version]
    if others:
        message = f"the agent is {status.version}, and proxies that are attached are {', '.join(found.versions)}"
        hint = "`systemctl reload meshd-proxy`: a new generation takes over, and no request is lost"
        yield kinds.PROXY_VERSION.warning(message, hint)
    else:
        yield kinds.PROXY_VERSION.well()


def _why(waiting_for: Sequence[str]) -> str:
    if any("Permission denied" in each for each in waiting_for):
        return guarded()
    if any("Address already in use" in each for each in waiting_for):
        return "end whoever has the port (`meshd-ports` above says who): the proxy tries again each second"
    return "`journalctl -u meshd-proxy` says why it is not there yet, `journalctl -u meshd` why there is no certificate"


# --- workloads --------------------------------------------------------------------------------------------------------


def ready(status: Status, documents: Sequence[ProxyWorkload]) -> Iterator[Check]:
    """Whether callers are sent to each workload, and whether anybody listens where its document says that it does."""
    own = () if status.proxy is None else status.proxy.waiting_for
    local = {(each.namespace, each.name): each for each in documents}
    for each in status.workloads:
        name = f"{each.namespace}/{each.name}"
        waits = [reason for reason in each.waiting_for if reason not in own]
        declared = local.get((each.namespace, each.name))
        waits += [] if declared is None else list(_unheard(declared))
        if waits:
            hint = "see that its application runs and listens there: until then callers are told that it is away"
            yield kinds.WORKLOAD_READY.warning("\n".join(waits), hint, name)
        else:
            yield kinds.WORKLOAD_READY.well(name)


def _unheard(workload: ProxyWorkload) -> Iterator[str]:
    for each in workload.ports:
        if each.address in LOOPBACK and not ports.is_listened_at(each.port):
            yield f"nothing listens at {each.address}:{each.port}"


async def meshed(status: Status, bundle_pem: str, shown: Path | None) -> list[Check]:
    """A request to each port of each workload whose proxy is there and has a certificate for it. `shown` has this
    node's key and certificate; None where there is none to show, or it may not be read."""
    asked = [
        Asked(each, port)
        for each in status.workloads
        if each.inbound and each.certificate_not_after and NOT_ATTACHED not in each.waiting_for
        for port in (each.ports if shown is not None else each.ports[:1])
    ]
    gate = asyncio.Semaphore(AT_A_TIME)
    found = await asyncio.gather(*(_look(gate, each, bundle_pem, shown) for each in asked))
    return [*found]


async def _look(gate: asyncio.Semaphore, asked: Asked, bundle_pem: str, shown: Path | None) -> Check:
    kind = kinds.WORKLOAD_MESHED if shown is not None else kinds.WORKLOAD_PRESENTS
    async with gate:
        try:
            async with asyncio.timeout(WITHIN_S):
                await request(asked, bundle_pem, shown)
        except TimeoutError:
            trouble = NotMeshed(f"no answer within {WITHIN_S:.0f} s")
        except NotMeshed as error:
            trouble = error
        else:
            return kind.well(asked)
    return kind.error(f"{asked.workload.inbound}: {trouble}", trouble.hint, asked)


async def request(asked: Asked, bundle_pem: str, shown: Path | None) -> None:
    """One request, as the module says. NotMeshed."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.check_hostname = False  # the SPIFFE ID says who it is
    tls.verify_flags |= ssl.VERIFY_X509_STRICT
    tls.set_alpn_protocols([ALPN])
    address = reachable_at(asked.workload.inbound)
    try:
        tls.load_verify_locations(cadata=bundle_pem)
        if shown is not None:
            tls.load_cert_chain(shown)
        reader, writer = await _connected(address, tls, Identity.parse(asked.workload.identity).server_name)
    except ssl.SSLCertVerificationError as error:
        hint = SET_THE_CLOCK if error.verify_code in (9, 10) else ""  # X509_V_ERR_CERT_NOT_YET_VALID, …_HAS_EXPIRED
        raise NotMeshed(f"what it presents is not good: {error.verify_message}", hint) from error
    except ssl.SSLError as error:
        raise NotMeshed(f"no TLS of the mesh: {error.reason or error}") from error
    except (OSError, ValueError) as error:
        raise NotMeshed(str(error)) from error
    try:
        _check_peer(writer.get_extra_info("ssl_object"), asked.workload.identity)
        if shown is not None:
            await _greet(reader, writer, asked.port)
    finally:
        writer.transport.abort()


async def _connected(
    address: Address, tls: ssl.SSLContext, server_name: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(*address, ssl=tls, server_hostname=server_name)


def _check_peer(connection: ssl.SSLObject, expected: str) -> None:
    if connection.selected_alpn_protocol() != ALPN:
        raise NotMeshed(f"it does not speak {ALPN}")
    certificate: dict[str, Any] = connection.getpeercert() or {}
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    try:
        (name,) = names
        is_expected = str(Identity.parse(name)) == expected
    except (ValueError, InvalidName):
        is_expected = False
    if not is_expected:
        raise NotMeshed(f"it presents {', '.join(names) or 'nobody'} where {expected} is to be")


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Ask for the port, and begin HTTP/2: the proxy does so too, if it takes us and the port is the workload's."""
    header = json.dumps({"port": port, "protocol": "h2"}).encode()
    try:
        writer.write(len(header).to_bytes(4, "big") + header + PREFACE)
        head = await reader.readexactly(FRAME_HEAD_BYTES)
    except ssl.SSLError as error:
        raise NotMeshed(f"it does not believe this node's certificate: {error.reason or error}") from error
    except (OSError, asyncio.IncompleteReadError) as error:
        raise NotMeshed(f"it refuses this node's request for port {port}") from error
    if head[3] != SETTINGS:
        raise NotMeshed(f"it answers with no SETTINGS frame, but {head.hex()}")
