"""The proxy's end of the control API (`meshd.api.control`), by one of the ways there are (`proxy.ways`).

It asks the agent for the configuration, for destinations and certificates, and tells it how the proxy is. When the
agent is away everything goes on with what was said last, and the connection is tried again with back-off; once it is
back, what was being followed is asked for anew. Its counterpart is the agent, or a cluster's controller: what is said
of an agent here is true of both.

A connection that does not show who the proxy is yet is for getting a certificate; all else waits for the one after it.
"""

import asyncio
import itertools
import logging
import random
import ssl
from collections.abc import Callable
from typing import Final

from meshd.api.control import (
    Answer,
    Attach,
    Call,
    Caller,
    Cancel,
    Certificate,
    Destination,
    DestinationChange,
    FindSource,
    IdentifyCaller,
    ProxyConfiguration,
    Refused,
    ReportState,
    ReportStats,
    Request,
    Response,
    SignCertificate,
    Source,
    WatchDestination,
)
from meshd.api.differences import Differing, applied
from meshd.api.endpoints import EndpointSet
from meshd.api.frames import FramingError, LineReader, frame
from meshd.api.names import Address
from proxy.capture.callers import Unanswered
from proxy.mesh.identity import Sign, SigningFailed
from proxy.ways import READ_BYTES, Ending, NoWay, Way

log = logging.getLogger(__name__)

RETRY_MIN_S: Final = 0.1
ATTACH_AGAIN_S: Final = 1.0
"""The first pause before attaching again where it was refused."""
SIGN_TIMEOUT_S: Final = 30.0
IDENTIFY_TIMEOUT_S: Final = 5.0
"""As long as a connection waits to be known whose it is."""

MAX_COMPLAINTS: Final = 16
"""That are remembered, so as not to be said again."""

MAX_UNREAD_BYTES: Final = 8 << 20
"""What may wait for an agent that does not read; more than all that is followed, said at once."""


class AgentClient:
    """See the module. It is a `proxy.resolve.Resolver`. `configured` gets each configuration of the agent."""

    def __init__(self, way: Way, version: str, configured: Callable[[ProxyConfiguration], None]) -> None:
        self._way, self._version = way, version
        self._name = f"the {way.kind} at {way.place}"
        self._configured = configured
        self._ids = itertools.count(1)
        self._watches: dict[int, tuple[WatchDestination, Callable[[EndpointSet | None], None]]] = {}
        self._known: dict[int, EndpointSet | None] = {}  # what was said last, on this connection
        self._asked: dict[int, asyncio.Future[Response]] = {}
        self._attached = 0
        self._is_attached = False  # on this connection: until then nothing that is reported has a place
        self._writer: asyncio.StreamWriter | None = None
        self._state: ReportState | None = None
        self._stats: ReportStats | None = None
        self._refusal = ""
        self._complaints: set[str] = set()  # what was said since the agent was last heard
        self._attach_pause_s = ATTACH_AGAIN_S
        self._is_changing = False

    @property
    def connected(self) -> bool:
        return self._writer is not None

    # --- what the proxy asks and tells

    def watch(self, authority: str, namespace: str, found: Callable[[EndpointSet | None], None]) -> Callable[[], None]:
        """See `Resolver.watch`."""
        number = next(self._ids)
        body = WatchDestination(authority, namespace, differences=True)
        self._watches[number] = (body, found)
        self._send(number, body)

        def unwatch() -> None:
            del self._watches[number]
            self._known.pop(number, None)
            self._send(number, Cancel())

        return unwatch

    def signer(self, workload: str) -> Sign:
        """What gets certificates for a workload (NAMESPACE/NAME) from the agent."""

        async def sign(csr_pem: str) -> Certificate:
            try:
                answer = await self._ask(self._way.sign(workload, csr_pem), SIGN_TIMEOUT_S)
            except (Unanswered, NoWay) as error:
                raise SigningFailed(str(error)) from error
            if isinstance(answer, Certificate):
                return answer
            raise SigningFailed(
                answer.reason if isinstance(answer, Refused) else f"{self._name} answered something else"
            )

        return sign

    async def identify(self, cgroup: int, uid: int) -> Caller:
        """Which workload the processes of uid in a control group are. Unanswered."""
        answer = await self._ask(IdentifyCaller(cgroup, uid), IDENTIFY_TIMEOUT_S)
        if isinstance(answer, Caller):
            return answer
        raise Unanswered(answer.reason if isinstance(answer, Refused) else "the agent answered something else")

    async def source(self, here: Address, peer: Address) -> int:
        """From which port the connection was made that was accepted at here, from peer; 0 where nobody knows.
        Unanswered."""
        answer = await self._ask(FindSource(str(here), str(peer)), IDENTIFY_TIMEOUT_S)
        return answer.port if isinstance(answer, Source) else 0

    def report_state(self, state: ReportState) -> None:
        """Tell how the proxy is; told again whenever the agent comes back."""
        self._state = state
        self._report(state)

    def report_stats(self, stats: ReportStats) -> None:
        """Tell what was counted; told again whenever the agent comes back, as what its rates begin from."""
        self._stats = stats
        self._report(stats)

    def _report(self, body: ReportState | ReportStats | None) -> None:
        if body is not None and self._is_attached:
            self._send(0, body)

    def identified(self) -> None:
        """The proxy may have another certificate: where the connection does not show who it is, make one that does."""
        if self._writer is not None and not self._way.proven and self._way.can_prove:
            self._is_changing = True
            self._writer.close()

    async def _ask(self, body: Request, within_s: float) -> Response:
        if self._writer is None:
            raise Unanswered(f"no {self._way.kind} answers at {self._way.place}")
        number = next(self._ids)
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self._send(number, body)
        try:
            async with asyncio.timeout(within_s):
                return await answer
        except TimeoutError as error:
            raise Unanswered(f"{self._name} did not answer in {within_s:.0f} s") from error
        finally:
            self._asked.pop(number, None)

    def _send(self, number: int, body: Request) -> None:
        writer = self._writer
        if writer is None or writer.is_closing():
            return
        if not self._way.proven and not isinstance(body, Attach | SignCertificate):
            return  # said on the next connection
        writer.write(frame(Call(number, body)))
        if writer.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            log.warning("%s does not read what it is told: connecting anew", self._name)
            writer.transport.abort()

    # --- the connection

    async def run(self) -> None:
        """Stay connected, for ever."""
        pause = RETRY_MIN_S
        while True:
            how = Ending(spoken=False)
            try:
                reader, writer = await self._way.connect()
            except NoWay as error:
                at = f"{self._way.kind} answers at {self._way.place}"
                self._complain(f"no {at} ({error}); {self._without_it()}")
            else:
                how = await self._converse(reader, writer)
                if self._is_changing:
                    self._is_changing, pause = False, RETRY_MIN_S
                    continue
                self._way.ended(how)
                self._complain(f"lost {self._name}; {self._without_it()}")
            if how.spoken:
                pause = RETRY_MIN_S
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(pause * 2, self._way.retry_max_s)

    def _complain(self, trouble: str) -> None:
        """Once for each that there is until the agent is heard again."""
        if trouble in self._complaints:
            return
        if len(self._complaints) >= MAX_COMPLAINTS:
            self._complaints.clear()
        self._complaints.add(trouble)
        log.warning("%s", trouble)

    def _heard(self) -> None:
        if self._complaints:
            log.info("%s is back", self._name)
            self._complaints.clear()

    def _without_it(self) -> str:
        return "going on with what is known" if self._attached else "waiting for it"

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Ending:
        """One connection, to its end."""
        self._writer = writer
        lines = LineReader(Answer)
        spoken = rejected = False
        try:
            self._begin()
            while data := await reader.read(READ_BYTES):
                for answer in lines.feed(data):
                    if answer.id == 0 and isinstance(answer.body, Refused):  # of the connection as such
                        self._complain(f"{self._name}: {answer.body.reason}")
                        rejected |= not answer.body.retry
                    else:
                        if not spoken:
                            self._heard()
                        spoken = True
                        self._answered(answer)
        except (OSError, FramingError, Differing, NoWay) as error:
            rejected |= isinstance(error, ssl.SSLError)
            self._complain(f"{self._name}: {error}")
        finally:
            self._writer, self._is_attached = None, False
            writer.close()
            for asked in self._asked.values():
                if not asked.done():
                    asked.set_exception(Unanswered(f"lost {self._name}"))
        return Ending(spoken, rejected)

    def _begin(self) -> None:
        """Ask for all that is followed, on a new connection. NoWay."""
        self._known.clear()
        self._attach()
        for number, (body, _) in self._watches.items():
            self._send(number, body)

    def _attach(self) -> None:
        asked = self._way.attach(self._version)
        self._attached = next(self._ids)
        self._send(self._attached, asked)

    def _answered(self, answer: Answer) -> None:
        body = answer.body
        if answer.id == self._attached:
            self._attachment(body)
        elif (watch := self._watches.get(answer.id)) is not None:
            if isinstance(body, Destination | DestinationChange):
                self._found(answer.id, body)
            elif isinstance(body, Refused):
                log.warning("%s does not look up %s: %s", self._name, watch[0].authority, body.reason)
                if not body.retry:
                    watch[1](None)
        elif (asked := self._asked.get(answer.id)) is not None and not asked.done():
            asked.set_result(body)

    def _found(self, number: int, body: Destination | DestinationChange) -> None:
        now = body.found if isinstance(body, Destination) else applied(self._known.get(number), body)
        self._known[number] = now
        self._watches[number][1](now)

    def _attachment(self, body: Response) -> None:
        if isinstance(body, ProxyConfiguration):
            self._refusal, self._attach_pause_s = "", ATTACH_AGAIN_S
            self._way.use(body)
            self._configured(body)
            self._is_attached = True
            self._report(self._state)
            self._report(self._stats)
        elif isinstance(body, Refused):
            if body.reason != self._refusal:
                self._refusal = body.reason
                log.warning("%s does not take this proxy: %s; asking again", self._name, body.reason)
            pause_s = self._attach_pause_s * random.uniform(0.75, 1.0)  # noqa: S311 - jitter
            self._attach_pause_s = min(2 * self._attach_pause_s, self._way.retry_max_s)
            asyncio.get_running_loop().call_later(pause_s, self._attach_again, self._attached)

    def _attach_again(self, refused: int) -> None:
        if refused != self._attached or self._writer is None:
            return
        try:
            self._attach()
        except NoWay as error:
            log.warning("%s is not asked again: %s", self._name, error)
            self._writer.close()
