"""A controller that says what a test wants said: each pod's proxy has it on a Unix socket of its own, and is told what
a cluster's controller would tell it: one workload, any port, every captured connection its own. A CA signs for it.

What leads where is a table: a pod's address and any of its ports is that pod, meshed; what a test adds to `services`
goes first. Its counterpart is the product's controller (`k8s.controller`), which has tests of its own.
"""

import asyncio
import threading
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from meshd.api.control import (
    Answer,
    Attach,
    Call,
    Capture,
    Destination,
    ProxyConfiguration,
    ProxyWorkload,
    Request,
    Response,
    SignCertificate,
    WatchDestination,
)
from meshd.api.detection import Detection
from meshd.api.endpoints import Endpoint, EndpointSet, ServiceName
from meshd.api.frames import MAX_LINE_BYTES, frame
from meshd.api.names import Address, Identity, WorkloadName
from meshd.ca.local import LocalCa
from tests.support.kubelet.node import Network

TRUST_DOMAIN: Final = "cluster.local"
INBOUND: Final = 4143


class Control:
    """See the module. `services` says what an address (HOST:PORT) is, where it is not what a pod listens on."""

    def __init__(self, directory: Path) -> None:
        self.services: dict[str, EndpointSet | None] = {}
        self.unmeshed = "allow"
        self._pods: dict[str, tuple[WorkloadName, tuple[int, ...]]] = {}
        self._ca = LocalCa.at(directory, TRUST_DOMAIN)
        self._servers: list[asyncio.Server] = []
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="control", daemon=True)
        self._thread.start()

    def serve(self, file: Path, network: Network, workload: str, opaque_ports: tuple[int, ...] | None = None) -> None:
        """Answer at that file from now on, for the proxy of a pod."""
        name = WorkloadName.parse(workload)
        for address in filter(None, (network.address, network.address6)):
            self._pods[address] = name, opaque_ports or ()
        file.parent.mkdir(parents=True, exist_ok=True)
        told = ProxyConfiguration(
            TRUST_DOMAIN,
            self._ca.bundle,
            outbound="127.0.0.1:4140",
            inbound=f"0.0.0.0:{INBOUND}",
            admin="0.0.0.0:4191",
            workloads=(ProxyWorkload(name.namespace, name.name, opaque_ports=opaque_ports, any_port=True),),
            detection=Detection(timeout_s=1.0),
            capture=Capture(
                unmeshed="deny" if self.unmeshed == "deny" else "allow",
                outbound6="[::1]:4140",
                inbound6=f"[::]:{INBOUND}",
                caller=workload,
            ),
        )

        async def listen() -> None:
            server = await asyncio.start_unix_server(
                lambda reader, writer: self._talk(reader, writer, told), file, limit=MAX_LINE_BYTES
            )
            self._servers.append(server)

        asyncio.run_coroutine_threadsafe(listen(), self._loop).result(30)
        file.chmod(0o777)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, told: ProxyConfiguration) -> None:
        while line := await reader.readline():
            call = msgspec.json.decode(line, type=Call)
            answer = await self._answer(call.body, told)
            if answer is not None:
                writer.write(frame(Answer(call.id, answer)))
        writer.close()

    async def _answer(self, asked: Request, told: ProxyConfiguration) -> Response | None:
        match asked:
            case Attach():
                return told
            case SignCertificate():
                return await self._ca.sign(asked.csr_pem, Identity.of(TRUST_DOMAIN, WorkloadName.parse(asked.workload)))
            case WatchDestination():
                return Destination(self._found(asked.authority))
        return None

    def _found(self, authority: str) -> EndpointSet | None:
        if authority in self.services:
            return self.services[authority]
        where = Address.parse(authority)
        return self.endpoints(where.port, where) if where.host in self._pods else None

    def endpoints(self, port: int, *where: Address) -> EndpointSet:
        """A service on `port` that pods at these addresses are."""
        names = [self._pods[each.host] for each in where]
        (name, opaque), *_ = names
        return EndpointSet(
            ServiceName(name.name, name.namespace, port),
            tuple(
                Endpoint(each.host, each.port, str(Identity.of(TRUST_DOMAIN, found)), INBOUND)
                for each, (found, _) in zip(where, names, strict=True)
            ),
            opaque=where[0].port in opaque if opaque else None,
        )

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._ca.close()

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
