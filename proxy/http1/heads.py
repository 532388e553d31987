r"""Heads of HTTP/1.x messages: bytes of one head in, an immutable value out, or a reason to refuse it.

Strictness is the point. What one server reads as one request and another as two is how requests are smuggled past a
proxy, so of RFC 9112's "MAY be lenient" nothing is used: a line ends with CRLF, a field name touches its colon, no
line is folded, and a message has one framing. What comes through is forwarded byte for byte, less the hop-by-hop
fields (RFC 9110, section 7.6.1), so that it cannot mean anything else further on.

Of those only an Upgrade goes on (RFC 9110, section 7.8), written anew: one that Connection names, of a request that has
no body, and to protocols other than HTTP's own. Any other request goes on without.

    good   GET /x HTTP/1.1\r\nHost: api\r\n\r\n
    bad    GET /x HTTP/1.1\nHost: api\n\n                    bare LF
    bad    POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n

Parsing a head takes some microseconds and callers send the same heads over and over, so `HeadTable` remembers those
it has seen twice. The head in the table and the head parsed anew are the same value: a table can be dropped at any
time.
"""

import re
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from proxy.repeats import Repeats

MAX_HEAD_BYTES: Final = 64 << 10
"""A head beyond this is refused with 431; nginx takes 32 KiB, Envoy 60 KiB."""

MAX_FIELDS: Final = 200

CHUNKED: Final = -1
"""A body's length where it is framed in chunks (RFC 9112, section 7.1)."""
UNTIL_CLOSE: Final = -2
"""A response's length where its body ends with the connection (RFC 9112, section 6.3, rule 8)."""

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}")
TARGET = re.compile(rb"[!-~\x80-\xff]+")
_ABSOLUTE = re.compile(rb"(?i:http)://([^/?#]*)([^#]*)")
AUTHORITY = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
DIGITS = re.compile(rb"[0-9]{1,18}")
_PROTOCOL = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:/[!#$%&'*+\-.^_`|~0-9A-Za-z]+)?")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [\t -~\x80-\xff]*)?")

_FIELD_BYTES = bytes(byte for byte in range(256) if byte == 0x09 or (byte >= 0x20 and byte != 0x7F))
"""What may stand in a field line (RFC 9110, section 5.5): HTAB, SP, VCHAR and obs-text."""

_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"te", b"upgrade", b"transfer-encoding")
)
OURS = frozenset((b"l5d-client-id", b"l5d-proxy-error", b"l5d-proxy-connection", b"l5d-proxy-unsent", b"l5d-upgrade"))
"""Fields that proxies of the mesh vouch for: a request may not bring its own, nor an application's answer."""

_HTTP = frozenset((b"http", b"h2", b"h2c"))
"""Protocols that nothing is switched to: what is HTTP the proxy reads itself. RFC 9113, section 3.1, has taken h2c out
of Upgrade; where it is let through, requests pass in it that no proxy sees."""

_TOLD_APART = _HOP_BY_HOP | OURS | {b"host", b"content-length", b"expect"}
_NOT_NOMINATED = frozenset((b"host", b"content-length", b"transfer-encoding", b"trailer"))
"""Fields that `Connection` may not name: to drop them would change where the message goes or where it ends."""


class BadHead(Exception):
    """A head that is refused. `status` is what its sender is told where it is a request."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


class RequestHead:
    """A request's head.

    `length` is that of its body: 0 where there is none, `CHUNKED` where it is chunked. `authority` is the host and
    port it is for, from an absolute target or else from Host. `forward` is the head as it goes on, without the empty
    line, so that fields can be added; `absolute` tells whether it came in absolute form, as to a forward proxy.
    `plain`: the head is the whole request, and asks for an answer rather than a tunnel. `upgrade`: the protocols it
    asks to go on in, ", " between them; empty where it does not. `h2`: it was made in HTTP/2, and is to arrive so;
    `grpc`: it calls gRPC, and wants its answer in `deadline_s` (0: whenever). `block` is the head as HTTP/2 has it,
    once that was asked for.
    """

    __slots__ = (
        "absolute", "authority", "block", "deadline_s", "expects_continue", "forward", "grpc", "h2", "keep_alive",
        "length", "method", "minor", "plain", "upgrade",
    )  # fmt: skip

    def __init__(
        self, method: bytes, authority: str, minor: int, length: int, keep_alive: bool, expects: bool, absolute: bool,
        forward: bytes, upgrade: bytes = b"",
    ) -> None:  # fmt: skip
        self.method = method
        self.authority = authority
        self.minor = minor
        self.length = length
        self.keep_alive = keep_alive
        self.expects_continue = expects
        self.absolute = absolute
        self.forward = forward
        self.upgrade = upgrade
        self.plain = length == 0 and method != b"CONNECT" and not upgrade
        self.h2 = False
        self.grpc = False
        self.deadline_s = 0.0
        self.block: bytes | None = None


class ResponseHead:
    """A response's head.

    `length` is what its fields say: a count, `CHUNKED` or `UNTIL_CLOSE`; the status overrules it (`usual_length`), and
    the request's method (`body_length`). `forward` is the head as it goes on, without the empty line. `verbatim`:
    nothing was dropped or changed, so the bytes as they came may go on as they are. `unsent`: a proxy of the mesh
    answers that the request never reached the application. `upgrade`: what follows the head is this protocol, and no
    HTTP any more; the status is 101 then, but that of an answer from HTTP/1.1 may be 101 and name none.
    """

    __slots__ = (
        "block", "forward", "keep_alive", "length", "minor", "status", "unsent", "upgrade", "usual_length", "verbatim"
    )  # fmt: skip

    def __init__(
        self, status: int, minor: int, length: int, keep_alive: bool, forward: bytes, verbatim: bool, unsent: bool,
        upgrade: bytes = b"",
    ) -> None:  # fmt: skip
        self.status = status
        self.minor = minor
        self.length = length
        self.usual_length = 0 if status in (204, 304) or status < 200 else length
        self.keep_alive = keep_alive
        self.forward = forward
        self.verbatim = verbatim
        self.unsent = unsent
        self.upgrade = upgrade
        self.block: bytes | None = None

    def switches(self, request: RequestHead) -> bool:
        """Whether the protocol that follows is one that request asked for (RFC 9110, section 7.8)."""
        return bool(self.upgrade) and self.upgrade.lower() in request.upgrade.lower().split(b", ")

    def body_length(self, method: bytes) -> int:
        """The length of the body that follows, as the answer to `method` (RFC 9112, section 6.3, rules 1 and 2)."""
        return 0 if method == b"HEAD" else self.usual_length


class _Fields:
    """The field lines of a head: those that go on, and what the others say about framing and the connection."""

    __slots__ = (
        "authority", "connection", "dropped", "expects", "from_proxy", "kept", "length", "offered", "te_trailers"
    )  # fmt: skip

    def __init__(self, lines: list[bytes], from_proxy: bool = False) -> None:
        self.from_proxy = from_proxy
        self.kept: list[bytes] = []
        self.authority: bytes | None = None
        self.connection: list[bytes] = []
        self.length: int | None = None
        self.expects = False
        self.te_trailers = False
        self.dropped = False
        self.offered: bytes | None = None  # an Upgrade field's value
        if len(lines) > MAX_FIELDS + 1:
            raise BadHead(f"more than {MAX_FIELDS} header fields", 431)
        names = _names
        for line in lines[1:]:
            raw, colon, value = line.partition(b":")
            name = names.get(raw)
            if name is None or not colon:  # what is remembered was seen before a colon
                name = _checked_name(raw, colon)
            if name in _TOLD_APART:
                self._special(name, value.strip(b" \t"), line)
            else:
                self.kept.append(line)
        if self.connection:
            self._drop_nominated()

    def _special(self, name: bytes, value: bytes, line: bytes) -> None:
        if name == b"host":
            if self.authority is not None:
                raise BadHead("more than one Host")
            self.authority = value
            self.kept.append(line)
        elif name == b"content-length":
            if DIGITS.fullmatch(value) is None:
                raise BadHead("Content-Length is not a number")
            self._frame(int(value))
            self.kept.append(line)
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise BadHead("an Expect other than 100-continue", 417)
            self.expects = True
            self.kept.append(line)
        elif name in OURS and self.from_proxy:
            self.kept.append(line)
        else:
            self.dropped = True
            self._for_this_hop(name, value)

    def _for_this_hop(self, name: bytes, value: bytes) -> None:
        if name == b"connection":
            self.connection += [option.strip(b" \t").lower() for option in value.split(b",")]
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked":
                raise BadHead("a Transfer-Encoding other than chunked", 501)
            self._frame(CHUNKED)
        elif name == b"te":
            self.te_trailers = b"trailers" in value.lower()
        elif name == b"upgrade":
            self.offered = value if self.offered is None else b""  # twice: which list would be meant?

    def _frame(self, length: int) -> None:
        if self.length is not None:
            raise BadHead("more than one of Content-Length and Transfer-Encoding")
        self.length = length

    def _drop_nominated(self) -> None:
        """Remove the fields that Connection names as meant for this hop (RFC 9110, section 7.6.1)."""
        nominated = {option for option in self.connection if option not in (b"close", b"keep-alive", b"")}
        if nominated & _NOT_NOMINATED:
            raise BadHead("Connection names a field that frames or routes the message")
        if nominated - _HOP_BY_HOP:
            self.kept = [line for line in self.kept if line.partition(b":")[0].lower() not in nominated]

    def keeps_alive(self, minor: int) -> bool:
        """Whether the connection outlives the message (RFC 9112, section 9.3)."""
        if b"close" in self.connection:
            return False
        return minor == 1 or b"keep-alive" in self.connection

    def upgrade(self, minor: int) -> bytes:
        """The protocols that the message offers or announces, of those that are let through; empty: none."""
        if self.offered is None or minor == 0 or b"upgrade" not in self.connection:
            return b""
        return protocols(self.offered)


def connection_lines(te_trailers: bool, upgrade: bytes) -> list[bytes]:
    """The lines for the next hop alone: what a request accepts of it, and the protocols it offers or announces."""
    lines, options = [], []
    if te_trailers:
        lines.append(b"TE: trailers")
        options.append(b"TE")
    if upgrade:
        lines.append(b"Upgrade: " + upgrade)
        options.append(b"Upgrade")
    return [*lines, b"Connection: " + b", ".join(options)] if options else []


def protocols(value: bytes) -> bytes:
    """The protocols in an Upgrade field's value that may be switched to, with ", " between them; none of a value that
    is malformed."""
    members = [member.strip(b" \t") for member in value.split(b",")]
    if any(_PROTOCOL.fullmatch(member) is None for member in members):
        return b""
    return b", ".join(member for member in members if member.partition(b"/")[0].lower() not in _HTTP)


_names: dict[bytes, bytes] = {}


def _checked_name(raw: bytes, colon: bytes) -> bytes:
    """The field name in lower case; remembered, since fields have few names and many values."""
    if raw[:1] in (b" ", b"\t"):
        raise BadHead("a folded header field")
    if not colon or TOKEN.fullmatch(raw) is None:
        raise BadHead("a header field whose name is not a token")
    if len(_names) >= 1024:
        _names.clear()
    if len(raw) <= 64:
        _names[raw] = raw.lower()
    return raw.lower()


def _lines(head: bytes) -> list[bytes]:
    lines = head.split(b"\r\n")
    if head.translate(None, _FIELD_BYTES) != b"\r\n" * (len(lines) - 1):
        raise BadHead("a control character, bare CR or bare LF in the head")
    return lines


def parse_request(head: bytes) -> RequestHead:
    """The request whose head, up to but without the empty line, is `head`. BadHead with the status to answer."""
    lines = _lines(head)
    parts = lines[0].split(b" ")
    if len(parts) != 3:
        raise BadHead("a request line that is not METHOD TARGET VERSION")
    method, target, version = parts
    if METHOD.fullmatch(method) is None or TARGET.fullmatch(target) is None:
        raise BadHead("a request line that is not METHOD TARGET VERSION")
    if version == b"HTTP/1.1":
        minor = 1
    elif version == b"HTTP/1.0":
        minor = 0
    else:
        raise BadHead("a version other than HTTP/1.1 and HTTP/1.0", 505)
    fields = _Fields(lines)
    if minor == 0 and fields.length == CHUNKED:
        raise BadHead("Transfer-Encoding in HTTP/1.0")
    authority, form, absolute = _route(method, target, fields.authority, minor)
    offers = fields.offered is not None and not fields.length and method != b"CONNECT"
    upgrade = fields.upgrade(minor) if offers else b""
    return RequestHead(
        method,
        authority,
        minor,
        fields.length or 0,
        fields.keeps_alive(minor),
        fields.expects and minor == 1,
        absolute,
        _forwarded_request(head, method, form, authority if absolute else "", fields, minor, upgrade),
        upgrade,
    )


def _route(method: bytes, target: bytes, host: bytes | None, minor: int) -> tuple[str, bytes, bool]:
    """(authority, the target as an origin wants it, whether it came in absolute form): RFC 9112, section 3.2."""
    if host is None and minor == 1:
        raise BadHead("no Host")
    absolute = False
    if method == b"CONNECT":
        authority, form = target, target
        if b":" not in target:
            raise BadHead("a CONNECT to something other than HOST:PORT")
    elif target[:1] == b"/" or (target == b"*" and method == b"OPTIONS"):
        authority, form = host or b"", target
    elif (found := _ABSOLUTE.fullmatch(target)) is not None:
        absolute = True
        authority, form = found[1], found[2]
        if form[:1] != b"/":
            form = b"*" if method == b"OPTIONS" and not form else b"/" + form
    else:
        raise BadHead("a target in none of the forms of RFC 9112, section 3.2")
    if authority and AUTHORITY.fullmatch(authority) is None:
        raise BadHead("a host that is not HOST or HOST:PORT")
    if absolute and not authority:
        raise BadHead("an absolute target without a host")
    if host and AUTHORITY.fullmatch(host) is None:
        raise BadHead("a Host that is not HOST or HOST:PORT")
    return authority.decode("ascii").lower(), form, absolute


def _forwarded_request(
    head: bytes, method: bytes, form: bytes, host: str, fields: _Fields, minor: int, upgrade: bytes
) -> bytes:
    if minor == 1 and not host and not fields.dropped:
        return head + b"\r\n"
    kept = fields.kept
    if host:
        # An absolute target overrules Host, and Host is to say the same (RFC 9112, section 3.2.2).
        kept = [b"Host: " + host.encode("ascii"), *(line for line in kept if line[:5].lower() != b"host:")]
    elif fields.authority is None and method != b"CONNECT":
        kept = [b"Host:", *kept]  # HTTP/1.0 may be without one, HTTP/1.1 may not (RFC 9110, section 7.2)
    if upgrade:
        kept = without_length(kept)  # a length of 0: in HTTP/2 the bytes of the other protocol would contradict it
    lines = [b"%b %b HTTP/1.1" % (method, form), *kept]
    if fields.length == CHUNKED:
        lines.append(b"Transfer-Encoding: chunked")
    lines += connection_lines(fields.te_trailers, upgrade)
    return b"\r\n".join(lines) + b"\r\n"


def without_length(lines: list[bytes]) -> list[bytes]:
    """The lines without one that promises content, where there is none."""
    return [line for line in lines if line[:15].lower() != b"content-length:"]


def parse_response(head: bytes, from_proxy: bool = False) -> ResponseHead:
    """The response whose head, up to but without the empty line, is `head`. BadHead where it is none. What only
    proxies may say goes on where it comes `from_proxy`: where it is our own answer."""
    lines = _lines(head)
    found = _STATUS_LINE.fullmatch(lines[0])
    if found is None:
        raise BadHead("a status line that is not HTTP/1.x STATUS REASON")
    minor, status = int(found[1]), int(found[2])
    fields = _Fields(lines, from_proxy)
    if minor == 0 and fields.length == CHUNKED:
        raise BadHead("Transfer-Encoding in HTTP/1.0")
    if status == 101:
        return _switching(lines[0], fields, minor)
    length = UNTIL_CLOSE if fields.length is None else fields.length
    alive = fields.keeps_alive(minor) and length != UNTIL_CLOSE
    if status in (204, 304) or status < 200:
        alive = fields.keeps_alive(minor)
        if status != 304 and fields.length is not None:  # a caller might wait for what it promises
            fields.dropped, fields.kept = True, without_length(fields.kept)
    verbatim = minor == 1 and not fields.dropped
    forward = (head if verbatim else b"\r\n".join([b"HTTP/1.1 " + lines[0][9:], *fields.kept])) + b"\r\n"
    return ResponseHead(status, minor, length, alive, forward, verbatim, False)


def _switching(status_line: bytes, fields: _Fields, minor: int) -> ResponseHead:
    """A 101. It has no content, whatever it says (RFC 9110, sections 6.4.1 and 8.6)."""
    upgrade = fields.upgrade(minor)
    lines = [b"HTTP/1.1 " + status_line[9:], *without_length(fields.kept), *connection_lines(False, upgrade)]
    return ResponseHead(101, minor, 0, False, b"\r\n".join(lines) + b"\r\n", False, False, upgrade)


def trailer_lines(block: bytes) -> bytes:
    r"""The trailer section (lines without the last CRLF) as it goes on: each line with its CRLF, less the fields that
    frame or route a message and so may not come late (RFC 9110, section 6.5.1). BadHead where it is malformed."""
    if not block:
        return b""
    fields = _lines(block)
    if len(fields) > MAX_FIELDS:
        raise BadHead(f"more than {MAX_FIELDS} trailer fields", 431)
    kept = []
    for line in fields:
        raw, colon, _ = line.partition(b":")
        if _checked_name(raw, colon) not in _TOLD_APART:
            kept.append(line + b"\r\n")
    return b"".join(kept)


class _AnyHead(Protocol): ...


H = TypeVar("H", bound=_AnyHead)


class HeadTable(Generic[H]):
    """Heads seen before, by their bytes; at most `capacity` of them, each of at most `MAX_REMEMBERED_BYTES`.

    A head is kept when it is seen the second time, so that heads that never repeat (a trace id in each) cost the
    table nothing but a hash. The memory of the table is thus under capacity × 3 × MAX_REMEMBERED_BYTES.
    """

    MAX_REMEMBERED_BYTES = 2048

    def __init__(self, parse: Callable[[bytes], H], capacity: int = 1024) -> None:
        self._parse = parse
        self._capacity = capacity
        self._heads: dict[bytes, H] = {}
        self._repeats = Repeats(4 * capacity)
        self.get = self._heads.get
        """The head of these bytes (with the empty line), or None where it is not remembered."""

    def parse(self, head: bytes) -> H:
        """The head of these bytes, which end with the empty line. BadHead as from the parser."""
        parsed = self._parse(head[:-4])
        if len(head) <= self.MAX_REMEMBERED_BYTES and self._repeats.again(head):
            if len(self._heads) >= self._capacity:
                self._heads.clear()
            self._heads[head] = parsed
        return parsed

    def __len__(self) -> int:
        return len(self._heads)
