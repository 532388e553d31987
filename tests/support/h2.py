"""HTTP/2 without sockets: an end on the proxy's engine that records what it is told, and a reader of frames."""

from typing import NamedTuple

from proxy.http2 import frames
from proxy.http2.engine import MAX_STREAMS, Engine, ProtocolError, Stream
from proxy.http2.fields import CompressionError, Field, FieldDecoder, encode
from proxy.http2.frames import HEADER_BYTES, PREFACE, Code, Setting, read_header

REQUEST: list[Field] = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"api"), (b":path", b"/")]
BLOCK = encode(REQUEST)
ANSWER = encode([(b":status", b"200")])


class Frame(NamedTuple):
    """A frame as it was sent."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frames_of(data: bytes) -> list[Frame]:
    """The frames in data, which holds nothing else, but for a preface at its start."""
    data = data.removeprefix(PREFACE)
    found = []
    while data:
        high, low, kind, flags, number = read_header(data)
        end = HEADER_BYTES + (high << 8 | low)
        assert len(data) >= end, "half a frame"
        found.append(Frame(kind, flags, number, data[HEADER_BYTES:end]))
        data = data[end:]
    return found


def settings(**values: int) -> bytes:
    """SETTINGS, each by its name in lower case."""
    return frames.settings({Setting[name.upper()]: value for name, value in values.items()})


class Told(Stream):
    """A stream that records what its owner would be told."""

    __slots__ = ("body", "ended", "full", "heads", "pieces", "reset_with", "unprocessed")

    def __init__(self, engine: Engine, number: int) -> None:
        super().__init__(engine, number)
        self.heads: list[list[Field]] = []
        self.body = bytearray()
        self.pieces: list[bytes] = []
        self.ended = False
        self.full = False
        self.reset_with: int | None = None
        self.unprocessed = False

    def on_headers(self, block: bytes, ended: bool) -> None:
        assert not self.ended
        assert isinstance(self.engine, End)
        self.heads.append(self.engine.fields(block))
        self.ended = ended

    def on_data(self, data: bytes, ended: bool) -> None:
        assert not self.ended
        self.body += data
        self.pieces.append(data)
        self.ended = ended

    def on_reset(self, code: int, unprocessed: bool) -> None:
        assert self.reset_with is None
        self.reset_with, self.unprocessed = code, unprocessed

    def on_full(self) -> None:
        assert not self.full
        self.full = True

    def on_room(self) -> None:
        assert self.full
        self.full = False


class End(Engine):
    """One end of a connection. `told` are all its streams, those that are over too."""

    def __init__(self, client: bool = False) -> None:
        super().__init__(client)
        self.told: dict[int, Told] = {}
        self.gone_away: list[int] = []
        self._decoder = FieldDecoder()
        self._woken = False
        self.begin()

    def fields(self, block: bytes) -> list[Field]:
        try:
            return self._decoder.decode(block)
        except CompressionError as error:
            raise ProtocolError(Code.COMPRESSION_ERROR, str(error)) from error

    def wake(self) -> None:
        self._woken = True

    def on_stream(self, number: int, block: bytes, ended: bool) -> None:
        assert not self._client
        fields = self.fields(block)
        if len(self.streams) >= MAX_STREAMS:
            self.refuse(number, Code.REFUSED_STREAM)
            return
        stream = self.told[number] = Told(self, number)
        stream.heads.append(fields)
        stream.ended = stream.remote_ended = ended
        self.open(stream)

    def on_stray_block(self, block: bytes) -> None:
        self.fields(block)

    def on_goaway(self, code: int) -> None:
        self.gone_away.append(code)

    def ask(self, fields: list[Field] = REQUEST, ended: bool = True) -> Told:
        """A client's new stream."""
        number = self.next_number()
        stream = self.told[number] = Told(self, number)
        self.open(stream)
        stream.send_headers(encode(fields), ended)
        return stream

    def said(self) -> bytes:
        """What is to be sent now. Had it not been woken, it would never be."""
        assert self._woken or not self.out
        self._woken = False
        data = b"".join(self.out)
        self.out.clear()
        return data

    def heard(self) -> list[Frame]:
        """`said`, as frames."""
        return frames_of(self.said())


def server(**values: int) -> End:
    """A server's end whose client has begun, with these settings; nothing is to be sent."""
    end = End()
    end.receive(PREFACE + settings(**values))
    end.said()
    return end


def client(**values: int) -> End:
    """A client's end whose server has begun, with these settings; nothing is to be sent."""
    end = End(client=True)
    end.receive(settings(**values))
    end.said()
    return end


def request(number: int, ended: bool = True, block: bytes = BLOCK) -> bytes:
    """A request on stream number."""
    return frames.headers(number, block, ended)


def data(number: int, content: bytes, ended: bool = False) -> bytes:
    """DATA on stream number, in frames of at most 16 KiB."""
    pieces = [content[at : at + 16384] for at in range(0, len(content), 16384)] or [b""]
    ends = frames.END_STREAM if ended else 0
    out = [frames.frame(frames.DATA, 0, number, piece) for piece in pieces[:-1]]
    return b"".join([*out, frames.frame(frames.DATA, ends, number, pieces[-1])])


def byte_by_byte(end: End, sent: bytes) -> None:
    for at in range(len(sent)):
        end.receive(sent[at : at + 1])
