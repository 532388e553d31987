"""The proxy's end of the control API (`meshd.api.control`), on a Unix socket.

It asks the agent for the configuration, for destinations and certificates, and tells it how the proxy is. When the
agent is away everything goes on with what was said last, and the connection is tried again with back-off; once it is
back, what was being followed is asked for anew. Its counterpart is the agent, or a cluster's controller.
"""

import asyncio
import itertools
import logging
import random
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

log = logging.getLogger(__name__)

RETRY_MIN_S: Final = 0.1
RETRY_MAX_S: Final = 1.5
"""With its jitter, at least three quarters of a second between two tries: an agent that was away has all its proxies
again within two seconds. To try a Unix socket that nobody listens on costs microseconds."""
SIGN_TIMEOUT_S: Final = 30.0
IDENTIFY_TIMEOUT_S: Final = 5.0
"""As long as a connection waits to be known whose it is."""

_READ_BYTES: Final = 256 << 10


class AgentClient:
    """See the module. It is a `proxy.resolve.Resolver`. `configured` gets each configuration of the agent."""

    def __init__(
        self, socket: str, instance: str, version: str, configured: Callable[[ProxyConfiguration], None]
    ) -> None:
        self._socket = socket
        self._configured = configured
        self._ids = itertools.count(1)
        self._attach = Attach(version, instance)
        self._watches: dict[int, tuple[WatchDestination, Callable[[EndpointSet | None], None]]] = {}
        self._known: dict[int, EndpointSet | None] = {}  # what was said last, on this connection
        self._asked: dict[int, asyncio.Future[Response]] = {}
        self._attached = 0
        self._writer: asyncio.StreamWriter | None = None
        self._state: ReportState | None = None
        self._stats: ReportStats | None = None
        self._refusal = ""

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
                answer = await self._ask(SignCertificate(workload, csr_pem), SIGN_TIMEOUT_S)
            except Unanswered as error:
                raise SigningFailed(str(error)) from error
            if isinstance(answer, Certificate):
                return answer
            raise SigningFailed(answer.reason if isinstance(answer, Refused) else "the agent answered something else")

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
        self._send(0, state)

    def report_stats(self, stats: ReportStats) -> None:
        """Tell what was counted; told again whenever the agent comes back, as what its rates begin from."""
        self._stats = stats
        self._send(0, stats)

    async def _ask(self, body: Request, within_s: float) -> Response:
        if self._writer is None:
            raise Unanswered(f"no agent answers at {self._socket}")
        number = next(self._ids)
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self._send(number, body)
        try:
            async with asyncio.timeout(within_s):
                return await answer
        except TimeoutError as error:
            raise Unanswered(f"the agent at {self._socket} did not answer in {within_s:.0f} s") from error
        finally:
            self._asked.pop(number, None)

    def _send(self, number: int, body: Request) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frame(Call(number, body)))

    # --- the connection

    async def run(self) -> None:
        """Stay connected, for ever."""
        pause = RETRY_MIN_S
        complained = False
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._socket, limit=_READ_BYTES)
            except OSError as error:
                if not complained:
                    log.warning(
                        "no agent answers at %s (%s); %s",
                        self._socket,
                        error.strerror,
                        "going on with what is known" if self._attached else "waiting for it",
                    )
                    complained = True
            else:
                if complained:
                    log.info("the agent at %s is back", self._socket)
                complained = False
                if await self._converse(reader, writer):
                    pause = RETRY_MIN_S
                log.warning("lost the agent at %s; going on with what is known", self._socket)
                complained = True
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(pause * 2, RETRY_MAX_S)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One connection, to its end. Whether the agent had anything to say on it."""
        self._writer = writer
        self._begin()
        lines = LineReader(Answer)
        spoken = False
        try:
            while data := await reader.read(_READ_BYTES):
                for answer in lines.feed(data):
                    spoken = True
                    self._answered(answer)
        except (OSError, FramingError, Differing) as error:
            log.warning("the agent at %s: %s", self._socket, error)
        finally:
            self._writer = None
            writer.close()
            for asked in self._asked.values():
                if not asked.done():
                    asked.set_exception(Unanswered(f"lost the agent at {self._socket}"))
        return spoken

    def _begin(self) -> None:
        """Ask for all that is followed, on a new connection."""
        self._known.clear()
        self._attached = next(self._ids)
        self._send(self._attached, self._attach)
        for number, (body, _) in self._watches.items():
            self._send(number, body)

    def _answered(self, answer: Answer) -> None:
        body = answer.body
        if answer.id == self._attached:
            self._attachment(body)
        elif (watch := self._watches.get(answer.id)) is not None:
            if isinstance(body, Destination | DestinationChange):
                self._found(answer.id, body)
            elif isinstance(body, Refused):
                log.warning("the agent does not look up %s: %s", watch[0].authority, body.reason)
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
            self._refusal = ""
            self._configured(body)
            if self._state is not None:
                self._send(0, self._state)
            if self._stats is not None:
                self._send(0, self._stats)
        elif isinstance(body, Refused):
            if body.reason != self._refusal:
                self._refusal = body.reason
                log.warning("the agent at %s does not take this proxy: %s; asking again", self._socket, body.reason)
            asyncio.get_running_loop().call_later(1.0, self._attach_again, self._attached)

    def _attach_again(self, refused: int) -> None:
        if refused == self._attached and self._writer is not None:
            self._attached = next(self._ids)
            self._send(self._attached, self._attach)
