"""Opaque bytes between two proxies, in records: a 32-bit big-endian length, then as many bytes. Length 0: the end.

TLS closes both directions of a connection at once (no half-close reaches a Python protocol, and many peers' stacks
treat close_notify so), but a TCP client may send its FIN and still wait for the answer. An empty record is that FIN. It
also tells an end from a cut: a connection that closes without one was truncated.

When both directions have ended, a transport header may follow, and the records of another relay; unless the side that
was connected to has said `LAST` before, which stands between records or after the end and is no bytes of anyone's.
"""

from typing import Final

END: Final = b"\0\0\0\0"
LAST: Final = b"\xff\xff\xff\xff"

LARGE_BYTES: Final = 16 << 10
"""As much as one record of TLS holds."""

MAX_PIECES: Final = 4
"""What is in more pieces than these is joined: each is a call to pass on."""

MAX_RECORD_BYTES: Final = 16 << 20
"""Longer than any read of a proxy; a length beyond it is not from one."""


class BadRecord(Exception):
    """The peer's bytes are not records."""


def as_record(data: bytes) -> tuple[bytes, ...]:
    """data, which is not empty, as a record: in one piece, or in two where to copy it would cost more than to send a
    piece more."""
    length = len(data).to_bytes(4, "big")
    return (length + data,) if len(data) < LARGE_BYTES else (length, data)


class RecordReader:
    """One direction's records back into its bytes. `ended` once the empty record has come; `rest` is what came behind
    it, and `last` whether the peer takes no relay after this."""

    __slots__ = ("_left", "ended", "last", "rest")

    def __init__(self) -> None:
        self._left = 0
        self.rest = b""
        self.ended = False
        self.last = False

    def feed(self, data: bytes) -> list[bytes]:
        """The opaque bytes in data, in pieces. BadRecord for an impossible length."""
        if self._left > len(data):  # the usual case under load: the midst of a record
            self._left -= len(data)
            return [data]
        if self.rest:
            data, self.rest = self.rest + data, b""
        payload: list[bytes] = []
        at, end = 0, len(data)
        while at < end:
            if self._left:
                piece = data[at : at + self._left]
                payload.append(piece)
                at += len(piece)
                self._left -= len(piece)
            elif end - at < 4:
                self.rest = data[at:]
                break
            elif data.startswith(LAST, at):
                self.last = True
                at += 4
            elif self.ended:
                self.rest = data[at:]
                break
            else:
                self._left = int.from_bytes(data[at : at + 4], "big")
                if self._left > MAX_RECORD_BYTES:
                    raise BadRecord(f"a record of {self._left} bytes")
                self.ended = self._left == 0
                at += 4
        return payload if len(payload) <= MAX_PIECES else [b"".join(payload)]
