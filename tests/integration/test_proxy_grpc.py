"""gRPC's own client and server, through one proxy and through two with mutual TLS between them."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import pytest

from meshd.api.documents import Upstream
from meshd.api.endpoints import Endpoint
from proxy.metrics import Metrics, State
from proxy.static import StaticResolver
from tests.support.aio import run
from tests.support.certificates import Root, identity
from tests.support.meshes import Node, mesh, running, service
from tests.support.ports import free_port

LARGE = bytes(range(256)) * (20 << 12)  # 20 MiB, many times every window
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Application:
    """A service of all four kinds of call; `begun` and `cancelled` tell of the one call of `forever`."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.cancelled = threading.Event()
        self.metadata: list[dict[str, Any]] = []

    def unary(self, message: bytes, context: Any) -> bytes:
        self.metadata.append({item.key: item.value for item in context.invocation_metadata()})
        context.send_initial_metadata((("x-first", "1"),))
        context.set_trailing_metadata((("x-last", "2"), ("x-last-bin", b"\x00\xff")))
        return message

    def down(self, message: bytes, context: Any) -> Iterator[bytes]:
        for number in range(int(message)):
            yield b"%d" % number

    def up(self, messages: Iterator[bytes], context: Any) -> bytes:
        return b"%d" % sum(len(message) for message in messages)

    def both(self, messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for message in messages:
            yield message[::-1]

    def fail(self, message: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode[message.decode()], "as you wish: 100 %")
        raise AssertionError

    def forever(self, message: bytes, context: Any) -> bytes:
        context.add_callback(self.cancelled.set)
        self.begun.set()
        self.cancelled.wait(20.0)
        return message

    @contextmanager
    def served(self) -> Iterator[int]:
        """The service at a port."""
        handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Down": grpc.unary_stream_rpc_method_handler(self.down),
            "Up": grpc.stream_unary_rpc_method_handler(self.up),
            "Both": grpc.stream_stream_rpc_method_handler(self.both),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "Forever": grpc.unary_unary_rpc_method_handler(self.forever),
        }
        server = grpc.server(ThreadPoolExecutor(8), options=UNLIMITED)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()


class Path:
    """How calls get to the application: `nodes` are the proxies, the first of which the client reaches at `listen`."""

    def __init__(self, meshed: bool, port: int) -> None:
        self.listen = free_port()
        self.nodes: tuple[Node, ...]
        if meshed:
            world = mesh(port)
            self.listen = world.upstream
            self.nodes = (world.web, world.api)
        else:
            upstreams = (Upstream("api", f"127.0.0.1:{self.listen}"),)
            resolver = StaticResolver(service("api", Endpoint("127.0.0.1", port)))
            root = Root()
            self.nodes = (Node("web", root, root.held(identity("web")), (), upstreams, resolver),)

    def metrics(self, node: Node) -> list[str]:
        page = Metrics(node.proxy.stats, lambda: State((), (), False, 0, 0)).page().decode()
        return [line for line in page.splitlines() if line.startswith("response_total")]


PATHS = pytest.mark.parametrize("meshed", [False, True], ids=["one proxy", "two proxies"])


@asynccontextmanager
async def calling(path: Path) -> AsyncIterator[Any]:
    """A client's channel to the upstream listener of the running path."""
    async with running(*path.nodes):
        channel = grpc.insecure_channel(f"127.0.0.1:{path.listen}", options=UNLIMITED)
        try:
            yield channel
        finally:
            channel.close()


def converse(meshed: bool, talk: Callable[[Any], None]) -> None:
    """Let a client `talk`, in a thread of its own, with the application."""

    async def conversation() -> None:
        with Application().served() as port:
            async with calling(Path(meshed, port)) as channel:
                await asyncio.to_thread(talk, channel)

    run(conversation())


@PATHS
def test_all_four_kinds_of_call(meshed: bool) -> None:
    def talk(channel: Any) -> None:
        assert channel.unary_unary("/test.Echo/Unary")(b"hello", timeout=60) == b"hello"
        down = channel.unary_stream("/test.Echo/Down")(b"1000", timeout=60)
        assert list(down) == [b"%d" % number for number in range(1000)]
        up = channel.stream_unary("/test.Echo/Up")(iter([b"ab", b"", b"cde"]), timeout=60)
        assert up == b"5"
        turn = threading.Semaphore(1)

        def messages() -> Iterator[bytes]:
            for number in range(20):
                assert turn.acquire(timeout=60)
                yield b"%d!" % number

        answers = []
        for answer in channel.stream_stream("/test.Echo/Both")(messages(), timeout=60):
            answers.append(answer)
            turn.release()  # only then is the next sent: each passes at once
        assert answers == [(b"%d!" % number)[::-1] for number in range(20)]

    converse(meshed, talk)


@PATHS
def test_large_messages_both_ways(meshed: bool) -> None:
    def talk(channel: Any) -> None:
        assert channel.unary_unary("/test.Echo/Unary")(LARGE, timeout=60) == LARGE
        both = channel.stream_stream("/test.Echo/Both")(iter([LARGE[: 4 << 20]] * 4), timeout=60)
        assert [len(each) for each in both] == [4 << 20] * 4

    converse(meshed, talk)


@PATHS
def test_metadata_goes_both_ways_and_the_caller_s_identity_with_it(meshed: bool) -> None:
    async def conversation() -> None:
        application = Application()
        with application.served() as port:
            async with calling(Path(meshed, port)) as channel:

                def talk() -> None:
                    sent = (("x-trace", "abc"), ("x-trace-bin", b"\x00\x01\xfe"), ("l5d-client-id", "spiffe://me"))
                    _, call = channel.unary_unary("/test.Echo/Unary").with_call(b"", metadata=sent, timeout=60)
                    assert ("x-first", "1") in call.initial_metadata()
                    assert ("x-last", "2") in call.trailing_metadata()
                    assert ("x-last-bin", b"\x00\xff") in call.trailing_metadata()

                await asyncio.to_thread(talk)
        (found,) = application.metadata
        assert (found["x-trace"], found["x-trace-bin"]) == ("abc", b"\x00\x01\xfe")
        assert found.get("l5d-client-id") == (identity("web") if meshed else None)

    run(conversation())


@PATHS
def test_failures_are_told_and_counted(meshed: bool) -> None:
    """The status of a failed call comes in a head that is trailers too; the metrics say which and what it counts as."""

    async def conversation() -> None:
        with Application().served() as port:
            path = Path(meshed, port)
            async with calling(path) as channel:

                def talk() -> None:
                    for code in ("NOT_FOUND", "NOT_FOUND", "INTERNAL"):
                        with pytest.raises(grpc.RpcError) as failed:
                            channel.unary_unary("/test.Echo/Fail")(code.encode(), timeout=60)
                        assert failed.value.code() is grpc.StatusCode[code]
                        assert failed.value.details() == "as you wish: 100 %"
                    channel.unary_unary("/test.Echo/Unary")(b"", timeout=60)

                await asyncio.to_thread(talk)
                for node in path.nodes:
                    lines = path.metrics(node)
                    for status, outcome, count in (("0", "success", 1), ("5", "success", 2), ("13", "failure", 1)):
                        (line,) = [each for each in lines if f'grpc_status="{status}"' in each]
                        assert f'classification="{outcome}"' in line
                        assert 'status_code="200"' in line
                        assert line.endswith(f" {count}.0")

    run(conversation())


@PATHS
@pytest.mark.parametrize("how", ["deadline", "cancel"])
def test_a_call_that_is_given_up_is_given_up_at_the_application(meshed: bool, how: str) -> None:
    async def conversation() -> None:
        application = Application()
        with application.served() as port:
            async with calling(Path(meshed, port)) as channel:

                def talk() -> None:
                    forever = channel.unary_unary("/test.Echo/Forever")
                    if how == "deadline":
                        with pytest.raises(grpc.RpcError) as failed:
                            forever(b"", timeout=0.3)
                        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                    else:
                        call = forever.future(b"", timeout=60)
                        assert application.begun.wait(60.0)
                        call.cancel()
                    assert application.cancelled.wait(60.0)
                    assert channel.unary_unary("/test.Echo/Unary")(b"on", timeout=60) == b"on"

                await asyncio.to_thread(talk)

    run(conversation())


@PATHS
def test_a_service_with_nobody_behind_it_is_unavailable(meshed: bool) -> None:
    async def conversation() -> None:
        path = Path(meshed, free_port())
        async with calling(path) as channel:

            def talk() -> None:
                with pytest.raises(grpc.RpcError) as failed:
                    channel.unary_unary("/test.Echo/Unary")(b"", timeout=60)
                assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
                assert "no endpoint" in failed.value.details()

            await asyncio.to_thread(talk)

    run(conversation())
