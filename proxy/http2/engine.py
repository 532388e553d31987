"""One end of an HTTP/2 connection (RFC 9113), sans I/O.

Bytes go in through `receive`; what is to be sent collects in `out`, and `wake` is called when there is something.
Requests and answers are `Stream`s, whose hooks the engine calls; `Engine` itself is subclassed by a server and a
client connection, which make the streams. Field blocks pass through as bytes: the owner decodes them.

Flow control is complete and bounded in both directions. What arrives is acknowledged to the stream as its owner makes
room (`Stream.held`), and to the connection at once, unless too much is held. One fast stream thus has a large window;
where many streams are held, so that their windows would add up to much, all get a smaller one (`CROWDED_BYTES`), and a
peer that does not heed it gets no more of the connection's (`MAX_HELD_BYTES`). What is sent waits in its stream until
the peer's windows allow it, and the stream tells its owner to stop.

What an unfriendly peer can do is bounded: field blocks (`MAX_BLOCK_BYTES`, `MAX_CONTINUATIONS`), streams
(`MAX_STREAMS`), frames that make work and carry nothing (`MAX_IDLE_FRAMES`), resets (`MAX_RESETS`); beyond them the
connection ends with ENHANCE_YOUR_CALM.
"""

from collections import deque
from typing import ClassVar, Final

from proxy.errors import Bound
from proxy.http2 import frames
from proxy.http2.fields import NO_TABLE, TABLE_BYTES
from proxy.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HAS_PRIORITY,
    HEADERS,
    MAX_FRAME_BYTES,
    MAX_WINDOW,
    PADDED,
    PING,
    PREFACE,
    SETTINGS,
    SETTINGS_ACK,
    Code,
    Setting,
    read_header,
)
from proxy.stalls import STALL_S

OUR_MAX_FRAME_BYTES: Final = 256 << 10
"""The largest DATA frame we allow: as much as one read of a socket brings. Twice as much of a large body goes through
as in frames of the protocol's 16 KiB."""
STREAM_WINDOW: Final = 512 << 10
"""What a peer may send on a stream before we have passed it on."""
CONNECTION_WINDOW: Final = 4 << 20
CROWDED_BYTES: Final = 4 << 20
"""Held on streams of one connection: beyond it each has but a `SMALL_WINDOW`."""
UNCROWDED_BYTES: Final = 1 << 20
"""Below it they have their large windows again."""
SMALL_WINDOW: Final = DEFAULT_WINDOW
MAX_HELD_BYTES: Final = 12 << 20
"""Held on streams of one connection: beyond it the peer may send no more than its connection's window, so that what one
peer can have held is `MAX_HELD_BYTES + CONNECTION_WINDOW`."""
MAX_QUEUED_BYTES: Final = 8 << 20
"""Queued on streams of one connection for want of the peer's windows: beyond it nothing is to come that would only be
queued too (`Engine.on_queued`)."""
FEW_QUEUED_BYTES: Final = 4 << 20
"""Below it, all may come again."""
MAX_STREAMS: Final = 256
"""Streams a peer may have open at once."""
MAX_BLOCK_BYTES: Final = 64 << 10
MAX_CONTINUATIONS: Final = 16
MAX_IDLE_FRAMES: Final = 1000
"""PING, SETTINGS, PRIORITY, empty DATA and the like, between two looks at the clock (about a second)."""
MAX_RESETS: Final = 1000
"""Streams that a peer resets, or has us reset, between two looks at the clock. More than a proxy in good faith has open
at once (`MAX_STREAMS`), all of which it gives up when its own caller goes away; nghttp2's."""
MAX_REMEMBERED: Final = 4 * MAX_STREAMS
"""Streams that we reset and on which the peer may still be sending."""
MAX_SETTINGS: Final = 32
"""Values in one SETTINGS, each of which may change every stream; nghttp2's."""


LARGE_BYTES: Final = 16 << 10
"""Content from here on is passed on in pieces as it comes, before its frame is whole, and is not copied to be sent: as
much as one record of TLS holds."""


class ProtocolError(Exception):
    """The peer broke the protocol; the connection ends with this code. `bound` is what it went beyond."""

    def __init__(self, code: Code, reason: str, bound: Bound = Bound.MALFORMED) -> None:
        super().__init__(f"{code.name}: {reason}")
        self.code = code
        self.bound = bound


class Stream:
    """One stream; its owner subclasses it. `number` is its identifier.

    `local_ended` and `remote_ended` are its two directions; it is gone when both are set, or it was reset.
    """

    __slots__ = (
        "came", "engine", "held", "left", "local_ended", "number", "queue", "quiet_since", "remote_ended",
        "send_window", "shut_since", "tail", "unacknowledged",
    )  # fmt: skip

    def __init__(self, engine: "Engine", number: int) -> None:
        self.engine = engine
        self.number = number
        self.send_window = engine.peer_window
        self.queue: deque[bytes | memoryview] = deque()  # content that waits for the peer's windows
        self.tail: bytes | None = None  # trailers that wait behind it; empty: nothing but the end
        self.held = False
        self.local_ended = False
        self.remote_ended = False
        self.unacknowledged = 0
        self.came = True  # content has come since this was last looked at
        self.left = True  # what waits is not the same as when it was last looked at
        self.quiet_since = 0.0  # when that began not to be so
        self.shut_since = 0.0

    # --- hooks of the owner

    def on_headers(self, block: bytes, ended: bool) -> None:
        """A field block: a response's head, or trailers."""

    def on_data(self, data: bytes, ended: bool) -> None:
        """Content; `ended` with the last of it, which may be empty."""

    def on_reset(self, code: int, unprocessed: bool) -> None:
        """The peer gave it up. `unprocessed`: it did nothing for it, so that asking again is safe."""

    def on_quiet(self) -> None:
        """Nothing has come for `STALL_S`, though there is room; the owner knows whether something had to."""

    def on_shut(self) -> None:
        """Nothing of what waits could be sent for `STALL_S`."""
        self.reset(Code.CANCEL)

    def on_full(self) -> None:
        """The peer's window is used up: what is sent from now on waits."""

    def on_room(self) -> None:
        """All that waited has been sent."""

    def on_window(self) -> None:
        """Its window has become larger, nothing waits on it, and too much does on others (`Engine.full`)."""

    # --- for the owner

    def send_headers(self, block: bytes, ended: bool) -> None:
        """Send a field block after all that waits."""
        self.engine.send_headers(self, block, ended)

    def send_data(self, data: bytes, ended: bool) -> None:
        """Send content, as far as the peer's windows allow; the rest waits."""
        self.engine.send_data(self, data, ended)

    def reset(self, code: Code) -> None:
        """Give it up."""
        self.engine.reset(self, code)

    def hold(self) -> None:
        """Let the peer send no more than its window."""
        self.held = True

    def release(self) -> None:
        """Let it go on."""
        self.held = False
        self.engine.acknowledge(self)
        self.engine.made_room()


class Engine:
    """See the module. The owner implements `wake`, `on_stream` and `on_goaway`."""

    LAST_NUMBER: ClassVar[int] = MAX_WINDOW

    def __init__(self, client: bool) -> None:
        self.out: list[bytes | memoryview] = []
        self.large = False  # something in `out` is
        self.streams: dict[int, Stream] = {}
        self.peer_window = DEFAULT_WINDOW
        self.peer_max_frame = MAX_FRAME_BYTES
        self.peer_max_streams = 100 if client else 0  # until the peer's SETTINGS say otherwise
        self.going_away = False  # the peer takes no new streams, or we do not
        self.settled = False  # the peer's first SETTINGS have come
        self.paused = False  # the transport takes no more for now
        self.queued = 0  # bytes that wait on streams for the peer's windows
        self.full = False  # they are too many
        self._client = client
        self._rest = bytearray()  # the beginning of a frame, or of the preface
        self._need = 0  # how long it must be before it is worth a look
        self._left = 0  # bytes that are still to come of a DATA frame whose beginning was passed on
        self._left_of = (0, 0)  # its flags and stream
        self._preface = not client  # the client's preface is still to come
        self._highest = 0  # the highest stream number the peer has used
        self._next = 1 if client else 2
        self._block: list[bytes] | None = None  # a field block that CONTINUATION is to complete
        self._block_stream = 0
        self._block_ended = False
        self._block_bytes = 0
        self._send_window = DEFAULT_WINDOW
        self._unacknowledged = 0
        self._withheld = False  # it is not acknowledged, since too much is held
        self._window = STREAM_WINDOW  # what streams were last said to begin with
        self._allowed = STREAM_WINDOW  # the same, or more while the peer has not acknowledged that
        self._unanswered = 0  # SETTINGS of ours
        self._waiting: dict[Stream, None] = {}  # streams with something queued, in turn
        self._resize = b""  # what the next field block must begin with
        self._forgotten: dict[int, None] = {}  # streams that we reset, in turn
        self._idle_frames = 0
        self._resets = 0

    def begin(self) -> None:
        """Say what a connection begins with."""
        values = {
            Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            Setting.MAX_FRAME_SIZE: OUR_MAX_FRAME_BYTES,
            Setting.MAX_HEADER_LIST_SIZE: MAX_BLOCK_BYTES,
        }
        if self._client:
            values[Setting.ENABLE_PUSH] = 0
            self.out.append(PREFACE)
        else:
            values[Setting.MAX_CONCURRENT_STREAMS] = MAX_STREAMS
        self.out.append(frames.settings(values))
        self._unanswered = 1
        self.out.append(frames.window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW))
        self.wake()

    # --- hooks of the owner

    def wake(self) -> None:
        """There is something in `out` to send."""
        raise NotImplementedError

    def on_stream(self, number: int, block: bytes, ended: bool) -> None:
        """A server's peer opened a stream with this field block. The owner makes the Stream and puts it into `streams`,
        or refuses it."""
        raise NotImplementedError

    def on_goaway(self, code: int) -> None:
        """The peer takes no new streams; those it did not process have been told."""

    def on_queued(self) -> None:
        """`full` has changed; or it is so, and there is more room to send, or less."""

    def room_for(self, stream: Stream) -> int:
        """How much of what comes for stream now would be sent, and not be queued."""
        return 0 if stream.queue or self.paused else min(stream.send_window, self._send_window)

    def on_capacity(self) -> None:
        """The peer allows more streams than before, or one has ended."""

    # --- what the owner does

    def open(self, stream: Stream) -> None:
        """Take up a stream of the client's; its number is `next_number()`."""
        self.streams[stream.number] = stream

    def next_number(self) -> int:
        number = self._next
        self._next += 2
        return number

    @property
    def used(self) -> bool:
        """Whether a stream has been opened before."""
        return self._next > 2

    @property
    def exhausted(self) -> bool:
        """No further stream may be opened: the numbers are used up (RFC 9113, section 5.1.1)."""
        return self._next > self.LAST_NUMBER

    def send_headers(self, stream: Stream, block: bytes, ended: bool) -> None:
        """See `Stream.send_headers`."""
        if stream.local_ended:
            return
        if stream.queue:
            assert ended  # a head goes first, so what comes behind content is trailers
            stream.tail = block
            return
        if not self.out:
            self.wake()
        if self._resize:
            block, self._resize = self._resize + block, b""
        self.out.append(frames.headers(stream.number, block, ended, self.peer_max_frame))
        if ended:
            self._end_local(stream)

    def send_data(self, stream: Stream, data: bytes, ended: bool) -> None:
        """See `Stream.send_data`."""
        size = len(data)
        if stream.local_ended or stream.tail is not None or not (size or ended):
            return
        if (
            stream.queue
            or size > stream.send_window
            or size > self._send_window
            or size > self.peer_max_frame
            or self.paused
        ):
            self._send_some(stream, data, ended)
            return
        if not self.out:
            self.wake()
        stream.send_window -= size
        self._send_window -= size
        if size < LARGE_BYTES:
            self.out.append(frames.frame(DATA, END_STREAM if ended else 0, stream.number, data))
        else:
            self._send_large(stream.number, data, ended)
        if ended:
            self._end_local(stream)

    def _send_large(self, number: int, data: bytes | memoryview, ended: bool) -> None:
        self.large = True
        self.out.append(frames.header(DATA, END_STREAM if ended else 0, number, len(data)))
        self.out.append(data)

    def _send_some(self, stream: Stream, data: bytes, ended: bool) -> None:
        """Send what the windows allow, in frames of the peer's size, and queue the rest."""
        waited = bool(stream.queue)
        if data:
            stream.queue.append(data)
            self.queued += len(data)
        if ended:
            stream.tail = b""
        if not waited:
            self._drain(stream)
            if stream.queue:
                self._waiting[stream] = None
                stream.on_full()
        more = bool(stream.queue) and not waited  # what room there was on the connection may be used up with this
        if more or not self.full:
            self.full = self.full or self.queued > MAX_QUEUED_BYTES
            if self.full:
                self.on_queued()

    def _took(self, count: int) -> None:
        """So many bytes wait no longer."""
        self.queued -= count
        if self.full and self.queued < FEW_QUEUED_BYTES:
            self.full = False
            self.on_queued()

    def _drain(self, stream: Stream) -> None:
        if not self.out:
            self.wake()
        queue = stream.queue
        while queue and not self.paused:
            room = min(stream.send_window, self._send_window, self.peer_max_frame)
            if room <= 0:
                return
            data = queue.popleft()
            if len(data) > room:
                view = memoryview(data)  # not copied: the window may open byte by byte
                queue.appendleft(view[room:])
                data = view[:room]
            stream.send_window -= len(data)
            self._send_window -= len(data)
            stream.left = True
            self._took(len(data))
            last = not queue and stream.tail == b""
            self._send_large(stream.number, data, last)
            if last:
                self._end_local(stream)
                return
        if stream.tail is not None and not queue:
            if stream.tail:
                self.send_headers(stream, stream.tail, True)
            else:
                self.out.append(frames.frame(DATA, END_STREAM, stream.number))
                self._end_local(stream)

    def _resume(self) -> None:
        """Windows have opened: send what waits, each stream in its turn."""
        for stream in tuple(self._waiting):
            if self._send_window <= 0 or self.paused:
                return
            self._resume_one(stream)

    def _resume_one(self, stream: Stream) -> None:
        del self._waiting[stream]
        self._drain(stream)
        if stream.queue:
            self._waiting[stream] = None  # behind the others
        else:
            stream.on_room()

    def pause(self) -> None:
        """The transport takes no more for now: content waits, as if the windows were used up."""
        self.paused = True

    def unpause(self) -> None:
        """The transport takes more."""
        self.paused = False
        self._resume()
        if self.full:
            self.on_queued()

    def acknowledge(self, stream: Stream) -> None:
        """Let the peer send as much on stream as it has sent, once that is worth a frame."""
        count = stream.unacknowledged
        if count * 2 >= self._window and not stream.held and not stream.remote_ended:
            stream.unacknowledged = 0
            self._send(frames.window_update(stream.number, count))

    def _acknowledge_all(self) -> None:
        """Let the peer send on the connection as much as it has sent, unless too much of it is held."""
        held = sum(stream.unacknowledged for stream in self.streams.values() if stream.held)
        self._fit_windows(held)
        self._withheld = held > MAX_HELD_BYTES
        if not self._withheld:
            self._send(frames.window_update(0, self._unacknowledged))
            self._unacknowledged = 0

    def _fit_windows(self, held: int) -> None:
        """Have streams' windows as small or large as what is held on them says."""
        window = SMALL_WINDOW if held > CROWDED_BYTES else STREAM_WINDOW if held < UNCROWDED_BYTES else self._window
        if window != self._window:
            self._window = window
            self._allowed = max(self._allowed, window)
            self._unanswered += 1
            self._send(frames.settings({Setting.INITIAL_WINDOW_SIZE: window}))

    def made_room(self) -> None:
        """Less is held than before."""
        if self._withheld:
            self._acknowledge_all()

    def reset(self, stream: Stream, code: Code) -> None:
        """See `Stream.reset`."""
        if self.streams.get(stream.number) is stream:
            self._send(frames.rst_stream(stream.number, code))
            self._forget(stream.number)
            self._close(stream)

    def refuse(self, number: int, code: Code) -> None:
        """Reset a stream that was never taken up."""
        self._send(frames.rst_stream(number, code))
        self._forget(number)
        self._count_reset()

    def break_off(self, stream: Stream, code: Code) -> None:
        """Reset stream, on which the peer broke the protocol."""
        self.reset(stream, code)
        self._count_reset()
        stream.on_reset(code, False)

    def _forget(self, number: int) -> None:
        self._forgotten[number] = None
        if len(self._forgotten) > MAX_REMEMBERED:
            del self._forgotten[next(iter(self._forgotten))]

    def _count_reset(self) -> None:
        # Where it opens the streams, to open and reset them costs a peer less than it costs us. A peer that has us
        # reset them instead ("MadeYouReset") does the same.
        self._resets += 1
        if self._resets > MAX_RESETS and not self._client:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "too many streams opened and reset", Bound.RESETS)

    def go_away(self, final: bool) -> None:
        """Take no new streams. Not `final`: those the peer is just opening are still taken (section 6.8)."""
        self.going_away = True
        self._send(frames.goaway(self._highest if final else MAX_WINDOW, Code.NO_ERROR))

    def fail(self, error: ProtocolError) -> None:
        """Say why the connection ends."""
        self.going_away = True
        self._send(frames.goaway(self._highest, error.code, str(error).encode()[:128]))

    def calm(self) -> None:
        """About a second is over: count the peer's idle frames and resets anew."""
        self._idle_frames = 0
        self._resets = 0

    def look(self, now: float) -> None:
        """Tell the streams on which nothing moves, at `now` (seconds), and has not for `STALL_S`."""
        held = 0
        for stream in tuple(self.streams.values()):
            held += stream.unacknowledged if stream.held else 0
            if stream.left or not stream.queue:
                stream.left = False
                stream.shut_since = now
            elif now - stream.shut_since > STALL_S:
                stream.on_shut()
                continue
            if stream.came or stream.held or stream.remote_ended:
                stream.came = False
                stream.quiet_since = now
            elif now - stream.quiet_since > STALL_S:
                stream.on_quiet()
        self._fit_windows(held)

    def _send(self, data: bytes) -> None:
        if not self.out:
            self.wake()
        self.out.append(data)

    def _end_local(self, stream: Stream) -> None:
        stream.local_ended = True
        if stream.remote_ended:
            self._close(stream)

    def _end_remote(self, stream: Stream) -> None:
        stream.remote_ended = True
        if stream.local_ended:
            self._close(stream)

    def _close(self, stream: Stream) -> None:
        stream.local_ended = stream.remote_ended = True
        waited = sum(map(len, stream.queue))
        stream.queue.clear()
        self._waiting.pop(stream, None)
        if self.streams.pop(stream.number, None) is not None and self._client:
            self.on_capacity()
        self.made_room()
        if waited:
            self._took(waited)

    # --- what the peer does

    def receive(self, data: bytes) -> None:
        """Take in bytes. ProtocolError where the connection must end; `fail` then says so to the peer."""
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._need:
                return
            data = bytes(rest)
            rest.clear()
        at, size = 0, len(data)
        if self._preface:
            at = self._read_preface(data)
        if self._left:
            at = self._more_data(data)
        while size - at >= 9:
            high, low, kind, flags, number = read_header(data, at)
            length = high << 8 | low
            if length > (OUR_MAX_FRAME_BYTES if kind == DATA else MAX_BLOCK_BYTES):
                raise ProtocolError(Code.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            start, at = at + 9, at + 9 + length
            if at > size:
                in_pieces = kind == DATA and not flags & PADDED and self._block is None
                if in_pieces and size - start >= LARGE_BYTES:
                    self._begin_data(flags, number & MAX_WINDOW, data[start:], at - size)
                else:
                    self._keep(data[start - 9 :], 9 + (min(length, LARGE_BYTES) if in_pieces else length))
                return
            if kind == DATA and not flags and length:
                at, flags, payload = self._joined(data, start, at, number)
            else:
                payload = data[start:at]
            self._frame(kind, flags, number & MAX_WINDOW, payload)
        if at < size:
            self._keep(data[at:], 9)

    def _read_preface(self, data: bytes) -> int:
        """Where the client's preface ends; the end of data, which is kept, while it has not."""
        if not PREFACE.startswith(data[:24]):
            raise ProtocolError(Code.PROTOCOL_ERROR, "no preface")
        if len(data) < 24:
            self._keep(data, 0)
            return len(data)
        self._preface = False
        return 24

    def _begin_data(self, flags: int, number: int, data: bytes, left: int) -> None:
        """Pass on what has come of a frame, `left` bytes of which have not."""
        self._left, self._left_of = left, (flags, number)
        self._data(flags & ~END_STREAM, number, data)

    def _joined(self, data: bytes, start: int, at: int, number: int) -> tuple[int, int, bytes]:
        """The content of a frame that lies between start and at, with that of the frames of its stream right behind it;
        where they end, and the last one's flags. A stream of small messages often comes so, a frame for each, and where
        one frame ends means nothing (RFC 9113, section 6.1)."""
        flags, size, parts = 0, len(data), None
        while not flags and size - at >= 9:
            high, low, kind, flags, its_number = read_header(data, at)
            length = high << 8 | low
            if (
                kind != DATA
                or its_number != number
                or flags & ~END_STREAM
                or not 0 < length <= OUR_MAX_FRAME_BYTES
                or length > size - at - 9
            ):
                flags = 0
                break
            if parts is None:
                parts = [data[start:at]]
            at += 9 + length
            parts.append(data[at - length : at])
        return at, flags, data[start:at] if parts is None else b"".join(parts)

    def _more_data(self, data: bytes) -> int:
        """Pass on what data has of a frame that has begun; where that ends."""
        flags, number = self._left_of
        size = min(len(data), self._left)
        self._left -= size
        piece = data if size == len(data) else data[:size]
        self._data(flags & ~END_STREAM if self._left else flags, number, piece)
        return size

    def _keep(self, rest: bytes, need: int) -> None:
        self._rest += rest
        self._need = need

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block is not None and (kind != CONTINUATION or number != self._block_stream):
            raise ProtocolError(Code.PROTOCOL_ERROR, "a field block that is interrupted")
        if kind == DATA:
            self._data(flags, number, payload)
        elif kind == HEADERS:
            self._headers(flags, number, payload)
        elif not self.settled and kind != SETTINGS:
            raise ProtocolError(Code.PROTOCOL_ERROR, "a connection that does not begin with SETTINGS")
        elif kind < len(_HANDLERS):
            _HANDLERS[kind](self, flags, number, payload)
        else:
            self._idle()  # an unknown type is ignored (section 4.1)

    def _idle(self, bound: Bound = Bound.FRAMES) -> None:
        self._idle_frames += 1
        if self._idle_frames > MAX_IDLE_FRAMES:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "too many frames that carry nothing", bound)

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        if number == 0:
            raise ProtocolError(Code.PROTOCOL_ERROR, "DATA on stream 0")
        self._unacknowledged += size
        if self._unacknowledged * 2 >= CONNECTION_WINDOW:
            if self._unacknowledged > CONNECTION_WINDOW:
                raise ProtocolError(Code.FLOW_CONTROL_ERROR, "more than the connection's window", Bound.WINDOW)
            if not self._withheld:
                self._acknowledge_all()
        ended = bool(flags & END_STREAM)
        if flags & PADDED:
            payload = _unpadded(payload)
        if not payload and not ended:
            self._idle()
        stream = self.streams.get(number)
        if stream is None or stream.remote_ended:
            self._unknown(number, stream)
            return
        stream.unacknowledged += size
        if stream.unacknowledged > self._allowed:
            self.break_off(stream, Code.FLOW_CONTROL_ERROR)
            return
        stream.came = True
        if ended:
            self._end_remote(stream)
        stream.on_data(payload, ended)
        if not ended:
            self.acknowledge(stream)

    def _unknown(self, number: int, stream: Stream | None) -> None:
        """A frame on a stream that is not open to the peer: idle, ended by it, or given up by us (section 5.1)."""
        if stream is None and self._is_idle(number):
            raise ProtocolError(Code.PROTOCOL_ERROR, "a frame on an idle stream")
        if number in self._forgotten:
            return
        if stream is not None:
            self.break_off(stream, Code.STREAM_CLOSED)
        else:
            raise ProtocolError(Code.STREAM_CLOSED, "a frame on a closed stream")

    def _is_idle(self, number: int) -> bool:
        mine = bool(number & 1) == self._client
        return number >= self._next if mine else number > self._highest

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        if not self.settled:
            raise ProtocolError(Code.PROTOCOL_ERROR, "a connection that does not begin with SETTINGS")
        if number == 0:
            raise ProtocolError(Code.PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & PADDED:
            payload = _unpadded(payload)
        if flags & HAS_PRIORITY:
            if len(payload) < 5:
                raise ProtocolError(Code.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            payload = payload[5:]
        ended = bool(flags & END_STREAM)
        if flags & END_HEADERS:
            self._whole_block(number, payload, ended)
        else:
            self._block = [payload]
            self._block_stream, self._block_ended, self._block_bytes = number, ended, len(payload)

    def _continuation(self, flags: int, number: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise ProtocolError(Code.PROTOCOL_ERROR, "CONTINUATION of nothing")
        block.append(payload)
        self._block_bytes += len(payload)
        if self._block_bytes > MAX_BLOCK_BYTES or len(block) > MAX_CONTINUATIONS:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "a field block that does not end", Bound.CONTINUATION)
        if flags & END_HEADERS:
            self._block = None
            self._whole_block(number, b"".join(block), self._block_ended)

    def _whole_block(self, number: int, block: bytes, ended: bool) -> None:
        stream = self.streams.get(number)
        if stream is not None and not stream.remote_ended:
            if ended:
                self._end_remote(stream)
            stream.on_headers(block, ended)
        elif stream is None and not self._client and number & 1 and number > self._highest:
            self._highest = number
            self.on_stream(number, block, ended)
        else:
            self.on_stray_block(block)
            if self._client and stream is None and number not in self._forgotten and number & 1 == 0:
                raise ProtocolError(Code.PROTOCOL_ERROR, "a stream that the server opened")
            if not self._client and stream is None and number & 1 == 0:
                raise ProtocolError(Code.PROTOCOL_ERROR, "a stream with an even number")
            self._unknown(number, stream)

    def on_stray_block(self, block: bytes) -> None:
        """A field block that belongs to no open stream; the decoder must see it all the same, to stay in step."""

    def _window_update(self, _: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(Code.FRAME_SIZE_ERROR, "a WINDOW_UPDATE that is not 4 bytes")
        increment = int.from_bytes(payload, "big") & MAX_WINDOW
        if number == 0:
            if increment == 0:
                raise ProtocolError(Code.PROTOCOL_ERROR, "a WINDOW_UPDATE of 0")
            shut = self._send_window <= 0  # else those that wait, wait for their own window
            self._send_window += increment
            if self._send_window > MAX_WINDOW:
                raise ProtocolError(Code.FLOW_CONTROL_ERROR, "a connection window beyond 2^31-1", Bound.WINDOW)
            if shut and self._waiting:
                self._resume()
            if self.full and self._send_window - increment < OUR_MAX_FRAME_BYTES <= self._send_window:
                self.on_queued()
            return
        stream = self.streams.get(number)
        if stream is None:
            if self._is_idle(number):
                raise ProtocolError(Code.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
            self._idle()
            return
        stream.send_window += increment
        if increment == 0 or stream.send_window > MAX_WINDOW:
            self.break_off(stream, Code.PROTOCOL_ERROR if increment == 0 else Code.FLOW_CONTROL_ERROR)
        elif stream in self._waiting and self._send_window > 0 and not self.paused:
            self._resume_one(stream)
        elif self.full:
            stream.on_window()

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number != 0:
            raise ProtocolError(Code.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if payload:
                raise ProtocolError(Code.FRAME_SIZE_ERROR, "a SETTINGS acknowledgement with content")
            if not self.settled:
                raise ProtocolError(Code.PROTOCOL_ERROR, "a connection that does not begin with SETTINGS")
            self._unanswered -= 1
            if not self._unanswered:
                self._allowed = self._window
            return
        if len(payload) > 6 * MAX_SETTINGS:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "SETTINGS of too many values", Bound.SETTINGS)
        if len(payload) % 6:
            raise ProtocolError(Code.FRAME_SIZE_ERROR, "SETTINGS that are not of 6 bytes each")
        if self.settled:
            self._idle(Bound.SETTINGS)
        self.settled = True
        self._send(SETTINGS_ACK)  # first: to the peer, what the new values allow is allowed behind it
        before = self.peer_window
        for at in range(0, len(payload), 6):
            name = int.from_bytes(payload[at : at + 2], "big")
            self._setting(name, int.from_bytes(payload[at + 2 : at + 6], "big"))
        if self.peer_window != before:
            self._change_windows(self.peer_window - before)
        self.on_capacity()

    def _change_windows(self, change: int) -> None:
        """The window that streams begin with has changed, and theirs with it: once a frame of SETTINGS."""
        for stream in tuple(self.streams.values()):
            stream.send_window += change
            if stream.send_window > MAX_WINDOW:
                raise ProtocolError(Code.FLOW_CONTROL_ERROR, "a stream's window beyond 2^31-1", Bound.WINDOW)
        if change > 0 and self._waiting:
            self._resume()

    def _setting(self, name: int, value: int) -> None:
        if name == Setting.INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW:
                raise ProtocolError(Code.FLOW_CONTROL_ERROR, "an initial window beyond 2^31-1", Bound.WINDOW)
            self.peer_window = value
        elif name == Setting.MAX_FRAME_SIZE:
            if not MAX_FRAME_BYTES <= value < 1 << 24:
                raise ProtocolError(Code.PROTOCOL_ERROR, f"a maximal frame size of {value}")
            self.peer_max_frame = min(value, 1 << 18)
        elif name == Setting.HEADER_TABLE_SIZE and value < TABLE_BYTES:
            self._resize = NO_TABLE
        elif name == Setting.MAX_CONCURRENT_STREAMS:
            self.peer_max_streams = value
        elif name == Setting.ENABLE_PUSH and value > (0 if self._client else 1):
            raise ProtocolError(Code.PROTOCOL_ERROR, "ENABLE_PUSH that is not allowed")

    def _priority(self, _: int, number: int, payload: bytes) -> None:
        if number == 0:
            raise ProtocolError(Code.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != 5:
            raise ProtocolError(Code.FRAME_SIZE_ERROR, "a PRIORITY that is not 5 bytes")
        self._idle()

    def _push_promise(self, *_: object) -> None:
        raise ProtocolError(Code.PROTOCOL_ERROR, "PUSH_PROMISE, which we do not allow")

    def _rst_stream(self, _: int, number: int, payload: bytes) -> None:
        if number == 0:
            raise ProtocolError(Code.PROTOCOL_ERROR, "RST_STREAM on stream 0")
        if len(payload) != 4:
            raise ProtocolError(Code.FRAME_SIZE_ERROR, "an RST_STREAM that is not 4 bytes")
        stream = self.streams.get(number)
        if stream is None:
            if self._is_idle(number):
                raise ProtocolError(Code.PROTOCOL_ERROR, "RST_STREAM on an idle stream")
            self._idle()
            return
        code = int.from_bytes(payload, "big")
        self._close(stream)
        stream.on_reset(code, code == Code.REFUSED_STREAM)
        self._count_reset()

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        if number != 0:
            raise ProtocolError(Code.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ProtocolError(Code.FRAME_SIZE_ERROR, "a PING that is not 8 bytes")
        if not flags & ACK:
            self._idle(Bound.PING)
            self._send(frames.frame(PING, ACK, 0, payload))

    def _goaway(self, _: int, number: int, payload: bytes) -> None:
        if number != 0:
            raise ProtocolError(Code.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ProtocolError(Code.FRAME_SIZE_ERROR, "a GOAWAY that is too short")
        self._idle()
        last = int.from_bytes(payload[:4], "big") & MAX_WINDOW
        code = int.from_bytes(payload[4:8], "big")
        self.going_away = True
        if self._client:
            for stream in [stream for stream in self.streams.values() if stream.number > last]:
                self._close(stream)
                stream.on_reset(Code.REFUSED_STREAM, True)
        self.on_goaway(code)


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(Code.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]


_HANDLERS: Final = (
    Engine._data, Engine._headers, Engine._priority, Engine._rst_stream, Engine._settings, Engine._push_promise,
    Engine._ping, Engine._goaway, Engine._window_update, Engine._continuation,
)  # fmt: skip
"""By a frame's type, 0 to 9."""
