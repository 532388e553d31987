"""What anybody may read by the control API, be it an agent's or a controller's: the status, documents, services."""

from collections.abc import Callable

from discovery.chain import Chain
from discovery.names import Authority
from meshd.agent.configuration import build_configuration
from meshd.agent.connection import Outbox
from meshd.agent.documents import Documents
from meshd.agent.looks import look
from meshd.agent.registry import Unacceptable
from meshd.agent.services import build_services
from meshd.agent.under_way import UnderWay
from meshd.api.control import GetConfiguration, GetEndpoints, GetServices, GetStatus, Status
from meshd.api.names import InvalidName
from meshd.api.tasks import Tasks

MAX_LOOKING = 4
"""Looks at services that one connection may have under way."""

Asked = GetConfiguration | GetEndpoints | GetServices | GetStatus


class Telling:
    """One connection's. `status` makes the status over a window of so many seconds."""

    def __init__(
        self,
        discovery: Chain,
        documents: Documents,
        status: Callable[[float], Status],
        outbox: Outbox,
        tasks: Tasks,
    ) -> None:
        self._discovery, self._documents, self._status = discovery, documents, status
        self._outbox = outbox
        self._looking = UnderWay(
            tasks, MAX_LOOKING, f"{MAX_LOOKING} services are being looked at over this connection already"
        )

    def tell(self, call_id: int, asked: Asked) -> None:
        """Answer it, now or soon. Unacceptable."""
        match asked:
            case GetConfiguration():
                self._outbox.answer(call_id, build_configuration(self._documents, asked.whole))
            case GetEndpoints():
                self._look(call_id, asked)
            case GetServices():
                self._outbox.answer(call_id, build_services(self._discovery))
            case GetStatus():
                self._outbox.answer(call_id, self._status(asked.window_s))

    def _look(self, call_id: int, asked: GetEndpoints) -> None:
        try:
            authority = Authority.parse(asked.authority, asked.namespace)
        except InvalidName as error:
            raise Unacceptable(str(error)) from error
        self._looking.start(lambda: self._looked(call_id, authority, asked.within_s), f"look at {asked.authority}")

    async def _looked(self, call_id: int, authority: Authority, within_s: float) -> None:
        self._outbox.answer(call_id, await look(self._discovery, authority, within_s))
