"""The engine in conversation with `h2`, as its client and as its server: same streams, same bytes, same ends."""

from typing import Any, Protocol

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from proxy.http2.engine import STREAM_WINDOW
from proxy.http2.fields import Field, encode
from proxy.http2.frames import HEADER_BYTES, PREFACE, Code, Setting, read_header
from tests.support.h2 import REQUEST, End, Told

LARGE: list[Field] = [(b"x-large-%d" % number, b"v" * 9000) for number in range(4)]  # needs CONTINUATION
HEADS: list[list[Field]] = [[], [(b"a", b"b")], [(b"a", b"b"), (b"x-trace", b"0123")], LARGE]
TRAILERS: list[Field] = [(b"grpc-status", b"0")]
PATTERN = bytes(number % 251 for number in range(300_000))

Got = tuple[list[list[Field]], bytes, bool]


class Peer(Protocol):
    """One side of the conversation; its streams are numbered."""

    def ask(self, fields: list[Field], ended: bool) -> int: ...
    def answer(self, number: int, fields: list[Field], ended: bool) -> None: ...
    def send(self, number: int, content: bytes, ended: bool) -> None: ...
    def end_with(self, number: int, fields: list[Field]) -> None: ...
    def reset(self, number: int) -> None: ...
    def hold(self, number: int, held: bool) -> None: ...
    def fiddle(self, choice: int) -> None: ...
    def said(self) -> bytes: ...
    def receive(self, data: bytes) -> None: ...
    def got(self, number: int) -> Got: ...
    def requests(self) -> list[int]: ...


class Ours:
    """The engine."""

    def __init__(self, client: bool) -> None:
        self.end = End(client)

    def _stream(self, number: int) -> Told:
        return self.end.told[number]

    def ask(self, fields: list[Field], ended: bool) -> int:
        return self.end.ask(fields, ended).number

    def answer(self, number: int, fields: list[Field], ended: bool) -> None:
        self._stream(number).send_headers(encode(fields), ended)

    def send(self, number: int, content: bytes, ended: bool) -> None:
        self._stream(number).send_data(content, ended)

    def end_with(self, number: int, fields: list[Field]) -> None:
        self._stream(number).send_headers(encode(fields), True)

    def reset(self, number: int) -> None:
        self._stream(number).reset(Code.CANCEL)

    def hold(self, number: int, held: bool) -> None:
        stream = self._stream(number)
        stream.hold() if held else stream.release()

    def fiddle(self, choice: int) -> None:
        """Stand still for a while, or go on."""
        self.end.pause() if choice % 2 else self.end.unpause()

    def said(self) -> bytes:
        return self.end.said()

    def receive(self, data: bytes) -> None:
        self.end.receive(data)
        for stream in self.end.told.values():
            assert sum(map(len, stream.queue)) <= len(PATTERN) * 4
            assert stream.unacknowledged <= STREAM_WINDOW

    def got(self, number: int) -> Got:
        stream = self._stream(number)
        return stream.heads, bytes(stream.body), stream.ended

    def requests(self) -> list[int]:
        return sorted(self.end.told)


class Oracle:
    """The library. It sends what its windows allow; what is held is not acknowledged."""

    def __init__(self, client: bool) -> None:
        config = h2.config.H2Configuration(client_side=client, header_encoding=None)
        self._connection = h2.connection.H2Connection(config)
        self._connection.initiate_connection()
        self._heads: dict[int, list[list[Field]]] = {}
        self._bodies: dict[int, bytearray] = {}
        self._ended: set[int] = set()
        self._waiting: dict[int, list[Any]] = {}  # [content, ended, trailers]
        self._held: dict[int, int] = {}  # stream → flow controlled bytes to acknowledge
        self._rest = bytearray()
        self._settling = True  # h2 takes any acknowledgement for one of all that it has changed

    def ask(self, fields: list[Field], ended: bool) -> int:
        number = self._connection.get_next_available_stream_id()
        self._connection.send_headers(number, fields, end_stream=ended)
        self._begin(number)
        return number

    def _begin(self, number: int) -> None:
        self._heads.setdefault(number, [])
        self._bodies.setdefault(number, bytearray())

    def answer(self, number: int, fields: list[Field], ended: bool) -> None:
        self._connection.send_headers(number, fields, end_stream=ended)

    def send(self, number: int, content: bytes, ended: bool) -> None:
        waiting = self._waiting.setdefault(number, [b"", False, None])
        waiting[0] += content
        waiting[1] = ended
        self._flush(number)

    def end_with(self, number: int, fields: list[Field]) -> None:
        self._waiting.setdefault(number, [b"", False, None])[2] = fields
        self._flush(number)

    def _flush(self, number: int) -> None:
        content, ended, trailers = self._waiting[number]
        while content:
            room = min(self._connection.local_flow_control_window(number), self._connection.max_outbound_frame_size)
            padding = len(content) % 7 or None
            room -= padding + 1 if padding else 0
            if room <= 0:
                self._waiting[number][0] = content
                return
            piece, content = content[:room], content[room:]
            self._connection.send_data(number, piece, end_stream=ended and not content, pad_length=padding)
            if ended and not content:
                del self._waiting[number]
                return
        self._waiting[number][0] = b""
        if trailers is not None:
            self._connection.send_headers(number, trailers, end_stream=True)
            del self._waiting[number]
        elif ended:
            self._connection.end_stream(number)
            del self._waiting[number]

    def reset(self, number: int) -> None:
        self._waiting.pop(number, None)
        self._connection.reset_stream(number, error_code=8)

    def hold(self, number: int, held: bool) -> None:
        if held:
            self._held.setdefault(number, 0)
        elif count := self._held.pop(number, 0):
            self._acknowledge(number, count)

    def _acknowledge(self, number: int, count: int) -> None:
        if count:
            self._connection.acknowledge_received_data(count, number)

    def fiddle(self, choice: int) -> None:
        """A legal change that the other side must follow."""
        sizes = {
            0: {Setting.INITIAL_WINDOW_SIZE: 0},
            1: {Setting.INITIAL_WINDOW_SIZE: 1000},
            2: {Setting.INITIAL_WINDOW_SIZE: 200_000},
            3: {Setting.MAX_FRAME_SIZE: 20_000},
            4: {Setting.MAX_FRAME_SIZE: 16_384},
            5: {Setting.HEADER_TABLE_SIZE: 0},
            6: {Setting.HEADER_TABLE_SIZE: 8192},
        }.get(choice)
        if sizes is None or self._settling:
            self._connection.ping(b"12345678")
        else:
            self._settling = True
            self._connection.update_settings({h2.settings.SettingCodes(key): size for key, size in sizes.items()})

    def said(self) -> bytes:
        return bytes(self._connection.data_to_send())

    def receive(self, data: bytes) -> None:
        """Frame by frame: h2 heeds its own new MAX_FRAME_SIZE only from its next call on."""
        self._rest += data
        at = 0
        while at < len(self._rest):
            end = len(PREFACE)
            if not self._rest.startswith(PREFACE[:9], at):
                if len(self._rest) - at < HEADER_BYTES:
                    break
                high, low, *_ = read_header(self._rest, at)
                end = HEADER_BYTES + (high << 8 | low)
            if len(self._rest) - at < end:
                break
            self._frame(bytes(self._rest[at : at + end]))
            at += end
        del self._rest[:at]
        for number in tuple(self._waiting):
            self._flush(number)

    def _frame(self, data: bytes) -> None:
        for event in self._connection.receive_data(data):
            number = getattr(event, "stream_id", 0) or 0
            if isinstance(event, h2.events.RequestReceived | h2.events.ResponseReceived | h2.events.TrailersReceived):
                self._begin(number)
                self._heads[number].append([(bytes(name), bytes(value)) for name, value in event.headers])
            elif isinstance(event, h2.events.DataReceived):
                self._bodies[number] += event.data
                if number in self._held:
                    self._held[number] += event.flow_controlled_length
                else:
                    self._acknowledge(number, event.flow_controlled_length)
            elif isinstance(event, h2.events.StreamEnded):
                self._ended.add(number)
            elif isinstance(event, h2.events.StreamReset):
                self._waiting.pop(number, None)
            elif isinstance(event, h2.events.SettingsAcknowledged):
                self._settling = False

    def got(self, number: int) -> Got:
        return self._heads[number], bytes(self._bodies[number]), number in self._ended

    def requests(self) -> list[int]:
        return sorted(self._heads)


class Side:
    """What was sent on a stream in one direction."""

    def __init__(self) -> None:
        self.heads: list[list[Field]] = []
        self.body = bytearray()
        self.ended = False


class Conversation:
    """Two peers, what each sent, and the bytes on their way, which arrive in pieces of any size."""

    def __init__(self, client: Peer, server: Peer) -> None:
        self.peers = (client, server)
        self.sent: tuple[dict[int, Side], dict[int, Side]] = ({}, {})
        self.reset: set[int] = set()
        self.open: list[int] = []

    def pump(self, piece: int) -> bool:
        """What each has to say reaches the other; whether anything was said."""
        said = False
        for sender, receiver in (self.peers, self.peers[::-1]):
            data = sender.said()
            said = said or bool(data)
            step = max(piece, len(data) // 5000)
            for at in range(0, len(data), step):
                receiver.receive(data[at : at + step])
        return said

    def settle(self) -> None:
        """Until neither has anything to say."""
        for _ in range(1000):
            if not self.pump(65_536):
                return
        raise AssertionError("they never stop")

    def do(self, verb: str, who: int, which: int, amount: int, flag: bool) -> None:
        """One operation, if it is possible now."""
        peer, sent = self.peers[who], self.sent[who]
        if verb == "ask" and len(self.open) < 12:
            fields = [*REQUEST, *HEADS[amount % len(HEADS)]]
            number = self.peers[0].ask(fields, flag)
            side = self.sent[0][number] = Side()
            side.heads.append(fields)
            side.ended = flag
            self.open.append(number)
        elif verb == "fiddle":
            peer.fiddle(amount % 8)
        elif verb == "pump":
            self.pump(1 + amount % 40_000)
        elif self.open:
            number = self.open[which % len(self.open)]
            if number not in self.reset and number in peer.requests():
                self._on_stream(verb, peer, sent.setdefault(number, Side()), number, amount, flag)

    def _on_stream(self, verb: str, peer: Peer, side: Side, number: int, amount: int, flag: bool) -> None:
        if verb == "hold":
            peer.hold(number, flag)
        elif side.ended:
            return
        elif verb == "reset":
            self.reset.add(number)
            peer.reset(number)
        elif not side.heads:
            fields = [(b":status", b"200"), *HEADS[amount % len(HEADS)]]
            side.heads.append(fields)
            side.ended = flag and verb == "answer"
            peer.answer(number, fields, side.ended)
        elif verb == "send":
            content = PATTERN[:amount]  # never empty: h2 refuses an end that is, where a window is below 0
            side.body += content
            side.ended = flag
            peer.send(number, content, flag)
        elif verb == "trailers":
            side.heads.append(TRAILERS)
            side.ended = True
            peer.end_with(number, TRAILERS)

    def finish(self, ours: Ours) -> None:
        """Nobody holds any more: all that was sent must arrive."""
        self.settle()
        ours.end.unpause()
        for peer in self.peers:
            for number in self.open:
                if number in peer.requests():  # reset or not: what was held counts for the connection
                    peer.hold(number, False)
            if isinstance(peer, Oracle):
                peer.fiddle(2)
        self.settle()

    def check(self) -> None:
        for number in self.open:
            if number in self.reset:
                continue
            for sent, receiver in zip(self.sent, self.peers[::-1], strict=True):
                if number in sent:
                    side = sent[number]
                    heads, body, ended = receiver.got(number)
                    assert heads == side.heads, number
                    assert body == side.body, number
                    assert ended == side.ended, number


VERBS = ["ask", "answer", "send", "send", "send", "trailers", "reset", "hold", "fiddle", "fiddle", "pump", "pump"]
AMOUNTS = [1, 2, 3, 4, 5, 6, 7, 999, 1000, 16_383, 16_384, 16_385, 65_535, 65_536, 200_000, 300_000]
GENERATE_ONLY = (Phase.explicit, Phase.reuse, Phase.generate)  # shrinking a long conversation takes minutes
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(VERBS),
        st.integers(0, 1),
        st.integers(0, 11),
        st.sampled_from(AMOUNTS),
        st.sampled_from([True, False, False, False]),
    ),
    min_size=20,
    max_size=50,
)


@pytest.mark.parametrize("client", [True, False], ids=["our client", "our server"])
def test_all_that_one_sends_the_other_gets(client: bool) -> None:
    @settings(max_examples=20, deadline=None, phases=GENERATE_ONLY, suppress_health_check=[HealthCheck.too_slow])
    @given(OPERATIONS)
    def converse(operations: list[tuple[str, int, int, int, bool]]) -> None:
        ours, oracle = Ours(client), Oracle(not client)
        peers: tuple[Peer, Peer] = (ours, oracle) if client else (oracle, ours)
        conversation = Conversation(*peers)
        conversation.settle()
        for _ in range(3):
            conversation.do("ask", 0, 0, 0, False)
        conversation.pump(100)
        for operation in operations:
            conversation.do(*operation)
        conversation.finish(ours)
        conversation.check()

    converse()


@pytest.mark.parametrize("client", [True, False], ids=["our client", "our server"])
def test_a_peer_may_shrink_its_table(client: bool) -> None:
    """An encoder must say so in its next block (RFC 7541, section 4.2), even one that uses no table."""
    ours, oracle = Ours(client), Oracle(not client)
    peers: tuple[Peer, Peer] = (ours, oracle) if client else (oracle, ours)
    conversation = Conversation(*peers)
    conversation.settle()
    for size in (5, 6, 5):
        oracle.fiddle(size)
        conversation.settle()
        conversation.do("ask", 0, 0, 0, True)
        conversation.pump(9)
        conversation.do("answer", 1, len(conversation.open) - 1, 1, False)
        conversation.do("trailers", 1, len(conversation.open) - 1, 1, False)
    conversation.finish(ours)
    conversation.check()
    assert len(conversation.open) == 3
