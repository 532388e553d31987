"""Name servers: a real one (NSD), for a zone whose records a test gives and changes; and one that answers anything."""

import asyncio
import signal
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from meshd.api.names import Address
from tests.support.meshed import children
from tests.support.peers import path
from tests.support.ports import free_port
from tests.support.processes import running
from tests.support.waiting import wait_until

ZONE = "example"

_CONFIGURATION = """\
server:
  ip-address: 127.0.0.1
  port: {port}
  username: ""
  chroot: ""
  zonesdir: "{directory}"
  pidfile: ""
  database: ""
  xfrdfile: "{directory}/xfrd.state"
  zonelistfile: "{directory}/zone.list"
  server-count: 1
  hide-version: yes
remote-control:
  control-enable: no
zone:
  name: {zone}
  zonefile: zone
"""

_SOA = "{zone}. {negative_s} IN SOA ns.{zone}. nobody.{zone}. {serial} 3600 600 86400 {negative_s}\n"


class NameServer:
    """One whose files are in `directory`; `port` stays the same from one run to the next."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._directory, self._serial = directory, 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    def _write(self, records: str, negative_s: int = 2) -> None:
        """The zone's records, as in a zone file, and for how long it may be believed that there are no others."""
        self._serial += 1
        soa = _SOA.format(zone=ZONE, serial=self._serial, negative_s=negative_s)
        (self._directory / "zone").write_text(f"$ORIGIN {ZONE}.\n{soa}@ 60 IN NS ns\nns 60 IN A 127.0.0.1\n{records}\n")

    def serve(self, records: str, negative_s: int = 2) -> None:
        """From now on these: the server has taken them over, or will when it runs."""
        self._write(records, negative_s)
        if self._process is None:
            return
        before = _processes(self._process.pid)
        self._process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.serial() == self._serial, f"serial {self._serial} of the zone")

        def has_gone() -> bool:  # the one that answered until now, beside its successor for a while
            now = _processes(self._process.pid) if self._process else before
            return len(now) == len(before) and now != before

        wait_until(has_gone, "the server's former process ends")

    def serial(self) -> int:
        """The one it answers with; 0 when it does not answer."""
        question = dns.message.make_query(f"{ZONE}.", dns.rdatatype.SOA)
        try:
            answer = dns.query.tcp(question, "127.0.0.1", timeout=20.0, port=self.port)
        except (OSError, EOFError, dns.exception.DNSException):
            return 0
        return int(answer.answer[0][0].serial) if answer.rcode() == dns.rcode.NOERROR and answer.answer else 0

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """The server, with the records that it was given last."""
        configuration = self._directory / "nsd.conf"
        configuration.write_text(_CONFIGURATION.format(directory=self._directory, port=self.port, zone=ZONE))
        argv = [path("nsd"), "-d", "-c", str(configuration)]
        ready = lambda: self.serial() == self._serial  # noqa: E731
        with running(argv, self._directory / "log", ready) as process:
            self._process = process
            try:
                yield process
            finally:
                self._process = None


def _processes(pid: int) -> set[int]:
    """It and all that descend from it."""
    return {pid}.union(*(_processes(each) for each in children(pid)))


@contextmanager
def name_server(directory: Path, records: str = "", negative_s: int = 2) -> Iterator[NameServer]:
    """One that runs, and answers for the zone `ZONE`."""
    server = NameServer(directory)
    server.serve(records, negative_s)
    with server.running():
        yield server


Answers = Callable[[dns.message.Message], Iterable[bytes]]
"""What somebody sends to a question."""


class Impostor:
    """Answers at a port of 127.0.0.1 whatever `datagrams` and, by TCP, `stream` say; counts what it was asked."""

    def __init__(self, datagrams: Answers, stream: Answers) -> None:
        self._datagrams, self._stream = datagrams, stream
        self.asked: list[dns.message.Message] = []
        self.askers: set[int] = set()  # their ports
        self.asked_by_tcp = 0
        self.port = 0

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Impostor"]:
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _ImpostorDatagrams(self), local_addr=("127.0.0.1", self.port)
        )
        try:
            yield self
        finally:
            transport.close()
            server.close()

    def datagrams(self, data: bytes, port: int) -> Iterable[bytes]:
        question = dns.message.from_wire(data)
        self.askers.add(port)
        self.asked.append(question)
        return self._datagrams(question)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked_by_tcp += 1
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        for answer in self._stream(dns.message.from_wire(await reader.readexactly(length))):
            writer.write(answer)
        writer.close()


class _ImpostorDatagrams(asyncio.DatagramProtocol):
    def __init__(self, impostor: Impostor) -> None:
        self._impostor = impostor

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        for answer in self._impostor.datagrams(data, addr[1]):
            self._transport.sendto(answer, addr)


def framed(wire: bytes) -> bytes:
    """A message as it goes over TCP."""
    return struct.pack("!H", len(wire)) + wire
