"""Who is denied: found by serial number and by identity, cut where it is connected, and not kept once it has gone."""

import asyncio
import gc
import weakref
from typing import Any, cast

import pytest

from proxy.errors import Bound
from proxy.mesh.denied import Denials, DeniedPeer
from proxy.mesh.header import ALPN
from proxy.mesh.tls import IdentityMismatch
from proxy.stats import Stats

WEB, API = ("spiffe://mesh.example/ns/default/sa/" + name for name in ("web", "api"))


class Connection:
    """A TLS transport and its `ssl_object` in one, as far as they are asked here."""

    def __init__(self, identity: str, serial: str) -> None:
        self._identity, self._serial, self.aborted = identity, serial, False

    def get_extra_info(self, name: str) -> "Connection":
        assert name == "ssl_object"
        return self

    def selected_alpn_protocol(self) -> str:
        return ALPN

    def getpeercert(self) -> dict[str, Any]:
        return {"subjectAltName": (("URI", self._identity),), "serialNumber": self._serial}

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    @property
    def transport(self) -> asyncio.Transport:
        return cast(asyncio.Transport, self)


@pytest.mark.parametrize(
    ("denied", "serial"),
    [((API,), "0A"), ((f"{10:032x}",), "0A"), (("ab" * 20,), "AB" * 20)],
    ids=["name", "short", "long"],
)
def test_a_denied_peer_is_refused_and_counted(denied: tuple[str, ...], serial: str) -> None:
    stats = Stats()
    denials = Denials(stats)
    assert str(denials.admit("outbound", Connection(API, serial).transport)) == API
    denials.use(denied)
    with pytest.raises(DeniedPeer, match="revoked"):
        denials.admit("inbound", Connection(API, serial).transport)
    assert stats.errors == {("outbound", "tcp", Bound.DENIED): 1, ("inbound", "tcp", Bound.DENIED): 1}
    denials.use(())
    denials.admit("inbound", Connection(API, serial).transport)


def test_open_connections_with_who_is_denied_now_are_cut_and_no_others() -> None:
    denials = Denials(Stats())
    web, api, gone = Connection(WEB, "01"), Connection(API, "02"), Connection(API, "03")
    for each in (web, api, gone):
        denials.admit("inbound", each.transport)
    gone.abort()
    denials.use((API,))
    assert (web.aborted, api.aborted) == (False, True)


def test_who_is_nobody_of_the_mesh_is_no_denied_peer() -> None:
    with pytest.raises(IdentityMismatch) as caught:
        Denials(Stats()).admit("inbound", Connection("https://example.org", "01").transport)
    assert not isinstance(caught.value, DeniedPeer)


def test_a_connection_that_has_ended_is_let_go() -> None:
    denials = Denials(Stats())
    gone = Connection(API, "01")
    denials.admit("inbound", gone.transport)
    gone.abort()
    left = weakref.ref(gone)
    del gone
    denials.sweep(1.0)
    gc.collect()
    assert left() is None
