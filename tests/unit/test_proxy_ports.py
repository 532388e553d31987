"""Ports of a pod: learned where somebody listens, forgotten when nobody asks, and never the proxy's own."""

from collections.abc import Callable

from meshd.api.documents import WorkloadPort
from meshd.api.endpoints import Endpoint
from meshd.api.names import Address, WorkloadName
from meshd.api.tasks import Tasks
from proxy import ports
from proxy.capture.diag import SocketDiag, Undecided
from proxy.capture.inbound import CapturedInbound
from proxy.connect import Dialer
from proxy.inbound import Inbound
from proxy.mesh.denied import Denials
from proxy.ports import AnyPort
from proxy.stats import Stats
from proxy.sweep import Sweep
from tests.support import aio

POD = "10.0.0.7"
WEB = WorkloadName("default", "web")


class Kernel:
    """Somebody listens at these ports."""

    def __init__(self, *listening: int, silent: bool = False) -> None:
        self.listening, self.silent, self.closed = set(listening), silent, False

    def listens(self, where: Address) -> bool:
        if self.silent:
            raise Undecided("no answer")
        return where.port in self.listening

    def close(self) -> None:
        self.closed = True


class _NoCredentials:
    async def client_context(self) -> object:
        raise AssertionError("an application is not spoken to by TLS")


def with_ports(kernel: Kernel, test: Callable[[AnyPort, Stats], None]) -> None:
    async def main() -> None:
        stats, tasks = Stats(), Tasks("test")
        dialer = Dialer(tasks, Sweep(), _NoCredentials(), lambda _host, _port: False, Denials(stats))  # type: ignore[arg-type]
        test(AnyPort(WEB, dialer, stats, lambda port: port in (4140, 4143, 4191), kernel), stats)

    aio.run(main())


def test_a_port_is_asked_for_at_the_address_where_it_was_asked_for() -> None:
    def test(every: AnyPort, stats: Stats) -> None:
        local = every.at(Address(POD, 8080))
        assert local is not None
        assert every.at(Address(POD, 8080)) is local
        assert (local.target, local.port.address) == (f"{POD}:8080", POD)
        assert local.labels("spiffe://x", True).service == "8080"
        other = every.at(Address("fd00::7", 8080))
        assert other is not None
        assert other is not local
        assert len(every) == 2

    with_ports(Kernel(8080), test)


def test_the_proxys_own_ports_are_nobodys() -> None:
    def test(every: AnyPort, stats: Stats) -> None:
        for port in (4140, 4143, 4191):
            assert every.at(Address(POD, port)) is None
            assert every.at(Address("127.0.0.1", port)) is None
            assert not every.takes(port)
        assert every.takes(8080)

    with_ports(Kernel(4140, 4143, 4191, 8080), test)


def test_who_tries_all_ports_leaves_nothing_behind() -> None:
    def test(every: AnyPort, stats: Stats) -> None:
        assert every.at(Address(POD, 8080)) is not None
        sizes = set()
        for port in range(1, 3000):
            found = every.at(Address(POD, port))
            assert found is not None
            assert found.labels("", False).service == ""
            sizes.add((len(stats.tcp_series), len(stats.http_series)))
        assert len(every) == 1
        assert len(sizes) == 1

    with_ports(Kernel(8080), test)


def test_a_program_that_listens_everywhere_is_bounded_too() -> None:
    def test(every: AnyPort, stats: Stats) -> None:
        for port in range(10_000, 13_000):
            assert every.at(Address(POD, port)) is not None
        assert len(every) == ports.MAX_LEARNED
        labels = {series.labels.service for series in stats.http_series}
        assert len(labels) == ports.MAX_LABELLED + 1

    for kernel in (Kernel(*range(10_000, 13_000)), Kernel(silent=True)):
        with_ports(kernel, test)


def test_what_is_in_use_makes_no_room() -> None:
    def test(every: AnyPort, stats: Stats) -> None:
        first, second = every.at(Address(POD, 1)), every.at(Address(POD, 2))
        assert first is not None
        assert second is not None
        first.destination.endpoints[0].open += 1  # a connection
        for port in range(3, ports.MAX_LEARNED + 2):
            every.at(Address(POD, port))
        assert every.at(Address(POD, 1)) is first
        assert every.at(Address(POD, 2)) is not second

    with_ports(Kernel(*range(1, 3000)), test)


def test_a_port_that_nobody_asks_for_is_forgotten() -> None:
    def test(every: AnyPort, stats: Stats) -> None:
        local = every.at(Address(POD, 8080))
        assert local is not None
        every.sweep(0.0)
        assert len(every) == 1
        local.destination.used_at -= ports.FORGOTTEN_S + 1
        every.sweep(0.0)
        assert len(every) == 0
        assert local.destination.endpoints == ()

    with_ports(Kernel(8080), test)


def test_what_a_port_speaks_may_change() -> None:
    def test(every: AnyPort, stats: Stats) -> None:
        web, sql = every.at(Address(POD, 8080)), every.at(Address(POD, 3306))
        assert web is not None
        assert sql is not None
        every.use(lambda port: WorkloadPort(port, "tcp" if port == 3306 else "auto"))
        assert every.at(Address(POD, 8080)) is web
        again = every.at(Address(POD, 3306))
        assert again is not None
        assert again.port.protocol == "tcp"
        assert isinstance(again.destination.endpoints[0].endpoint, Endpoint)
        every.close()
        assert len(every) == 0

    kernel = Kernel(8080, 3306)
    with_ports(kernel, test)
    assert kernel.closed


def test_plain_text_for_any_port_is_the_workloads_but_for_the_proxys_own() -> None:
    def test(every: AnyPort, stats: Stats) -> None:
        inbound = Inbound("mesh.example", stats, Sweep(), Tasks("test"))
        captured = CapturedInbound(inbound, SocketDiag(), 0)
        assert not captured.expects(Address(POD, 8080))
        inbound.any_port[WEB] = every
        assert captured.expects(Address(POD, 8080))
        assert not captured.expects(Address(POD, 4143))  # which is for peers, whose mutual TLS begins
        captured.close()

    with_ports(Kernel(8080), test)
