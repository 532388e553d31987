r"""Fields of HTTP/2 to the heads that exchanges know, and back (RFC 9113, section 8).

A head is kept in the form of HTTP/1.1 (`proxy.http1.heads`): `forward` is what an HTTP/1.1 endpoint gets, so whatever
could be read there as something else is refused here: CR, LF and NUL in a value, a name that is no token, fields that
frame an HTTP/1.1 message or speak of its connection, an `:authority` that a `host` contradicts.

    :method GET, :path /x, :authority api  ↔  GET /x HTTP/1.1\r\nHost: api\r\n

What a head looks like as a block is computed once and kept on it (`request_block`, `response_block`). A request that
was made in HTTP/1.1 says so to the proxy on the far side, in `l5d-orig-proto` as between Linkerd's proxies, so that it
comes out as it went in.

HTTP/2 has no Upgrade and no 101. Between proxies `l5d-upgrade` stands for both, and the stream goes on as the
connection would have:

    GET with Upgrade: websocket      ↔  :method GET, l5d-upgrade: websocket, and no END_STREAM
    101 with Upgrade: websocket      ↔  :status 200, l5d-upgrade: websocket, and no END_STREAM
"""

import re
from typing import Final

from proxy.http1.heads import (
    AUTHORITY,
    CHUNKED,
    DIGITS,
    MAX_FIELDS,
    METHOD,
    OURS,
    TARGET,
    TOKEN,
    UNTIL_CLOSE,
    BadHead,
    RequestHead,
    ResponseHead,
    connection_lines,
    protocols,
)
from proxy.http2.fields import Field, encode
from proxy.repeats import Repeats

_GRPC = re.compile(rb"content-type: application/grpc(?:[+; ]|$)")
"""Not `application/grpc-web`, which has its status in the body."""
_VALUE_BYTES: Final = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
"""What a field value may consist of; at its ends there may be no space (RFC 9113, section 8.2.1)."""
_PSEUDO_REQUEST: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
_FORBIDDEN: Final = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
"""Fields of an HTTP/1.1 connection; in HTTP/2 they make a message malformed (RFC 9113, section 8.2.2)."""

_SPECIAL: Final = frozenset((b"content-length", b"host", b"te", b"cookie", b"l5d-orig-proto", b"l5d-upgrade"))

_WITH_CONTENT: Final = frozenset((b"POST", b"PUT", b"PATCH"))
"""Methods of which content is expected."""

_names: set[bytes] = set()


def _check_name(name: bytes) -> None:
    if TOKEN.fullmatch(name) is None or name != name.lower():
        raise BadHead("a field name that is not a lower-case token")
    if name in _FORBIDDEN:
        raise BadHead(f"{name.decode()} in HTTP/2")
    if len(name) <= 64:
        if len(_names) >= 1024:
            _names.clear()
        _names.add(name)


def _check_count(lines: list[bytes]) -> None:
    """As many fields as in HTTP/1.1, where an endpoint or the next proxy may have to read them. `lines` has a first one
    that is none."""
    if len(lines) > MAX_FIELDS + 1:
        raise BadHead(f"more than {MAX_FIELDS} fields", 431)


class _Fields:
    """The fields of a message: pseudo-fields apart, the others as HTTP/1.1 lines."""

    __slots__ = ("cookies", "host", "length", "lines", "original", "pseudo", "te_trailers", "upgrade")

    def __init__(self, fields: list[Field], known: frozenset[bytes], drop: frozenset[bytes]) -> None:
        self.pseudo: dict[bytes, bytes] = {}
        self.lines: list[bytes] = []
        self.cookies: list[bytes] = []
        self.host: bytes | None = None
        self.length: int | None = None
        self.te_trailers = False
        self.original = b""
        self.upgrade: bytes | None = None
        regular = False
        if b"".join([value for _, value in fields]).translate(None, _VALUE_BYTES):
            raise BadHead("a field value with a control character")
        for name, value in fields:
            if value != value.strip(b" \t"):
                raise BadHead("a field value with space around it")
            if name[:1] == b":":
                if regular or name in self.pseudo or name not in known:
                    raise BadHead("a pseudo-field that is unknown, repeated, or after other fields")
                self.pseudo[name] = value
                continue
            regular = True
            if name not in _names:
                _check_name(name)
            if name in _SPECIAL:
                self._special(name, value)
            elif name not in drop:
                self.lines.append(name + b": " + value)
        if self.cookies:  # RFC 9113, section 8.2.3: one line in HTTP/1.1
            self.lines.append(b"cookie: " + b"; ".join(self.cookies))

    def _special(self, name: bytes, value: bytes) -> None:
        if name == b"content-length":
            if self.length is not None or DIGITS.fullmatch(value) is None:
                raise BadHead("content-length is not a number, or is there twice")
            self.length = int(value)
        elif name == b"host":
            if self.host is not None:
                raise BadHead("more than one host")
            self.host = value
        elif name == b"te":
            if value.lower() != b"trailers":
                raise BadHead("te other than trailers")
            self.te_trailers = True
        elif name == b"cookie":
            if value:  # an empty one would leave space at the end of the line
                self.cookies.append(value)
        elif name == b"l5d-upgrade":
            self.upgrade = value if self.upgrade is None else b""  # twice: then it names nothing
        else:
            self.original = value

    def upgraded(self, from_proxy: bool) -> bytes:
        """The protocols of `l5d-upgrade`, which only proxies may say. BadHead where it makes no sense."""
        if self.upgrade is None or not from_proxy:
            return b""
        upgrade = protocols(self.upgrade)
        if not upgrade or self.length is not None:
            raise BadHead("an l5d-upgrade that names no protocol, or on a message that has content")
        return upgrade


def request(fields: list[Field], ended: bool, from_proxy: bool = False) -> RequestHead:
    """The request these fields are the head of; `ended`: it has no body. An upgrade is believed `from_proxy` alone.
    BadHead with the status to answer."""
    found = _Fields(fields, _PSEUDO_REQUEST, OURS)
    method, path = found.pseudo.get(b":method", b""), found.pseudo.get(b":path", b"")
    authority = found.pseudo.get(b":authority", found.host)
    if METHOD.fullmatch(method) is None:
        raise BadHead("no :method, or one that is no token")
    if method == b"CONNECT":
        raise BadHead("CONNECT in HTTP/2", 501)
    if found.pseudo.get(b":scheme") not in (b"http", b"https"):
        raise BadHead("a :scheme other than http and https")
    if TARGET.fullmatch(path) is None or not (path[:1] == b"/" or (path == b"*" and method == b"OPTIONS")):
        raise BadHead("no :path, or one that is no path")
    if authority is None and found.original:
        authority = b""  # HTTP/1.0 may do without, and an HTTP/1.1 Host may be empty
    elif not authority or AUTHORITY.fullmatch(authority) is None:
        raise BadHead("no :authority, or one that is not HOST or HOST:PORT")
    if found.host is not None and found.host.lower() != authority.lower():
        raise BadHead(":authority and host say different things")
    if ended and found.length:
        raise BadHead("a content-length on a message that has no content")
    upgrade = b"" if ended else found.upgraded(from_proxy)
    length = 0 if ended or upgrade else CHUNKED if found.length is None else found.length
    lines = [b"%b %b HTTP/1.1" % (method, path), b"Host: " + authority, *found.lines]
    if found.length is not None:
        lines.append(b"Content-Length: %d" % found.length)
    elif length == CHUNKED:
        lines.append(b"Transfer-Encoding: chunked")
    lines += connection_lines(found.te_trailers, upgrade)
    _check_count(lines)
    forward = b"\r\n".join(lines) + b"\r\n"
    expected = [line for line in found.lines if line[:7] == b"expect:"]
    if any(line[8:].lower() != b"100-continue" for line in expected):
        raise BadHead("an expect other than 100-continue", 417)
    name = authority.decode("ascii").lower()
    head = RequestHead(method, name, 1, length, True, bool(expected), False, forward, upgrade)
    head.h2 = not found.original
    head.grpc = not upgrade and any(_GRPC.match(line) is not None for line in found.lines)
    head.deadline_s = _deadline(found.lines) if head.grpc else 0.0
    if ended and found.length is None and head.h2 and method in _WITH_CONTENT:
        # RFC 9110, section 8.6: HTTP/1.1 is told that there is none. HTTP/2 sees it, so there it goes on as it came.
        request_block(head)
        head.forward += b"Content-Length: 0\r\n"
    return head


_UNITS_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def _deadline(lines: list[bytes]) -> float:
    """The seconds that `grpc-timeout` gives a call; 0 where it gives none."""
    for line in lines:
        if line[:14] == b"grpc-timeout: ":
            count, unit = line[14:-1], line[-1:]
            if unit in _UNITS_S and len(count) <= 8 and count.isdigit():
                return max(int(count) * _UNITS_S[unit], 1e-3)
    return 0.0


def request_block(head: RequestHead) -> bytes:
    """The block of a request's head."""
    if head.block is None:
        first, *lines = head.forward.split(b"\r\n")[:-1]
        method, path, _ = first.split(b" ")
        pieces = [encode([(b":method", method), (b":scheme", b"http"), (b":path", path)])]
        for line in lines:
            piece = _pieces.get(line)
            if piece is None:
                piece = _piece(line)
            if piece[:1] == _AUTHORITY:
                pieces.insert(1, piece)
            else:
                pieces.append(piece)
        if not head.h2:
            pieces.append(_ORIGINAL)
        head.block = b"".join(pieces)
    return head.block


_AUTHORITY: Final = b"\x01"
"""What the field `:authority` begins with as we encode it, and no other: its place in the static table."""
_ORIGINAL: Final = encode([(b"l5d-orig-proto", b"HTTP/1.1")])

MAX_PIECES: Final = 1024
MAX_PIECE_BYTES: Final = 512

_pieces: dict[bytes, bytes] = {}
_repeated_lines = Repeats(4 * MAX_PIECES)


def _piece(line: bytes) -> bytes:
    """A field line of HTTP/1.1 as its part of a request's block; remembered when it comes again, which most lines do in
    heads that never do."""
    name, _, value = line.partition(b":")
    name, value = name.lower(), value.strip(b" \t")
    if name == b"host":  # an empty one must not be sent (RFC 9113, section 8.3.1)
        piece = encode([(b":authority", value)]) if value else b""
    else:
        piece = b"" if name in _FORBIDDEN else encode([(name, value)])
    if len(line) <= MAX_PIECE_BYTES and _repeated_lines.again(line):
        if len(_pieces) >= MAX_PIECES:
            _pieces.clear()
        _pieces[line] = piece
    return piece


def upgrade_block(head: RequestHead) -> bytes:
    """What goes behind the block of an upgrade's head, to another proxy."""
    return encode([(b"l5d-upgrade", head.upgrade)])


def line_block(lines: bytes) -> bytes:
    """Field lines of HTTP/1.1, each with its CRLF, as a block; it can be joined to another."""
    block = _line_blocks.get(lines)
    if block is None:
        fields = []
        for line in lines.split(b"\r\n")[:-1]:
            name, _, value = line.partition(b":")
            fields.append((name.lower(), value.strip(b" \t")))
        block = encode(fields)
        if len(_line_blocks) >= 1024:
            _line_blocks.clear()
        if len(lines) <= 512:
            _line_blocks[lines] = block
    return block


_line_blocks: dict[bytes, bytes] = {}


def response(fields: list[Field], from_proxy: bool) -> ResponseHead:
    """The response these fields are the head of; what proxies vouch for is believed `from_proxy` alone. BadHead."""
    found = _Fields(fields, frozenset((b":status",)), frozenset() if from_proxy else OURS)
    status = found.pseudo.get(b":status", b"")
    if len(status) != 3 or not status.isdigit() or status < b"100":
        raise BadHead("no :status, or one that is not three digits")
    lines = [b"HTTP/1.1 %b %b" % (status, _REASONS.get(status, b"")), *found.lines]
    if found.length is not None and status[:1] != b"1" and status != b"204":  # which have none (RFC 9110, section 8.6)
        lines.append(b"content-length: %d" % found.length)
    _check_count(lines)
    upgrade = found.upgraded(from_proxy) if status == b"200" else b""
    if upgrade:
        return _switching(lines, upgrade)
    unsent = any(line[:17] == b"l5d-proxy-unsent:" for line in found.lines)
    lines = [line for line in lines if line[:17] != b"l5d-proxy-unsent:"] if unsent else lines
    forward = b"\r\n".join(lines) + b"\r\n"
    length = UNTIL_CLOSE if found.length is None else found.length
    return ResponseHead(int(status), 1, length, True, forward, False, unsent)


def _switching(lines: list[bytes], upgrade: bytes) -> ResponseHead:
    """The 101 that a proxy passes on as a 200."""
    lines = [b"HTTP/1.1 101 Switching Protocols", *lines[1:], *connection_lines(False, upgrade)]
    return ResponseHead(101, 1, 0, False, b"\r\n".join(lines) + b"\r\n", False, False, upgrade)


_REASONS: Final = {
    b"100": b"Continue", b"102": b"Processing", b"103": b"Early Hints",
    b"200": b"OK", b"201": b"Created", b"202": b"Accepted", b"203": b"Non-Authoritative Information",
    b"204": b"No Content", b"205": b"Reset Content", b"206": b"Partial Content", b"207": b"Multi-Status",
    b"208": b"Already Reported", b"226": b"IM Used",
    b"300": b"Multiple Choices", b"301": b"Moved Permanently", b"302": b"Found", b"303": b"See Other",
    b"304": b"Not Modified", b"305": b"Use Proxy", b"307": b"Temporary Redirect", b"308": b"Permanent Redirect",
    b"400": b"Bad Request", b"401": b"Unauthorized", b"402": b"Payment Required", b"403": b"Forbidden",
    b"404": b"Not Found", b"405": b"Method Not Allowed", b"406": b"Not Acceptable",
    b"407": b"Proxy Authentication Required", b"408": b"Request Timeout", b"409": b"Conflict", b"410": b"Gone",
    b"411": b"Length Required", b"412": b"Precondition Failed", b"413": b"Content Too Large", b"414": b"URI Too Long",
    b"415": b"Unsupported Media Type", b"416": b"Range Not Satisfiable", b"417": b"Expectation Failed",
    b"418": b"I'm a teapot", b"421": b"Misdirected Request", b"422": b"Unprocessable Content", b"423": b"Locked",
    b"424": b"Failed Dependency", b"425": b"Too Early", b"426": b"Upgrade Required", b"428": b"Precondition Required",
    b"429": b"Too Many Requests", b"431": b"Request Header Fields Too Large",
    b"451": b"Unavailable For Legal Reasons",
    b"500": b"Internal Server Error", b"501": b"Not Implemented", b"502": b"Bad Gateway",
    b"503": b"Service Unavailable", b"504": b"Gateway Timeout", b"505": b"HTTP Version Not Supported",
    b"506": b"Variant Also Negotiates", b"507": b"Insufficient Storage", b"508": b"Loop Detected",
    b"510": b"Not Extended", b"511": b"Network Authentication Required",
}  # fmt: skip
"""HTTP/2 has no reason phrase. HTTP/1.1 has one that may be empty, which not every client bears: so an answer gets the
registered one (IANA's HTTP Status Code Registry), whatever the application's was."""


def response_block(head: ResponseHead) -> bytes:
    """The block of a response's head."""
    if head.block is None:
        first, *lines = head.forward.split(b"\r\n")[:-1]
        fields = [(b":status", first[9:12])]
        if head.upgrade:
            fields = [(b":status", b"200"), (b"l5d-upgrade", head.upgrade)]
        for line in lines:
            name, _, value = line.partition(b":")
            name = name.lower()
            if name not in _FORBIDDEN:
                fields.append((name, value.strip(b" \t")))
        head.block = encode(fields)
    return head.block


def trailers(fields: list[Field]) -> bytes:
    """A trailer section as HTTP/1.1 lines, less what may not come late. BadHead where it is malformed."""
    found = _Fields(fields, frozenset(), OURS)
    _check_count([b"", *found.lines])
    return b"".join(line + b"\r\n" for line in found.lines)


def grpc_failure(text: str, status: bytes, unsent: bool) -> bytes:
    """The block of an answer of the proxy's own to a gRPC call: a head that is trailers too ("Trailers-Only"). `unsent`
    tells another proxy that the call went nowhere."""
    fields = [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", status),
        (b"grpc-message", text.encode()),
        (b"l5d-proxy-error", text.encode()),
    ]
    if unsent:
        fields.append((b"l5d-proxy-unsent", b"true"))
    return encode(fields)
