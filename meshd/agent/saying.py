"""What a proxy that watches a destination is told, one update after the other: all, or what differs from the last.

A message of the control API has a bound (`meshd.api.frames`), and a registry's endpoints may come to more: labels are
as long as it has them, and `merge` adds sets up. A proxy that got a longer line would end the connection, again and
again, and with it all else that it watches. So such a set is said without labels, of which proxies make nothing, and
with as many endpoints as there is room for.
"""

import logging
from typing import Final

import msgspec
from msgspec.structs import replace

from meshd.api.control import Destination, DestinationChange
from meshd.api.differences import told
from meshd.api.endpoints import EndpointSet
from meshd.api.frames import MAX_LINE_BYTES
from meshd.api.logs import about

log = logging.getLogger(__name__)

AROUND_BYTES: Final = 1 << 20
"""For what a message has besides endpoints: the service's name, its policy."""


class Saying:
    """One watch's updates. `differences`: the proxy understands them."""

    def __init__(self, *, differences: bool, max_bytes: int = MAX_LINE_BYTES - AROUND_BYTES) -> None:
        self._differences, self._max_bytes = differences, max_bytes
        self._sent: EndpointSet | None = None
        self._left_out = 0

    @property
    def known(self) -> EndpointSet | None:
        """What was said last."""
        return self._sent

    def next(self, found: EndpointSet | None) -> Destination | DestinationChange:
        """What is to be sent now, which it will be."""
        body = told(self._sent, found) if self._differences else Destination(found)
        if found is not None and len(msgspec.json.encode(body)) > self._max_bytes:
            found = self._fitting(found)
            body = Destination(found)
        self._sent = found
        return body

    def _fitting(self, found: EndpointSet) -> EndpointSet:
        room, fitting = self._max_bytes, []
        for each in found.endpoints:
            bare = replace(each, labels={})
            room -= len(msgspec.json.encode(bare)) + 1
            if room < 0:
                break
            fitting.append(bare)
        left_out = len(found.endpoints) - len(fitting)
        if left_out and not self._left_out:
            log.error(
                "%s: proxies are not told of %d of its %d endpoints: they are too many for one message",
                found.service, left_out, len(found.endpoints), extra=about(service=found.service),
            )  # fmt: skip
        self._left_out = left_out
        return replace(found, endpoints=tuple(fitting))
